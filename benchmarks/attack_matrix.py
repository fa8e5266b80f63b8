"""Hostile run folders through every command: nothing outside may change, and nothing may hang.

    python benchmarks/attack_matrix.py --folders 10000 --seed 0

Each folder is a run of which one to six entries were replaced (see hostile_runs.py). It goes
through ls, show, logs, export, set, stop, resume, the parts of the dashboard that read a run, the
parts of the program that write to one, and rm. Afterwards everything outside of it is compared,
byte for byte, with what was there before. The table counts exit codes, and whatever must not be:
changes outside, tracebacks, signals to this process, and calls that take over a second.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from hostile_runs import Place, mutate, random_mutations, snapshot

LIMIT_SECONDS = 1.0
ALLOWED_EXITS = frozenset({0, 2, 4, 6, 7, 8})
# It ends at once and does nothing, where the real one would begin to train.
PROGRAM = (shutil.which("true") or "true",)


class TooSlow(BaseException):
    """A call took longer than it may."""


@dataclass
class Result:
    """What was seen over all folders.

    Attributes:
        exits: How often each command ended with each code.
        faults: Sentences about what must not be.
        slowest: The most CPU time that a call took, in seconds, and its name.
        patience: Seconds after which a call is ended as one that hangs.
    """

    exits: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    patience: float = 2 * LIMIT_SECONDS
    num_folders: int = 0


@contextlib.contextmanager
def limited(result: Result, name: str) -> Iterator[None]:
    """Note a fault for what takes over a second, or raises, inside the block."""

    def too_slow(_number: int, _frame: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, too_slow)
    signal.setitimer(signal.ITIMER_REAL, result.patience)
    cpu = time.process_time()
    try:
        yield
    except TooSlow:
        result.faults.append(f"{name}: hangs\n{traceback.format_exc()}")
    except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
        result.faults.append(f"{name}:\n{traceback.format_exc()}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        # On a busy machine the clock says little of what works; what waits is ended above.
        seconds = time.process_time() - cpu
        result.slowest = max(result.slowest, (seconds, name))
        if seconds > LIMIT_SECONDS:
            result.faults.append(f"{name}: took {seconds:.1f} s of CPU time")


def commands(path: str) -> list[tuple[str, list[str]]]:
    """Return the command lines that a folder goes through, by name."""
    return [
        ("ls", ["runs", "ls"]),
        ("ls --json", ["runs", "ls", "--json"]),
        ("show", ["runs", "show", path]),
        ("logs", ["runs", "logs", path]),
        ("export", ["export", path, "--out", f"{path}.safetensors", "--yes"]),
        ("set", ["runs", "set", path, "optimizer.lr=1e-4"]),
        ("pause", ["runs", "pause", path]),
        ("stop", ["runs", "stop", path]),
        ("tui", ["tui", "--run", path]),
        ("resume", ["runs", "resume", path]),
        ("rm", ["runs", "rm", path, "--yes"]),
    ]


def call(result: Result, name: str, arguments: Sequence[str]) -> None:
    """Run a command in this process and note how it ended."""
    printed = io.StringIO()
    with limited(result, name), redirect_stdout(printed), redirect_stderr(printed):
        try:
            _command().main(list(arguments), prog_name="loba")
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        result.exits[name, code] += 1
        if code not in ALLOWED_EXITS:
            result.faults.append(f"{name}: exit {code}\n{printed.getvalue()}")
        if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", printed.getvalue()):
            result.faults.append(f"{name}: writes control characters\n{printed.getvalue()!r}")


@functools.cache
def _command() -> Any:
    """Return the `loba` command; typer takes a tenth of a second to put it together."""
    import typer

    from loba_tui.cli import app

    return typer.main.get_command(app)


def read_as_dashboard(place: Place, run_dir: Any) -> None:
    """Read a run as the dashboard's screens do."""
    from loba_tui.client.machine.state import Machine
    from loba_tui.client.notify.notices import NoticeFinder
    from loba_tui.client.runs.summary import RunSummaries
    from loba_tui.core.associate.caches.hub.usage import usage_of
    from loba_tui.core.errors import LobaError
    from loba_tui.screens.monitor.model import MonitorModel, View
    from loba_tui.screens.monitor.strip_cells import open_strip

    RunSummaries(place.ledger).look()
    NoticeFinder(place.ledger).look()
    usage_of(place.ledger)
    model = MonitorModel(run_dir, (), place.state / "cache", Machine())
    try:
        frame = model.look()
        model.charts(["loss"], View(), 60)
        for strip in frame.samples:
            with contextlib.suppress(LobaError):
                open_strip(strip)
    finally:
        model.close()


def write_as_program(run_dir: Any) -> None:
    """Write to a run as the program does, without the examination that comes before."""
    from loba_tui.core.errors import LobaError
    from loba_tui.core.owned_files import OwnedFolder
    from loba_tui.core.plugins import SHIPPED
    from loba_tui.core.program.training.checkpoint import Checkpoint, CheckpointStore
    from loba_tui.core.recipe.load import load_recipe
    from loba_tui.core.run import control
    from loba_tui.core.run.changes import ChangeRecord
    from loba_tui.core.run.writer import RunWriter

    assert isinstance(run_dir.checkpoints, OwnedFolder)

    def each(*steps: Callable[[], object]) -> None:
        for step in steps:
            # An OSError would become the run's own error, with its sentence, in the program.
            with contextlib.suppress(LobaError, OSError):
                step()

    store = CheckpointStore(run_dir.checkpoints)
    each(
        lambda: load_recipe(run_dir.recipe, plugins=SHIPPED),
        lambda: ChangeRecord.read(run_dir.changes),
        lambda: control.discard(run_dir, before=0.0),
        lambda: control.take(run_dir),
        store.tidy,
        store.load_newest,
        lambda: store.save(Checkpoint(step=7, tensors={"adapter": {}})),
        lambda: run_dir.sample_strip(7).replace(b"\x89PNG"),
        lambda: run_dir.adapter.replace(b"adapter", mode=0o666),
        lambda: run_dir.report.replace(b"{}"),
        lambda: run_dir.log.open_to_append(),
    )
    with contextlib.suppress(LobaError), RunWriter.open(run_dir) as writer:
        each(
            lambda: writer.metric(step=8, loss=0.1),
            lambda: writer.event("saved", step=8),
            lambda: writer.status(phase="stopped", step=8, total=9),
            lambda: writer.write_file("steering.json", b"{}"),
        )


def attack(place: Place, result: Result, mutations: Sequence[tuple[str, str]], name: str) -> None:
    """Send one hostile folder through everything, and compare what lies outside of it."""
    run_dir = place.make(name)
    for entry, kind in mutations:
        mutate(place, run_dir, entry, kind)
    before = snapshot(place.outside)
    num_faults = len(result.faults)
    path = str(run_dir.path)
    *several, resume, remove = commands(path)
    for each in several:
        call(result, *each)
    with limited(result, "dashboard"):
        read_as_dashboard(place, run_dir)
    call(result, *resume)
    with limited(result, "program"):
        write_as_program(run_dir)
    call(result, *remove)
    if snapshot(place.outside) != before:
        result.faults.append("files outside of the run were changed")
    result.num_folders += 1
    for number in range(num_faults, len(result.faults)):
        result.faults[number] = f"{mutations}: {result.faults[number]}"
        print(result.faults[number], file=sys.stderr)
    for left in (run_dir.path, Path(f"{path}.safetensors")):
        shutil.rmtree(left, ignore_errors=True)
        left.unlink(missing_ok=True) if not left.is_dir() else None
    place.ledger.path.unlink()


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[Place]:
    """Lend a place whose commands start a program that does nothing."""
    from loba_tui.client.runs import foreground

    # Imported before anything is timed.
    from loba_tui.core.program.training import checkpoint  # noqa: F401
    from loba_tui.screens.monitor import model, strip_cells  # noqa: F401

    place = Place(folder)
    before, starter = dict(os.environ), foreground.Foreground
    os.environ |= {"XDG_STATE_HOME": str(place.state), "HOME": str(place.outside)}
    foreground.Foreground = functools.partial(starter, program=PROGRAM)  # type: ignore[misc]
    try:
        yield place
    finally:
        foreground.Foreground = starter  # type: ignore[misc]
        os.environ.clear()
        os.environ.update(before)


def main() -> int:
    """Attack, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folders", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--patience", type=float, default=2 * LIMIT_SECONDS, help="more on a machine that is busy"
    )
    arguments = parser.parse_args()
    generator, result = random.Random(arguments.seed), Result(patience=arguments.patience)
    begin = time.monotonic()
    signalled: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: signalled.append(number))
    with tempfile.TemporaryDirectory(prefix="attacks-") as folder, prepared(Path(folder)) as place:
        for number in range(arguments.folders):
            attack(place, result, list(random_mutations(generator)), f"run{number}")
            if number % 100 == 99:
                print(f"{number + 1} folders, {len(result.faults)} faults", file=sys.stderr)
    faults = result.faults + ["a signal was sent to this process"] * len(signalled)
    for fault in faults[:20]:
        print(fault)
    print(f"{'command':12}" + "".join(f"{code:>8}" for code in sorted(ALLOWED_EXITS)))
    for name, _ in commands(""):
        counts = (result.exits[name, code] for code in sorted(ALLOWED_EXITS))
        print(f"{name:12}" + "".join(f"{count:8}" for count in counts))
    seconds, slowest = result.slowest
    print(
        f"seed {arguments.seed}: {result.num_folders} folders in {time.monotonic() - begin:.0f} s, "
        f"{len(faults)} faults, slowest call {seconds:.2f} s ({slowest})"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
