"""Is a run that was killed, and resumed, and killed again, the run that was not?

Runs of all optimizers, adapters, schedules and trajectories in turn are killed with SIGKILL, each
several times: at random moments of loading, training, drawing and measuring, at random moments of a
save or an export, and right before or in the middle of one of a save's file operations. Each is
resumed until it is done; then both its adapter files must be those of a run that nobody disturbed,
byte for byte.

Beside the bytes it checks that no resume fails, that none goes on from before a checkpoint which
the run had reported as saved, and that nothing half-written is left behind.

    python benchmarks/kill_matrix.py [--kills 300] [--seed 0] [--kills-a-run 6]

The torch stack is imported once and each run is a fork, so that a kill costs about a second.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from file_faults import FaultyFiles

from loba_tui.core.plugins import KINDS, SHIPPED
from loba_tui.core.program import build, main
from loba_tui.core.program import train as training
from loba_tui.core.program.adapter_files import outputs
from loba_tui.core.program.open_model import OpenModel, open_model, prompts_of
from loba_tui.core.program.training.checkpoint import CheckpointStore
from loba_tui.core.recipe.load import dump_recipe, parse_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir

STEPS = 6
WAYS = ("any moment", "in a save", "file operation")
# What is told through a pipe as it begins (and in upper case as it ends).
SAVING, EXPORTING = b"s", b"e"


@dataclasses.dataclass
class Tally:
    """What the table says."""

    kills: Counter[str] = dataclasses.field(default_factory=Counter)
    runs: int = 0
    late: int = 0
    different: list[str] = dataclasses.field(default_factory=list)
    unresumable: list[str] = dataclasses.field(default_factory=list)
    forgotten: list[str] = dataclasses.field(default_factory=list)
    left_behind: list[str] = dataclasses.field(default_factory=list)
    skipped: int = 0
    seen: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def num_bad(self) -> int:
        return sum(map(len, (self.different, self.unresumable, self.forgotten, self.left_behind)))


def random_recipe(rng: random.Random, number: int, model: Path) -> Recipe:
    """Return a short run; the drop-ins take turns, so that all of them come up."""

    def pick(kind: str) -> str:
        names = [name for name in SHIPPED.names(kind) if name not in _EXCLUDED]
        return names[(number + offsets[kind]) % len(names)]

    offsets = {kind: rng.randrange(100) * len(SHIPPED.names(kind)) for kind in KINDS}
    optimizer = pick("optimizers")
    described = SHIPPED.describe("optimizers", optimizer)
    one_rate = bool(described.constants.get("ONE_LEARNING_RATE"))
    noise = pick("noise")
    return parse_recipe(
        {
            "version": 1,
            "name": "killed",
            "base_model": {"id": str(model), "device": "cpu"},
            "adapter": {
                "name": pick("adapters"),
                "rank": rng.choice([1, 4]),
                "layers": ["cross_attention"],
            },
            "method": {
                "name": "text_slider",
                "trajectories": rng.choice(["rolling", "rolling", "restart"]),
                "rollout_steps": 4,
                "concepts": CONCEPTS,
            },
            "optimizer": {"name": optimizer, "lr": 1.0 if one_rate else 1e-3},
            "scheduler": {
                "model": {"name": pick("model")},
                "layer": {"name": "uniform" if one_rate else rng.choice(_LAYERS)},
                "noise": {"name": noise},
                "timestep": {"name": rng.choice(["uniform", "linear", "exponential"])},
            },
            "loss": {"name": pick("losses")},
            "train": {
                "steps": STEPS,
                "batch_size": 2,
                "gradient_accumulation": rng.choice([1, 1, 2]),
                "seed": number,
                "on_nan": rng.choice(["stop", "rollback"]),
            },
            "save": {"every": rng.choice([1, 2, 3]), "keep": rng.choice([2, 3])},
            "sample": {
                "every": rng.choice([0, 4]),
                "steps": 2,
                "scales": [-1, 1],
                "prompts": ["a red circle"],
            },
            "proof": {"enabled": number % 5 == 0},
        },
        origin="kill_matrix",
        plugins=SHIPPED,
    )


# Flow matching is for models that were trained for it; bitsandbytes is not always installed.
_EXCLUDED = frozenset({"flow_match_euler", *([] if find_spec("bitsandbytes") else ["adamw_8bit"])})
_LAYERS = ("uniform", "uniform", "block_wise_decay")
CONCEPTS = [
    {
        "target": f"a {color} circle",
        "positive": f"a large {color} circle",
        "negative": f"a small {color} circle",
        "preserve": [color],
    }
    for color in ("red", "blue")
]


class Runner:
    """Forks runs that find the torch stack imported and the base model loaded."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._folder = folder
        recipe = random_recipe(random.Random(0), 0, model)
        self._opened = open_model(recipe, prompts=prompts_of(recipe), plugins=SHIPPED)
        for kind in KINDS:  # what is imported here, no fork has to import
            for name in SHIPPED.names(kind):
                make = SHIPPED.load(kind, name)
                if kind == "optimizers" and name not in _EXCLUDED:
                    make([{"params": [torch.nn.Parameter(torch.zeros(2, 2))]}], 1e-3)

    def start(
        self, run_dir: RunDir, *, loads: bool, faults: tuple[str, int] | None = None
    ) -> tuple[int, int]:
        """Start or resume a run.

        Args:
            run_dir: Where.
            loads: Load the model anew, instead of taking what is loaded.
            faults: Die at the n-th file operation of a save or an export ("save"), or of
                everything ("run").

        Returns:
            Process id, and a descriptor that says when saving and exporting begin and end.
        """
        reading, writing = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(reading)
                code = self._in_child(run_dir, writing, loads, faults)
            except BaseException:  # noqa: BLE001 - the child has nobody else to tell
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writing)
        return pid, reading

    def _in_child(
        self, run_dir: RunDir, pipe: int, loads: bool, faults: tuple[str, int] | None
    ) -> int:
        os.environ["XDG_STATE_HOME"] = str(self._folder / "state")
        log = run_dir.log.open_to_append()
        os.dup2(log, 1)
        os.dup2(log, 2)
        scope, at = faults or ("", 0)
        files = FaultyFiles(run_dir.path, at)
        if not loads:
            training.open_model = self._loaded  # type: ignore[attr-defined]
            # The estimate takes as long as the training here, and writes but an event.
            for name in ("announce", "compare"):
                setattr(training.Preflight, name, lambda *_args, **_options: None)

        def told(mark: bytes, work: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                os.write(pipe, mark)
                with files.installed() if scope == "save" else contextlib.nullcontext():
                    result = work(*args, **kwargs)
                os.write(pipe, mark.upper())
                return result

            return call

        CheckpointStore.save = told(SAVING, CheckpointStore.save)  # type: ignore[method-assign]
        outputs.write_adapter = told(EXPORTING, outputs.write_adapter)  # type: ignore[attr-defined]
        with files.installed() if scope == "run" else contextlib.nullcontext():
            return main.main(["--run-dir", str(run_dir.path), "--resume"])

    def _loaded(self, recipe: Recipe, **asked: Any) -> OpenModel:
        for phase in ("loading", "encoding"):
            asked["on_phase"](phase)
        return self._opened

    def finish(self, run_dir: RunDir, *, loads: bool = False) -> int:
        """Run to the end and return the exit code."""
        pid, pipe = self.start(run_dir, loads=loads)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(pipe)
        return code


class Killer:
    """Kills a run once, in one of several ways."""

    def __init__(self, runner: Runner, rng: random.Random, seconds: float) -> None:
        self._runner = runner
        self._rng = rng
        self._seconds = seconds  # that the whole run takes

    def kill_once(self, run_dir: RunDir) -> tuple[str, int]:
        """Resume a run and kill it.

        Returns:
            The phase that it was killed in and 0; or "" and its exit code where it ended before.
        """
        rng = self._rng
        way = rng.choices(WAYS, (45, 30, 25))[0]
        loads = way == "any moment" and rng.random() < 0.25
        faults = None
        if way == "file operation":
            scope = rng.choices(("save", "run"), (75, 25))[0]
            faults = (scope, rng.randrange(1, 100 if scope == "save" else 300))
        pid, pipe = self._runner.start(run_dir, loads=loads, faults=faults)
        marks = b""
        if way == "any moment":
            limit = 2.5 if loads else self._seconds
            _sleep_or_end(pipe, rng.uniform(0, limit))
        elif way == "in a save":
            marks = _wait_for_mark(pipe, rng.randrange(1, 4))
            _spin(rng.uniform(0, 0.03))
        if way != "file operation":
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with open(pipe, "rb") as stream:
            marks += stream.read()
        if code != -signal.SIGKILL:
            return "", code
        return _phase(run_dir, marks), 0


def _sleep_or_end(pipe: int, seconds: float) -> None:
    """Wait; a run that ends earlier closes its end of the pipe, which is left to be read."""
    deadline = time.monotonic() + seconds
    while (rest := deadline - time.monotonic()) > 0:
        poll = select.poll()
        poll.register(pipe, select.POLLHUP)
        if any(event & select.POLLHUP for _, event in poll.poll(min(rest, 0.05) * 1000)):
            return
        time.sleep(min(max(rest, 0), 0.01))


def _wait_for_mark(pipe: int, number: int) -> bytes:
    """Read until the so many-th save or export begins, or the run ends."""
    marks = b""
    while sum(marks.count(mark) for mark in (SAVING, EXPORTING)) < number:
        mark = os.read(pipe, 1)
        if not mark:
            break
        marks += mark
    return marks


def _spin(seconds: float) -> None:
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        pass


def _phase(run_dir: RunDir, marks: bytes) -> str:
    """Return what a killed run was doing."""
    if marks.endswith(SAVING):
        return "saving"
    if marks.endswith(EXPORTING):
        return "exporting"
    with contextlib.suppress(OSError, ValueError):
        return str(json.loads(run_dir.status.path.read_bytes())["phase"])
    return "starting"


def _new_run(recipe: Recipe, folder: Path) -> RunDir:
    run_dir = RunDir.create(folder, recipe.name)
    run_dir.recipe.path.write_text(dump_recipe(recipe))
    return run_dir


def _sums(run_dir: RunDir) -> tuple[str, ...]:
    # Not every kind of adapter has a kohya form; one that lacks it must lack it in both runs.
    files = [file.path for file in (run_dir.adapter, run_dir.adapter_kohya) if file.is_there()]
    return tuple(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files)


def _events(run_dir: RunDir) -> Iterator[Mapping[str, Any]]:
    if run_dir.events.path.exists():
        for line in run_dir.events.path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def _forgotten(run_dir: RunDir) -> str:
    """Return what was reported as saved and not resumed from; "" where nothing is."""
    saved = 0
    for event in _events(run_dir):
        if event["event"] == "saved":
            saved = event["step"]
        elif event["event"] == "resumed":
            if event["step"] < saved:
                return f"step {saved} was saved, and step {event['step']} resumed"
            saved = event["step"]
    return ""


def _left_behind(run_dir: RunDir) -> list[str]:
    return [
        str(path.relative_to(run_dir.path))
        for path in run_dir.path.rglob(".*")
        if path != run_dir.marker.path and run_dir.control.path not in path.parents
    ]


def lineage(
    runner: Runner, recipe: Recipe, rng: random.Random, folder: Path, tally: Tally, kills: int
) -> None:
    """Run a recipe undisturbed, and then again with so many kills; note what came of it."""
    about = (
        f"{recipe.optimizer.name}, {recipe.adapter.name}, {recipe.scheduler.noise.name},"
        f" {recipe.method.options['trajectories']}, seed {recipe.train.seed}"
    )
    unbroken = _new_run(recipe, folder)
    begin = time.monotonic()
    code = runner.finish(unbroken)
    seconds = time.monotonic() - begin
    if code != 0:
        last = [event.get("message") for event in _events(unbroken)][-1]
        tally.unresumable.append(f"{about}: undisturbed it ends with {code}: {last}")
        return
    run_dir = _new_run(recipe, folder)
    killer = Killer(runner, rng, seconds)
    code = -signal.SIGKILL
    for _ in range(kills):
        phase, code = killer.kill_once(run_dir)
        if phase:
            tally.kills[phase] += 1
            continue
        tally.late += 1
        if code != 0 or rng.random() < 0.7:  # what is done can be resumed, and killed, too
            break
    if code == 0:
        code = runner.finish(run_dir, loads=rng.random() < 0.1)
    tally.runs += 1
    tally.skipped += sum(
        event["event"] == "warning" and "skipped checkpoint" in event["message"]
        for event in _events(run_dir)
    )
    for kind in ("optimizer", "adapter", "loss"):
        tally.seen[f"{kind} {getattr(recipe, kind).name}"] += 1
    for kind in ("model", "layer", "noise", "timestep"):
        tally.seen[f"{kind} {getattr(recipe.scheduler, kind).name}"] += 1
    if code != 0:
        last = [event.get("message") for event in _events(run_dir)][-1]
        tally.unresumable.append(f"{about}: exit {code}: {last}")
        return
    if _sums(run_dir) != _sums(unbroken):
        tally.different.append(about)
    if forgotten := _forgotten(run_dir):
        tally.forgotten.append(f"{about}: {forgotten}")
    tally.left_behind += [f"{about}: {name}" for name in _left_behind(run_dir)]
    shutil.rmtree(unbroken.path)
    shutil.rmtree(run_dir.path)


def matrix(
    *, kills: int, seed: int, kills_a_run: int, folder: Path, out: Callable[[str], None]
) -> Tally:
    """Kill runs until so many kills are done."""
    torch.set_num_threads(1)
    model = folder / "model"
    shutil.copytree(Path(build.__file__).parents[2] / "models" / "shapes-xl", model)
    runner = Runner(model, folder)
    tally = Tally()
    begin = time.monotonic()
    number = 0
    while tally.kills.total() < kills and tally.num_bad < 20:
        rng = random.Random(f"{seed} {number}")
        wanted = min(kills_a_run, kills - tally.kills.total())
        lineage(runner, random_recipe(rng, seed + number, model), rng, folder, tally, wanted)
        number += 1
        if number % 10 == 0:
            seconds = time.monotonic() - begin
            out(f"{tally.kills.total()} kills, {tally.num_bad} bad, {seconds:.0f} s")
    return tally


def show(tally: Tally, out: Callable[[str], None]) -> None:
    """Print the table."""
    out(f"{'killed while':16} kills")
    for phase, count in tally.kills.most_common():
        out(f"{phase:16} {count:5}")
    out(f"{'in all':16} {tally.kills.total():5}  in {tally.runs} runs")
    out(f"ended before the kill      {tally.late:5}")
    out(f"different                  {len(tally.different):5}")
    out(f"unresumable                {len(tally.unresumable):5}")
    out(f"saved steps forgotten      {len(tally.forgotten):5}")
    out(f"left behind                {len(tally.left_behind):5}")
    out(f"skipped checkpoints        {tally.skipped:5}")
    out("seen: " + ", ".join(f"{name} {count}" for name, count in sorted(tally.seen.items())))
    for kind in ("different", "unresumable", "forgotten", "left_behind"):
        for line in getattr(tally, kind):
            out(f"{kind}: {line}")


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills-a-run", type=int, default=6)
    parser.add_argument("--keep", action="store_true", help="keep the folders of bad runs")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="loba-kills-"))
    tally = matrix(
        kills=arguments.kills,
        seed=arguments.seed,
        kills_a_run=arguments.kills_a_run,
        folder=folder,
        out=lambda line: print(line, flush=True),
    )
    show(tally, print)
    if arguments.keep:
        print(folder)
    else:
        shutil.rmtree(folder)
    return 1 if tally.num_bad else 0


if __name__ == "__main__":
    sys.exit(_main())
