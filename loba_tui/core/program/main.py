"""The program's entry: train a run directory, serve a request, or take the specification's flags.

    python -m loba_tui.core.program.main --run-dir DIR [--resume [--set KEY=JSON]]
    python -m loba_tui.core.program.main --recipe FILE [--out_dir DIR]
    python -m loba_tui.core.program.main --request FILE
    python -m loba_tui.core.program.main --plans
    python -m loba_tui.core.program.main --pretrained_model ID --optimizer adamw --lr 1e-4 \
        --scheduler cosine --noise_scheduler ddim --iterations 1000 --batch_size 2 \
        --out_dir ./output

The third form is what `loba sample` and `loba eval` start, the fourth answers the dashboard's
editor, line by line, as long as that is there. Progress is data in the run directory;
only the flag-style forms, which have no terminal process beside them, also write to the console.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from loba_tui.core.errors import (
    ExitCode,
    LobaError,
    PeerLost,
    RecipeError,
    ResourceError,
    Stopped,
)
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.output import RecordHandler, start_log
from loba_tui.core.plugins import Plugins
from loba_tui.core.plugins.loading import as_plugin_error
from loba_tui.core.program.peers.errors import is_peer_error, unknown_peer_lost
from loba_tui.core.program.peers.launcher import Place
from loba_tui.core.program.peers.records import note_failure
from loba_tui.core.program.quick_imports import without_collections
from loba_tui.core.program.steering.stop_flag import StopFlag
from loba_tui.core.recipe.load import dump_recipe, load_recipe, parse_recipe
from loba_tui.core.recipe.migrate.flags import V0_FLAGS, Flag, migrate_flags
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.redact import Redactor
from loba_tui.core.run import control, disk
from loba_tui.core.run.deadline import Deadline
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.launch import Request
from loba_tui.core.run.start_options import StartOptions
from loba_tui.core.run.writer import NullWriter, Records, RunWriter
from loba_tui.core.text import clean
from loba_tui.core.user_folders import tensors_folder

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    logging.basicConfig(level=logging.INFO, handlers=[RecordHandler()])
    arguments = _parser().parse_args(argv)
    # Remote code is never run, whatever a model folder says; and cuBLAS is told to be reproducible.
    os.environ["DIFFUSERS_DISABLE_REMOTE_CODE"] = "1"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # It warns about torchvision, which nothing here needs, on every start.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    plugins = Plugins.of_user(os.environ)
    try:
        if arguments.request is not None:
            return _serve(Request.read(arguments.request), plugins)
        if arguments.plans:
            with without_collections():
                from loba_tui.core.program.serving.plan_server import serve_plans

            return serve_plans(plugins)
        # A launcher says which of its processes this is.
        place = Place.of(os.environ)
        start = StartOptions(
            local_rank=place.local_rank,
            deadline=None if arguments.deadline is None else Deadline.parse(arguments.deadline),
            force=arguments.force,
            tensors=tensors_folder(os.environ),
        )
        run_dir = None
        if arguments.run_dir is not None:
            if arguments.join is not None and place.rank > 0:
                recipe = load_recipe(Path(arguments.join), plugins=plugins)
            else:
                run_dir = RunDir.open(arguments.run_dir)
                run_dir.require_safe()
                recipe = load_recipe(run_dir.recipe, plugins=plugins)
            start = replace(
                start,
                resume=arguments.resume,
                allow_inexact=arguments.allow_inexact,
                changes=tuple(_change(each) for each in arguments.set),
            )
        else:
            recipe, parent = _recipe_of(arguments, plugins)
            if place.rank == 0:  # the others are told the folder by the first process
                run_dir = _new_run(recipe, parent)
                sys.stderr.write(f"run directory: {run_dir.path}\n")
        return _run(recipe, run_dir if place.rank == 0 else None, start, plugins)
    except PeerLost as error:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        # What is left of the group aborts the process when the interpreter ends.
        os._exit(error.exit_code)
    except LobaError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loba_tui.core.program.main",
        description="Train an adapter. `loba run RECIPE` is the comfortable way to start this.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--run-dir", metavar="DIR", help="train the run folder that `loba run` made"
    )
    parser.add_argument(
        "--join",
        metavar="FILE",
        help="take part in the run of a folder that this host may lack; FILE is its recipe",
    )
    parser.add_argument("--resume", action="store_true", help="go on from its newest checkpoint")
    parser.add_argument(
        "--deadline", metavar="WHEN", help="save and stop by then: 2h, 07:30 or an ISO time"
    )
    parser.add_argument(
        "--force", action="store_true", help="start although the estimate says it cannot fit"
    )
    parser.add_argument(
        "--allow-inexact", action="store_true", help="resume what another machine has saved"
    )
    parser.add_argument(
        "--set",
        metavar="KEY=JSON",
        action="append",
        default=[],
        help="change a setting before a resumed run goes on",
    )
    parser.add_argument("--request", metavar="FILE", help="sample or evaluate, as the file says")
    parser.add_argument(
        "--plans", action="store_true", help="answer recipes on stdin with what they come to"
    )
    parser.add_argument("--recipe", metavar="FILE", help="train a recipe file")
    for name, flag in V0_FLAGS.items():
        action = "append" if flag.type is list else "store"
        parser.add_argument(f"--{name}", metavar=name.upper(), action=action, help=flag.help)
    return parser


def _recipe_of(arguments: argparse.Namespace, plugins: Plugins) -> tuple[Recipe, Path]:
    """Return the recipe of `--recipe` or of the specification's flags, and the parent folder."""
    given = {name: (flag, getattr(arguments, name)) for name, flag in V0_FLAGS.items()}
    flat = {name: _typed(flag, value) for name, (flag, value) in given.items() if value is not None}
    parent = Path(flat.pop("out_dir", "output"))
    if arguments.recipe is not None:
        if flat:
            raise RecipeError(f"--recipe and --{next(iter(flat))} exclude each other")
        return load_recipe(Path(arguments.recipe), plugins=plugins), parent
    if "pretrained_model" not in flat:
        raise RecipeError(
            "nothing to train: neither --pretrained_model nor --run-dir, --recipe or --request",
            "Try: loba run recipes/slider.yaml",
        )
    return parse_recipe(migrate_flags(flat), origin="command line", plugins=plugins), parent


def _change(assignment: str) -> tuple[str, Any]:
    """Return the key and the value of a setting that is to change."""
    key, _, text = assignment.partition("=")
    try:
        return key, parse_json(text)
    except ValueError as error:
        raise RecipeError(f"--set {clean(assignment)}: expected KEY=JSON") from error


def _typed(flag: Flag, value: Any) -> Any:
    """Return a flag's text as its type; what is none is left for the recipe's check to report."""
    if flag.type in (int, float):
        with suppress(ValueError):
            return flag.type(value)
    return value


def _new_run(recipe: Recipe, parent: Path) -> RunDir:
    run_dir = RunDir.create(parent, recipe.name, ledger=Ledger.of_user(os.environ))
    run_dir.recipe.replace(dump_recipe(recipe).encode(), sync=True)
    return run_dir


def _run(recipe: Recipe, run_dir: RunDir | None, start: StartOptions, plugins: Plugins) -> int:
    """Train in a run folder; None on processes other than the first, which has the records."""
    lent: AbstractContextManager[Records] = nullcontext(NullWriter())
    if run_dir is not None:
        lent = _records_of(run_dir, plugins)
    with StopFlag() as flag, lent as records:
        if run_dir is not None:
            # Commands can come as soon as the run is launched; older ones were for another program.
            control.discard(run_dir, before=psutil.Process().create_time())
        records.event("started", resume=start.resume, name=recipe.name)
        # The torch stack takes seconds to import; the run is visible before that.
        with without_collections():
            from loba_tui.core.program.train import train

        train(recipe, run_dir, records, flag, start, plugins)
    return ExitCode.DONE


def _serve(request: Request, plugins: Plugins) -> int:
    """Carry out a request, which reports in its own folder as a run does.

    A signal that ends it is raised, so that half-written files are removed.
    """
    with _raised_signals(), _records_of(RunDir(Path(request.out_dir)), plugins) as writer:
        writer.event("started", action=request.action)
        with without_collections():
            from loba_tui.core.program.serving.requests import serve

        serve(request, writer, plugins, tensors=tensors_folder(os.environ))
    return ExitCode.DONE


@contextmanager
def _raised_signals() -> Iterator[None]:
    """Have signals that ask to stop raised as KeyboardInterrupt; their handlers come back after."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _records_of(run_dir: RunDir, plugins: Plugins) -> Iterator[RunWriter]:
    """Lend a run's records, and note in them how it ended; a failure is raised on.

    What is not ours becomes an error of ours where that helps.
    """
    with RunWriter.open(run_dir, Redactor.of(os.environ)) as writer:
        try:
            yield writer
        except BaseException as error:
            ours = as_loba_error(error) or as_plugin_error(error, plugins.user.folder)
            _note_failure(writer, error, ours)
            if ours is None or ours is error:
                raise
            raise ours from error
        writer.event("finished")
        writer.status(phase="finished")


def _note_failure(writer: RunWriter, error: BaseException, ours: LobaError | None) -> None:
    if ours is None:
        ours = LobaError(
            f"{type(error).__name__}: {error}",
            "This is a bug of LOBA-Trainer; log.txt has more.",
        )
    note_failure(writer, ours, cause=error)


def as_loba_error(error: BaseException) -> LobaError | None:
    """Return the error in our words: an out-of-memory is the user's to act on, not a bug."""
    if isinstance(error, LobaError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Stopped("Stopped before it was done; what was half-written is removed.")
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return ResourceError(
            f"out of memory: {error}".split("\n", maxsplit=1)[0],
            "Take a smaller sample.batch_size, or another device.",
        )
    if is_peer_error(error):
        return unknown_peer_lost(error)
    trouble = disk.trouble_of(error)
    if trouble is not None:
        return ResourceError(
            f"the disk does not take it: {trouble}",
            "Free some space, and go on with: loba run --resume RUN",
        )
    return None


def keep_private() -> None:
    """Make this process's files the user's own, and keep secrets out of all that it prints."""
    os.umask(0o077)
    start_log(os.environ)


if __name__ == "__main__":
    # Started as a file, Python puts this folder first, where our names shadow packages (requests).
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).parent]
    keep_private()
    sys.exit(main())
