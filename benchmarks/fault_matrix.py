"""Does anything get lost when a file operation of a save fails?

Every file operation of a checkpoint's save, an adapter's export, and of status, metrics, events and
steering record fails once, for every n: with a full disk, an input/output error and SIGKILL, and
with a disk that stays full. A process of its own makes each attempt. Then everything that was there
before must still be there, whole; what was written is the old or the new, never a part; the next
save works; and nothing half-written is left.

    python benchmarks/fault_matrix.py
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import torch
from file_faults import FAULTS, Fault, FaultyFiles

from loba_tui.core import files as durable
from loba_tui.core.errors import ResourceError
from loba_tui.core.file_sources import file_at
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.file import serialize, write_file
from loba_tui.core.program.processes import Processes
from loba_tui.core.program.steering.context import RunContext
from loba_tui.core.program.steering.disk_wait import DiskWait
from loba_tui.core.program.steering.stop import StopRequest
from loba_tui.core.program.training.checkpoint import Checkpoint, CheckpointStore
from loba_tui.core.run.changes import Change, ChangeRecord
from loba_tui.core.run.directory import RunDir, checkpoint_name
from loba_tui.core.run.writer import RunWriter

Outcome = Literal["done", "refused", "killed", "untouched"]
_UNTOUCHED, _REFUSED, _BROKEN = 10, 4, 99


@dataclass(frozen=True)
class Scenario:
    """Something that writes.

    Attributes:
        name: For the table.
        prepare: Makes a folder as it is before.
        act: Writes; runs in a process of its own, with faults.
        check: Given the outcome, raises AssertionError where something was lost.
        faults: Those that it can be put to.
    """

    name: str
    prepare: Callable[[Path], None]
    act: Callable[[Path], None]
    check: Callable[[Path, Outcome], None]
    faults: tuple[Fault, ...] = FAULTS


@dataclass(frozen=True)
class Attempt:
    """One operation that went wrong, and what came of it; `loss` is "" where all is well."""

    scenario: str
    fault: Fault
    at: int
    operation: str
    outcome: Outcome
    loss: str


def attempts(scenario: Scenario, folder: Path) -> Iterator[Attempt]:
    """Yield an attempt for each fault and each operation of a scenario."""
    template = folder / "template"
    template.mkdir()
    scenario.prepare(template)
    place = folder / "place"
    operations = _operations(scenario, template, place)
    for fault in scenario.faults:
        for at, operation in enumerate(operations, start=1):
            shutil.copytree(template, place)
            outcome, trouble = _in_child(scenario, place, at, fault)
            try:
                assert not trouble, trouble
                scenario.check(place, outcome)
                loss = ""
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a loss
                loss = f"{type(error).__name__}: {error}"
            shutil.rmtree(place)
            yield Attempt(scenario.name, fault, at, operation, outcome, loss)


def _operations(scenario: Scenario, template: Path, place: Path) -> list[str]:
    shutil.copytree(template, place)
    with FaultyFiles(place).installed() as files:
        scenario.act(place)
    shutil.rmtree(place)
    return files.log


def _in_child(scenario: Scenario, place: Path, at: int, fault: Fault) -> tuple[Outcome, str]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = _BROKEN
        try:
            with FaultyFiles(place, at, fault).installed() as files:
                scenario.act(place)
            code = 0 if files.has_struck else _UNTOUCHED
        except ResourceError:
            code = _REFUSED
        except BaseException:  # noqa: BLE001 - told to the parent
            os.write(writing, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading) as stream:
        trouble = stream.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return "killed", trouble
    outcomes: dict[int, Outcome] = {0: "done", _UNTOUCHED: "untouched", _REFUSED: "refused"}
    code = os.WEXITSTATUS(status)
    return outcomes.get(code, "done"), trouble or ("" if code in outcomes else f"exit {code}")


def _checkpoint(step: int, flavour: int = 0) -> Checkpoint:
    generator = torch.Generator().manual_seed(100 * flavour + step)
    weights = {name: torch.randn(64, 8, generator=generator) for name in ("a", "b")}
    tensors = {"adapter": weights, "optimizer": {"a::m": weights["a"] * 2}, "method": {}}
    return Checkpoint(step, tensors, {"forwards": step})


def _same(one: Checkpoint | None, other: Checkpoint) -> bool:
    return (
        one is not None
        and one.step == other.step
        and one.state == other.state
        and all(
            torch.equal(tensor, one.tensors[part][name])
            for part, tensors in other.tensors.items()
            for name, tensor in tensors.items()
        )
    )


def _hidden(folder: Path) -> list[str]:
    hidden = (path.name for path in folder.iterdir() if path.name.startswith("."))
    return sorted(name for name in hidden if name != RunDir(folder).marker.name)


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in folder.glob("step-*"))


def _check_save(place: Path, outcome: Outcome, before: list[Checkpoint], new: Checkpoint) -> None:
    """Check that the newest is the new one or that of before, and that the save can be repeated."""
    found, _ = CheckpointStore(OwnedFolder(place)).load_newest()
    allowed = [new] if outcome in ("done", "untouched") else [new, before[-1]]
    assert any(_same(found, each) for each in allowed), f"resumes from {found and found.step}"
    for each in before[1:]:  # the oldest may be pruned
        if each.step != new.step:
            assert _same(
                CheckpointStore(OwnedFolder(place))._read(checkpoint_name(each.step)), each
            )
    again = CheckpointStore(OwnedFolder(place))
    again.tidy()
    assert _same(again.load_newest()[0], found), "tidying up changed what is resumed from"
    again.save(new)
    assert _same(CheckpointStore(OwnedFolder(place)).load_newest()[0], new)


def _save_next() -> Scenario:
    before = [_checkpoint(1), _checkpoint(2)]

    def prepare(folder: Path) -> None:
        for each in before:
            CheckpointStore(OwnedFolder(folder)).save(each)

    def check(place: Path, outcome: Outcome) -> None:
        _check_save(place, outcome, before, _checkpoint(3))
        assert _steps(place) == [2, 3]
        assert _hidden(place) == []

    return Scenario(
        "checkpoint",
        prepare,
        lambda place: (CheckpointStore(OwnedFolder(place)).save(_checkpoint(3)), None)[1],
        check,
    )


def _save_first() -> Scenario:
    def check(place: Path, outcome: Outcome) -> None:
        found, _ = CheckpointStore(OwnedFolder(place, ("new",))).load_newest()
        assert found is None or _same(found, _checkpoint(1))
        assert found is not None or outcome in ("refused", "killed")
        CheckpointStore(OwnedFolder(place, ("new",))).save(_checkpoint(1))
        assert _hidden(place / "new") == []

    return Scenario(
        "first checkpoint",
        lambda folder: None,
        lambda place: (CheckpointStore(OwnedFolder(place, ("new",))).save(_checkpoint(1)), None)[1],
        check,
    )


def _save_over_another() -> Scenario:
    before = [_checkpoint(1), _checkpoint(2), _checkpoint(3, flavour=1)]

    def prepare(folder: Path) -> None:
        for each in before:
            CheckpointStore(OwnedFolder(folder), keep=3).save(each)

    def check(place: Path, outcome: Outcome) -> None:
        again = CheckpointStore(OwnedFolder(place))
        again.tidy()
        found, _ = again.load_newest()
        assert found is not None
        assert found.step == 3, "the step that was saved is lost"
        _check_save(place, outcome, before, _checkpoint(3))
        assert _steps(place) == [2, 3]
        assert _hidden(place) == []

    return Scenario(
        "checkpoint over another of its step",
        prepare,
        lambda place: (CheckpointStore(OwnedFolder(place)).save(_checkpoint(3)), None)[1],
        check,
    )


def _save_over_damaged() -> Scenario:
    before = [_checkpoint(1), _checkpoint(2)]

    def prepare(folder: Path) -> None:
        for each in (*before, _checkpoint(3)):
            CheckpointStore(OwnedFolder(folder), keep=3).save(each)
        (folder / "step-000003" / "adapter.safetensors").write_bytes(b"damaged")

    def check(place: Path, outcome: Outcome) -> None:
        _check_save(place, outcome, before, _checkpoint(3))
        assert _steps(place) == [2, 3]
        assert _hidden(place) == [".bad-step-000003-1"], "the damaged one is kept"

    return Scenario(
        "checkpoint over a damaged one",
        prepare,
        lambda place: (CheckpointStore(OwnedFolder(place)).save(_checkpoint(3)), None)[1],
        check,
    )


def _export() -> Scenario:
    old, new = ({"x.lora_B.weight": torch.full((4, 4), value)} for value in (1.0, 2.0))

    def check(place: Path, outcome: Outcome) -> None:
        content = (place / "adapter.safetensors").read_bytes()
        wanted = [serialize(new, {"n": "2"})]
        if outcome in ("refused", "killed"):
            wanted.append(serialize(old, {"n": "1"}))
        assert content in wanted
        OwnedFolder(place).discard_staged()
        assert _hidden(place) == []
        write_file(file_at(place / "adapter.safetensors"), new, {"n": "2"})

    return Scenario(
        "adapter",
        lambda folder: (write_file(file_at(folder / "adapter.safetensors"), old, {"n": "1"}), None)[
            1
        ],
        lambda place: (write_file(file_at(place / "adapter.safetensors"), new, {"n": "2"}), None)[
            1
        ],
        check,
    )


def _records() -> Scenario:
    """A run's own records: nothing of it may end a run, but to open its folder at all."""

    def prepare(folder: Path) -> None:
        with RunWriter.open(RunDir(folder)) as writer:
            writer.metric(step=1, loss=1.0)
            writer.status(phase="training", step=1, total=3)

    def act(place: Path) -> None:
        with RunWriter.open(RunDir(place)) as writer:
            for step in (2, 3):
                writer.metric(step=step, loss=1.0)
                writer.event("saved", step=step)
                writer.status(phase=f"training {step}", step=step, total=3)

    def check(place: Path, outcome: Outcome) -> None:
        run_dir = RunDir(place)
        assert json.loads(run_dir.status.path.read_bytes())["step"] in (0, 1, 2, 3)
        with RunWriter.open(run_dir) as writer:
            writer.metric(step=4, loss=1.0)
        lines = run_dir.metrics.path.read_text().splitlines()
        whole = [_step_of(line) for line in lines]
        steps = [step for step in whole if step is not None]
        assert len(whole) - len(steps) <= (outcome == "killed"), "a line is torn"
        # A repetition of a step can not be told from the steps of a resumed run.
        assert steps[0] == 1
        assert steps[-1] == 4
        assert steps == sorted(set(steps))
        if outcome in ("done", "untouched"):
            assert steps == [1, 2, 3, 4], f"metrics of steps {steps}"
        assert _hidden(place) == []

    # What a disk that stays full has not taken is lost with the process.
    return Scenario("records", prepare, act, check, faults=("ENOSPC", "EIO", "SIGKILL"))


def _step_of(line: str) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except ValueError:
        return None


_RECIPE = {
    "version": 1,
    "base_model": {"id": "builtin:shapes-xl"},
    "method": {
        "name": "text_slider",
        "concepts": [{"target": "a", "positive": "b", "negative": "c"}],
    },
}


def _persist() -> Scenario:
    """A save as the trainer makes it: it waits for the disk, and goes on by itself."""

    def prepare(folder: Path) -> None:
        with RunWriter.open(RunDir(folder)):
            CheckpointStore(RunDir(folder).checkpoints).save(_checkpoint(1))

    def act(place: Path) -> None:
        store = CheckpointStore(RunDir(place).checkpoints)
        with RunWriter.open(RunDir(place)) as writer:
            stop = StopRequest(SimpleNamespace(is_set=False))
            context = RunContext(writer.run_dir, writer, Processes(), stop, SHIPPED, 0.001)
            disk = DiskWait(context, poll_seconds=0.001)
            disk.persist(lambda: store.save(_checkpoint(2)), num_bytes=1, step=2)

    def check(place: Path, outcome: Outcome) -> None:
        folder = RunDir(place).checkpoints
        found, _ = CheckpointStore(folder).load_newest()
        assert _same(found, _checkpoint(2)) or (
            outcome in ("killed", "refused") and _same(found, _checkpoint(1))
        )
        CheckpointStore(folder).save(_checkpoint(2))
        assert _hidden(folder.path) == []

    return Scenario("save of a run", prepare, act, check, faults=("ENOSPC", "EIO", "SIGKILL"))


def _steering() -> Scenario:
    records = [ChangeRecord((Change(1, "optimizer.lr", 1e-3, value),)) for value in (2e-3, 3e-3)]

    def write(folder: Path, record: ChangeRecord) -> None:
        durable.replace_file(folder / "steering.json", record.text().encode())

    def act(place: Path) -> None:
        try:
            write(place, records[1])
        except OSError as error:
            raise ResourceError(str(error)) from error

    def check(place: Path, outcome: Outcome) -> None:
        found = ChangeRecord.read(file_at(place / "steering.json"))
        assert found in (records if outcome in ("refused", "killed") else records[1:])
        OwnedFolder(place).discard_staged()
        assert _hidden(place) == []

    return Scenario("steering record", lambda folder: write(folder, records[0]), act, check)


def scenarios() -> list[Scenario]:
    """Return everything that is put to the test."""
    return [
        _save_first(),
        _save_next(),
        _save_over_another(),
        _save_over_damaged(),
        _persist(),
        _export(),
        _records(),
        _steering(),
    ]


def main() -> int:
    losses: list[Attempt] = []
    print(f"{'what':36} {'fault':16} {'attempts':>8} {'done':>5} {'refused':>8} {'killed':>7} lost")
    for scenario in scenarios():
        with tempfile.TemporaryDirectory(prefix="loba-faults-") as folder:
            made = list(attempts(scenario, Path(folder)))
        for fault in scenario.faults:
            mine = [attempt for attempt in made if attempt.fault == fault]
            outcomes = Counter(attempt.outcome for attempt in mine)
            lost = [attempt for attempt in mine if attempt.loss]
            losses += lost
            print(
                f"{scenario.name:36} {fault:16} {len(mine):8}"
                f" {outcomes['done'] + outcomes['untouched']:5} {outcomes['refused']:8}"
                f" {outcomes['killed']:7} {len(lost):4}"
            )
    for attempt in losses:
        print(f"\n{attempt.scenario}, {attempt.fault} at {attempt.at}, {attempt.operation}:")
        print(f"  {attempt.outcome}: {attempt.loss}")
    return 1 if losses else 0


if __name__ == "__main__":
    sys.exit(main())
