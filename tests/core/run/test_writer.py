import errno
import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from loba_tui.core.errors import ExitCode, InUseError, ResourceError
from loba_tui.core.files import write_atomically
from loba_tui.core.run import disk
from loba_tui.core.run import writer as writer_module
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.writer import RunWriter


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "run")


def test_what_is_written_is_read_back(run_dir: RunDir) -> None:
    with RunWriter.open(run_dir) as writer:
        writer.status(phase="training", step=0, total=2, device="cpu")
        writer.metric(step=1, loss=0.5, lr=1e-4, forwards=8, alignment=0.25)
        writer.event("saved", path="checkpoints/step-000001")
        writer.status(step=2)
    reader = RunReader(run_dir)
    (metric,) = reader.new_metrics()
    assert (metric.step, metric.loss, metric.forwards) == (1, 0.5, 8)
    assert metric.values == {"alignment": 0.25}
    (event,) = reader.new_events()
    assert (event.kind, event.data) == ("saved", {"path": "checkpoints/step-000001"})
    status = reader.status()
    assert status is not None
    assert (status.phase, status.step, status.total) == ("training", 2, 2)
    assert status.extra["device"] == "cpu"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_values_stay_valid_json_and_come_back(run_dir: RunDir, value: float) -> None:
    with RunWriter.open(run_dir) as writer:
        writer.metric(step=1, loss=value, nested=[value])

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(run_dir.metrics.path.read_text(), parse_constant=refuse)
    (metric,) = RunReader(run_dir).new_metrics()
    assert metric.loss is not None
    assert str(metric.loss) == str(value)


def test_scalars_of_numpy_and_foreign_objects_are_accepted(run_dir: RunDir) -> None:
    with RunWriter.open(run_dir) as writer:
        writer.metric(step=1, loss=np.float32(0.5), grad_norm=np.float32("nan"))
        writer.event("sampled", path=Path("samples/a.png"))
    reader = RunReader(run_dir)
    (metric,) = reader.new_metrics()
    assert metric.loss == 0.5
    assert metric.grad_norm is not None
    assert math.isnan(metric.grad_norm)
    assert reader.new_events()[0].data["path"] == "samples/a.png"


def test_a_second_owner_is_refused_in_under_a_second(run_dir: RunDir) -> None:
    with RunWriter.open(run_dir):
        begin = time.monotonic()
        with pytest.raises(InUseError, match=f"process {os.getpid()} on ") as caught:
            RunWriter.open(run_dir)
        assert time.monotonic() - begin < 1
        assert caught.value.exit_code == ExitCode.IN_USE
    RunWriter.open(run_dir).close()


def test_looking_at_the_lock_never_locks_an_owner_out(run_dir: RunDir) -> None:
    RunWriter.open(run_dir).close()
    code = (
        "import sys; from pathlib import Path; from loba_tui.core.files import is_locked\n"
        "print('go', flush=True)\nwhile True: is_locked(Path(sys.argv[1]), shared=True)"
    )
    argv = [sys.executable, "-c", code, str(run_dir.lock)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as looker:
        assert looker.stdout is not None
        looker.stdout.readline()
        try:
            for _ in range(20):
                RunWriter.open(run_dir).close()
        finally:
            looker.kill()


def test_a_line_torn_by_a_kill_does_not_swallow_the_next(run_dir: RunDir) -> None:
    with RunWriter.open(run_dir) as writer:
        writer.metric(step=1, loss=1.0)
    with run_dir.metrics.path.open("ab") as stream:
        stream.write(b'{"step":2,"lo')
    with RunWriter.open(run_dir) as writer:
        writer.metric(step=2, loss=2.0)
    reader = RunReader(run_dir)
    assert [metric.step for metric in reader.new_metrics()] == [1, 2]
    assert reader.num_foreign_lines == 1


@pytest.mark.parametrize("number", sorted(disk.TROUBLE))
def test_a_full_disk_loses_no_record_and_stops_nothing(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write = os.write
    is_full, cut = True, 7

    def writing(descriptor: int, content: bytes) -> int:
        nonlocal cut
        if is_full and cut == 0:
            raise OSError(number, os.strerror(number))
        part = bytes(content)[:cut] if is_full else content
        cut = 0
        return write(descriptor, part)

    with RunWriter.open(run_dir) as writer:
        writer.metric(step=1, loss=1.0)
        monkeypatch.setattr(os, "write", writing)
        for step in (2, 3):
            writer.metric(step=step, loss=1.0)
        writer.event("paused_disk")
        writer.status(phase="paused_disk", step=3)
        # The status is written over in place, which needs no new block.
        status = RunReader(run_dir).status()
        assert status is not None
        assert (status.phase, status.step) == ("paused_disk", 3)
        is_full = False
        writer.metric(step=4, loss=1.0)
        writer.event("continued")
    reader = RunReader(run_dir)
    assert [metric.step for metric in reader.new_metrics()] == [1, 2, 3, 4]
    assert [event.kind for event in reader.new_events()] == ["paused_disk", "continued"]
    assert reader.num_foreign_lines == 0


def test_a_disk_that_stays_full_does_not_fill_the_memory(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_MAX_WAITING_BYTES", 200)
    write = os.write

    def full(descriptor: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    with RunWriter.open(run_dir) as writer:
        monkeypatch.setattr(os, "write", full)
        for step in range(100):
            writer.metric(step=step)
        monkeypatch.setattr(os, "write", write)
        writer.metric(step=100)
    steps = [metric.step for metric in RunReader(run_dir).new_metrics()]
    assert steps[-2:] == [99, 100]
    assert len(steps) < 10


def test_the_heart_beats_while_a_step_is_long_and_stops_with_the_writer(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "HEARTBEAT_SECONDS", 0.02)
    with RunWriter.open(run_dir) as writer:
        writer.status(phase="training", step=1)
        before = RunReader(run_dir).status()
        time.sleep(0.3)
        after = RunReader(run_dir).status()
    assert before is not None
    assert after is not None
    assert after.heartbeat > before.heartbeat
    # It lives, but nothing has moved.
    assert after.extra["moved"] == before.extra["moved"]
    assert "heartbeat" not in [thread.name for thread in threading.enumerate()]


def test_replacing_a_file_leaves_no_temporary_behind(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"1")
    write_atomically(tmp_path / "a", b"2")
    assert (tmp_path / "a").read_bytes() == b"2"
    with pytest.raises(ResourceError):
        write_atomically(tmp_path, b"3")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_status_of_mere_steps_is_thinned_but_the_last_one_stands(run_dir: RunDir) -> None:
    with RunWriter.open(run_dir) as writer:
        writer.status(phase="training", total=1000)
        inodes = set()
        for step in range(1000):
            writer.status(step=step)
            inodes.add(run_dir.status.stat().st_ino)
        assert len(inodes) < 100
    status = RunReader(run_dir).status()
    assert status is not None
    assert status.step == 999


def test_a_metric_costs_at_most_a_tenth_of_a_millisecond(run_dir: RunDir) -> None:
    num_metrics = 2000
    with RunWriter.open(run_dir) as writer:
        begin = time.process_time()
        for step in range(num_metrics):
            writer.metric(step=step, loss=0.123, lr=1e-4, grad_norm=0.5, seconds=0.01, forwards=8)
            writer.status(step=step)
        seconds = time.process_time() - begin
    assert seconds / num_metrics <= 1e-4
