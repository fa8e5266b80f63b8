"""What `loba run`, `sample` and `eval` do: prepare a folder, start the program, tell the result."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import Popen
from typing import Any, Literal, TypeVar

from loba_tui.client.notify import watcher as watching
from loba_tui.client.runs.follow import Follower, shorten
from loba_tui.client.runs.progress import open_screen
from loba_tui.core.errors import CorruptError, RecipeError, RefusedError, ResourceError
from loba_tui.core.files import PRIVATE_DIR_MODE, write_atomically
from loba_tui.core.plugins.sources import SHIPPED, PluginSources
from loba_tui.core.recipe import shipped
from loba_tui.core.run import launch, owner
from loba_tui.core.run.deadline import Deadline
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.records import Event
from loba_tui.core.text import clean, nearest, quote

Number = TypeVar("Number", int, float)

UNSAFE_SUFFIXES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})


@dataclass(frozen=True)
class Foreground:
    """What a foreground command takes from its surroundings.

    Args:
        environ: The environment of this process.
        program: The command that is started; tests put a stand-in here.
    """

    environ: Mapping[str, str]
    program: Sequence[str] = launch.PROGRAM

    def run(self, run_dir: RunDir, argv_extra: Sequence[str] = ()) -> list[Event]:
        """Start the program on a run folder, stay until it ends, and return its events.

        Raises:
            LobaError: It did not finish; carries its message and exit code.
        """
        watching.ensure(self.environ)
        return self._stay(
            run_dir, lambda: launch.launch(run_dir, argv_extra=argv_extra, program=self.program)
        )

    def detach(self, run_dir: RunDir, argv_extra: Sequence[str] = ()) -> None:
        """Start the program on a run folder and leave it to itself."""
        watching.ensure(self.environ)
        launch.launch(run_dir, argv_extra=argv_extra, program=self.program)

    def enqueue(self, run_dir: RunDir, argv_extra: Sequence[str] = ()) -> None:
        """Put a run into the queue, and see to it that somebody minds the queue."""
        from loba_tui.core.recipe.load import read_recipe_text
        from loba_tui.core.run.queue import Queue

        if owner.is_held(run_dir.lock):
            raise owner.in_use(run_dir.lock)
        device = re.search(r"^ +device: (\S+)$", read_recipe_text(run_dir.recipe), re.MULTILINE)
        watching.ensure(self.environ)
        queue = Queue.of_user(self.environ)
        queue.add(
            run_dir,
            argv_extra=argv_extra,
            device=device.group(1) if device else "auto",
            environ=self.environ,
        )
        queue.start_supervisor(program=self.program)

    def ask(
        self,
        action: Literal["sample", "eval"],
        adapter: Path | None,
        prompts: Sequence[str],
        scales: str,
        seeds: str,
        out: Path | None,
        several: Sequence[str] = (),
        recipe: Path | None = None,
    ) -> list[str]:
        """Have an adapter drawn or measured and return the lines that tell the result.

        Args:
            action: What is wanted.
            adapter: A run folder or a file; None where several are given.
            prompts: None given takes the recipe's.
            scales: A list such as -2,0,2; empty takes the recipe's, or 0 and 1 for several.
            seeds: A list; empty takes the recipe's.
            out: Where the results go.
            several: ADAPTER@SCALE each.
            recipe: A recipe file that says model, prompts and measure; None takes the adapter's.

        Raises:
            LobaError: The request cannot be made, or the program did not finish.
        """
        given_scales = tuple(numbers("--scales", scales, float, -20.0, 20.0))
        if given_scales and not any(given_scales):
            raise RecipeError(
                "--scales: at scale 0 an adapter does nothing, so there is nothing to see.",
                "Give at least one other scale, as in --scales -2,0,2",
            )
        parts: list[tuple[str, float]] = []
        if adapter is None:
            from loba_tui.client.runs.adapter_list import resolve_parts

            parts, run = resolve_parts(several, option="--adapter")
            file, given_scales = Path(parts[0][0]), given_scales or (0.0, 1.0)
        else:
            file, run_dir = resolve_adapter(adapter)
            run = str(run_dir.path) if run_dir else None
        wanted = launch.Request(
            action=action,
            adapter=str(file),
            run=run,
            out_dir="",
            recipe=None if recipe is None else str(recipe.absolute()),
            several=tuple(parts),
            prompts=tuple(prompts),
            scales=given_scales,
            seeds=tuple(numbers("--seeds", seeds, int, 0, 2**63 - 1)),
        )
        folder, wanted = prepare_request(wanted, out)
        return result_lines(folder, self.request(folder, wanted))

    def request(self, folder: RunDir, wanted: launch.Request) -> list[Event]:
        """Start the program on a request, stay until it ends, and return its events.

        Raises:
            LobaError: It did not finish; carries its message and exit code.
        """
        return self._stay(folder, lambda: launch.request(folder, wanted, program=self.program))

    def _stay(self, run_dir: RunDir, start: Callable[[], Popen[bytes]]) -> list[Event]:
        reader = RunReader(run_dir)
        # What an earlier program recorded in the same folder is not this one's doing.
        reader.skip_to_end()
        process = start()
        screen = open_screen(sys.stderr, terminal_name=self.environ.get("TERM", ""))
        follower = Follower(reader, process, screen)
        failure = follower.failure(follower.wait())
        if failure is not None:
            raise failure
        return follower.events


def numbers(
    option: str, text: str, kind: Callable[[str], Number], least: Number, most: Number
) -> list[Number]:
    """Return the numbers of a list such as `-2,0,2`.

    Raises:
        RecipeError: One of them is not a number of that kind in the range.
    """
    values = []
    for word in text.replace(",", " ").split():
        try:
            value = kind(word)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise RecipeError(
                f"{option}: {quote(word)} is not a number from {least} to {most}.",
                f"Write the list as in {option} {'-2,0,2' if least < 0 else '0,1'}",
            )
        values.append(value)
    return values


def find_recipe(wanted: Path | None) -> tuple[Path, bool]:
    """Return the recipe file, and whether it is a shipped one that stands in for a missing file.

    Raises:
        RecipeError: There is no such file and no shipped recipe of that name.
    """
    if wanted is None:
        raise RecipeError(
            "No recipe is given.",
            f"Try: loba run {' or loba run '.join(shipped.names()[:3]) or 'FILE.yaml'}",
        )
    if wanted.exists():
        return wanted, False
    found = shipped.find(wanted)
    if found is not None:
        return found, True
    names = shipped.names()
    meant = nearest(wanted.stem, names)
    raise RecipeError(
        f"{wanted}: there is no such recipe.",
        f"Did you mean {meant}?" if meant else f"Shipped recipes: {', '.join(names)}.",
    )


def refuse_with_resume(recipe: Path | None, overrides: Sequence[str] | None) -> None:
    """Raise RecipeError where `--resume` comes with what only a new run can take."""
    if recipe is not None or overrides:
        what = "a recipe" if recipe is not None else "--set"
        raise RecipeError(
            f"--resume goes on with the run's own recipe.yaml, so {what} cannot be given with it.",
            "Start a new run instead, or leave it out.",
        )


def extra_arguments(resume: bool, deadline: str | None) -> list[str]:
    """Return the program's arguments; a deadline that cannot be met is refused at once."""
    extra = ["--resume"] if resume else []
    if deadline is not None:
        Deadline.parse(deadline)
        extra += ["--deadline", deadline]
    return extra


def prepare_run(
    recipe: Path,
    overrides: Sequence[str],
    out_dir: Path,
    ledger: Ledger,
    sources: PluginSources = SHIPPED,
    *,
    origin: str | None = None,
) -> RunDir:
    """Check a recipe and make the run folder that holds it, resolved.

    Args:
        recipe: The file.
        overrides: Each `key.path=value`.
        out_dir: Where the folder is made.
        ledger: Where it is registered.
        sources: Where the user's own drop-ins lie.
        origin: What the file is called in errors; None is its path.
    """
    from loba_tui.core.recipe.load import dump_recipe, load_recipe

    resolved = load_recipe(recipe, overrides, sources=sources, origin=origin)
    run_dir = RunDir.create(out_dir, resolved.name, ledger=ledger)
    write_atomically(run_dir.recipe, dump_recipe(resolved).encode(), sync=True)
    return run_dir


def resolve_adapter(wanted: Path) -> tuple[Path, RunDir | None]:
    """Return the adapter file meant by a run folder or an adapter file, and the run.

    Raises:
        LobaError: It is neither, it is not finished, or its format is unsafe.
    """
    if wanted.is_dir():
        run_dir = RunDir.open(wanted)
        if not run_dir.adapter.is_file():
            raise CorruptError(
                f"{wanted} holds no finished adapter.",
                f"Continue the run first: loba run --resume {wanted}",
            )
        return run_dir.adapter, run_dir
    if wanted.suffix.lower() in UNSAFE_SUFFIXES:
        raise RefusedError(
            f"{wanted}: files of this kind can run code when they are loaded, so they are refused.",
            "Convert it to .safetensors with a tool that you trust.",
        )
    if not wanted.is_file():
        raise RecipeError(
            f"{wanted}: there is no such run folder or adapter file.",
            "Give the folder that `loba run` printed, or an adapter.safetensors.",
        )
    # A file inside a run folder belongs to that run.
    owner = RunDir(wanted.absolute().parent.parent)
    return wanted.absolute(), owner if owner.recipe.is_file() else None


def prepare_request(wanted: launch.Request, out: Path | None) -> tuple[RunDir, launch.Request]:
    """Make the folder that a request reports to and return it with the completed request."""
    if out is None:
        parent = Path(wanted.run) / "requests" if wanted.run else Path("output")
        folder = RunDir.create(parent, wanted.action)
    else:
        folder = RunDir(out.expanduser().absolute())
        try:
            folder.path.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(
                f"{out} cannot be made: {error.strerror or error}.",
                "Choose a folder that can be written to with --out.",
            ) from error
    return folder, replace(wanted, out_dir=str(folder.path))


def result_lines(run_dir: RunDir, events: Sequence[Event]) -> list[str]:
    """Return where the results of a finished program are, and what the report says of them."""
    found = {"adapter": run_dir.adapter, "for kohya": run_dir.adapter_kohya}
    found["for PEFT"] = run_dir.adapter_peft
    strips = [str(e.data["path"]) for e in events if e.kind == "sampled" and e.data.get("path")]
    newest = strips[-1] if strips else max(map(str, run_dir.samples.glob("*.png")), default=None)
    if newest is not None:
        found["strip"] = run_dir.path / newest
    found["report"], found["picture"] = run_dir.report, run_dir.report_picture
    lines = [f"{label:11}{shorten(path)}" for label, path in found.items() if path.exists()]
    told = [e.data.get("notes") for e in events if e.kind == "exported"][-1:]
    lines += [
        f"{'note':11}{clean(note)}" for notes in told if isinstance(notes, list) for note in notes
    ]
    return lines + verdict_lines(RunReader(run_dir).report())


def verdict_lines(report: Mapping[str, Any] | None) -> list[str]:
    """Return a report's outcome and the sentences that explain it."""
    if report is None:
        return []
    sentences = report.get("verdict")
    lines = [f"  {clean(s)}" for s in sentences] if isinstance(sentences, list) else []
    return [f"{'measured':11}{clean(report.get('outcome', 'unknown'))}", *lines]
