"""The queue with slots: runs side by side, each on a device of its own, resumed after a kill."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_recipes import PROGRAM
from loba_command import kill_run, kill_runs, state, step, wait_until

from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.queue import Entry, Queue
from loba_tui.core.run.queue_supervisor import Supervisor, free_device
from loba_tui.core.run.reader import RunReader


class Fleet:
    """A queue whose supervisor is a part of the test."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.environ = {**os.environ, "XDG_STATE_HOME": str(place / "state")}
        self.ledger = Ledger.of_user(self.environ)
        self.queue = Queue.of_user(self.environ)
        self.supervisor = Supervisor(self.queue, PROGRAM, self.ledger)

    def add(self, *slots: str, steps: int = 1000, lr: float = 0.1, retries: int = 0) -> RunDir:
        run_dir = RunDir.create(self.place / "output", "run", ledger=self.ledger)
        recipe = f"optimizer:\n  lr: {lr}\ntrain:\n  steps: {steps}\n"
        run_dir.recipe.replace(recipe.encode())
        self.queue.add(
            run_dir, argv_extra=(), device="cpu", environ={}, slots=slots, retries=retries
        )
        return run_dir

    def until(self, *wanted: tuple[RunDir, str]) -> None:
        def is_so() -> bool:
            self.supervisor.work()
            return all(state(run) == each for run, each in wanted)

        wait_until(is_so, 30)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    for entry in fleet.queue.entries():
        fleet.queue.remove(entry)
    kill_runs(fleet.environ)
    for child in fleet.supervisor._children.values():
        child.wait(30)


def begins(run: RunDir) -> list[int]:
    """Return the steps that a run was begun and resumed after."""
    return [e.data["step"] for e in RunReader(run).new_events() if e.kind == "started"]


def devices(run: RunDir) -> list[object]:
    # A run is alive as soon as it has its lock, a moment before it tells of its start.
    wait_until(lambda: step(run) >= 1, 30)
    events = RunReader(run).new_events()
    return [event.data["devices"] for event in events if event.kind == "started"]


def test_runs_of_two_slots_run_at_once_each_on_its_device(fleet: Fleet) -> None:
    first, second, third = (fleet.add("cuda:3", "cuda:1") for _ in range(3))
    alone = fleet.add()  # for the cpu: no slot of the others
    fleet.until((first, "running"), (second, "running"), (alone, "running"))
    assert state(third) == "queued"
    assert (devices(first), devices(second)) == (["3"], ["1"])
    kill_run(first)  # no retry: its slot is free, and it stays as it is
    fleet.until((third, "running"))
    assert devices(third) == ["3"]
    assert state(first) == "dead"
    # A supervisor that starts anew knows the runs and their devices.
    fourth = fleet.add("cuda:1")
    fleet.supervisor = Supervisor(fleet.queue, PROGRAM, fleet.ledger)
    for _ in range(3):
        fleet.supervisor.work()
    assert state(fourth) == "queued"
    kill_run(second)
    kill_run(third)
    kill_run(alone)
    fleet.queue.remove(fleet.queue.find(fourth))


def test_a_killed_run_goes_on_as_often_as_it_may_and_a_failed_one_does_not(fleet: Fleet) -> None:
    killed = fleet.add("cpu", "cpu", retries=1, steps=100)
    failed = fleet.add("cpu", "cpu", retries=1, lr=0.5)
    fleet.until((killed, "running"), (failed, "failed"))
    wait_until(lambda: step(killed) >= 5, 30)
    kill_run(killed)
    wait_until(lambda: state(killed) == "dead", 30)
    fleet.until((killed, "running"))
    wait_until(lambda: len(begins(killed)) == 2, 30)
    first, second = begins(killed)
    assert first == 0
    assert second >= 5
    assert devices(killed) == ["", ""]
    kill_run(killed)
    fleet.until((killed, "dead"))
    wait_until(lambda: not fleet.supervisor.work(), 30)
    assert fleet.queue.entries() == []
    assert len([e for e in RunReader(failed).new_events() if e.kind == "started"]) == 1


def test_an_entry_without_slots_is_read_as_before(fleet: Fleet) -> None:
    fleet.add()
    (entry,) = fleet.queue.entries()
    text = entry.path.read_text()
    for key in (',"slots":[]', ',"slot":""', ',"retries":0'):
        assert key in text
        text = text.replace(key, "")
    entry.path.write_text(text)
    assert Entry.read(entry.path) == entry


@pytest.mark.parametrize(
    ("devices", "taken", "wanted", "found"),
    [
        (["cuda:0", "cuda:1"], [], [], "cuda:0"),
        (["cuda:0", "cuda:1"], ["cuda"], [], "cuda:1"),
        (["cuda:0", "cuda:0"], ["cuda:0"], [], "cuda:0"),
        (["cuda:0", "cuda:0"], ["cuda:0", "cuda:0"], [], None),
        (["cpu", "cpu"], ["cpu"], ["cuda:0"], "cpu"),
        (["cpu"], ["auto"], [], None),
        (["cuda:0", "cuda:1"], [], ["cuda:0"], "cuda:1"),
        (["cpu", "cpu"], [], ["cpu"], None),
    ],
)
def test_a_device_has_room_for_as_many_runs_as_it_has_slots(
    devices: list[str], taken: list[str], wanted: list[str], found: str | None
) -> None:
    assert free_device(devices, taken, wanted) == found
