import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loba_tui.core.files import write_atomically
from loba_tui.core.owned_files import OwnedFile
from loba_tui.core.run import owner
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.ranks import RankState, prepare_ranks
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.records import Event, Metric, Status, decode, encode
from loba_tui.core.run.writer import RunWriter


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "run")


def test_a_torn_last_line_is_not_there_yet(run_dir: RunDir) -> None:
    reader = RunReader(run_dir)
    assert reader.new_metrics() == []
    with run_dir.metrics.path.open("ab", buffering=0) as stream:
        stream.write(b'{"step":1,"loss":1}\n{"step":2,"lo')
        assert [metric.step for metric in reader.new_metrics()] == [1]
        assert reader.new_metrics() == []
        stream.write(b'ss":2}\n')
        assert [metric.loss for metric in reader.new_metrics()] == [2]
    assert reader.num_foreign_lines == 0


def test_foreign_lines_are_counted_and_skipped(run_dir: RunDir) -> None:
    run_dir.metrics.path.write_bytes(
        b'\xff\xfe\x00\n\nnull\n{"step":"x"}\n{"loss":1}\n'
        + b"[" * 100_000
        + b'\n{"step":1e400}\n{"step":3}\n'
    )
    reader = RunReader(run_dir)
    assert [metric.step for metric in reader.new_metrics()] == [3]
    assert reader.num_foreign_lines == 6


def test_a_replaced_or_shortened_file_is_read_anew(run_dir: RunDir) -> None:
    reader = RunReader(run_dir)
    run_dir.metrics.path.write_bytes(b'{"step":1}\n{"step":2}\n')
    assert len(reader.new_metrics()) == 2
    run_dir.metrics.path.write_bytes(b'{"step":7}\n')
    assert [metric.step for metric in reader.new_metrics()] == [7]


def test_a_line_too_long_to_be_a_record_is_dropped(run_dir: RunDir) -> None:
    run_dir.metrics.path.write_bytes(b'{"step":1}\n' + b"x" * 20_000_000 + b'\n{"step":2}\n')
    assert [metric.step for metric in RunReader(run_dir).new_metrics()] == [1, 2]


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 7))
def test_any_bytes_in_any_pieces_are_read_without_an_exception(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], step: int
) -> None:
    run_dir = RunDir(tmp_path_factory.mktemp("run"))
    reader = RunReader(run_dir)
    with run_dir.metrics.path.open("ab", buffering=0) as stream:
        for piece in pieces:
            stream.write(piece)
            reader.new_metrics()
        stream.write(b"\n" + encode({"step": step}))
    assert reader.new_metrics()[-1].step == step


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"phase":"x","step":[]}'])
def test_an_unreadable_status_is_none(run_dir: RunDir, content: bytes) -> None:
    run_dir.status.path.write_bytes(content)
    assert RunReader(run_dir).status() is None
    assert RunReader(run_dir).liveness().state == "unknown"


def test_records_keep_what_they_do_not_know() -> None:
    assert Metric.from_json({"step": 1, "new": 2}).values == {"new": 2}
    assert Event.from_json({"event": "x", "new": 2}).data == {"new": 2}
    status = Status.from_json({"phase": "training", "new": 2})
    assert Status.from_json(decode(encode(status.as_json()))) == status


def _run_and_kill(run_dir: RunDir) -> None:
    code = (
        "import os, signal, sys; from loba_tui.core.run.directory import RunDir\n"
        "from loba_tui.core.run.writer import RunWriter; from pathlib import Path\n"
        "writer = RunWriter.open(RunDir(Path(sys.argv[1]))); writer.status(phase='training')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(run_dir.path)], check=False)


def test_a_killed_run_is_dead(run_dir: RunDir) -> None:
    _run_and_kill(run_dir)
    liveness = RunReader(run_dir).liveness()
    assert liveness.state == "dead"
    assert "killed" in liveness.reason


def test_a_living_run_is_running_then_stalled_then_finished(run_dir: RunDir) -> None:
    reader = RunReader(run_dir)
    with RunWriter.open(run_dir) as writer:
        writer.status(phase="training")
        assert reader.liveness().state == "running"
        assert reader.liveness(now=time.time() + 3600).state == "stalled"
        writer.status(phase="finished")
    assert reader.liveness().state == "finished"


def _leave_status(run_dir: RunDir, **changes: object) -> None:
    record = Status("training", 1, 2, time.time(), owner.this_process()).as_json()
    write_atomically(run_dir.status.path, encode({**record, **changes}))


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "running"),
        ({"process_start": 1.0}, "dead"),
        ({"boot_id": "another"}, "dead"),
        ({"host": "elsewhere"}, "running"),
        ({"host": "elsewhere", "heartbeat": 0}, "unknown"),
    ],
)
def test_on_a_file_system_without_locks_the_process_itself_is_looked_at(
    run_dir: RunDir, changes: dict[str, object], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _leave_status(run_dir, **changes)
    monkeypatch.setattr(OwnedFile, "is_locked", lambda *_, **__: None)
    assert RunReader(run_dir).liveness().state == state


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "dead"),
        ({"pid": 1, "process_start": owner.process_start(1)}, "dead"),
        ({"phase": "paused"}, "dead"),
        ({"phase": "finished"}, "finished"),
        ({"host": "elsewhere"}, "running"),
        ({"host": "elsewhere", "heartbeat": time.time() + 1e6}, "unknown"),
    ],
)
def test_a_process_that_holds_no_lock_is_not_taken_for_the_run_s(
    run_dir: RunDir, changes: dict[str, object], state: str
) -> None:
    """A status from elsewhere may name any process that lives."""
    for lock in ("missing", "free", "a link"):
        _leave_status(run_dir, **changes)
        if lock == "free":
            run_dir.lock.replace(b"{}")
        elif lock == "a link":
            run_dir.lock.remove()
            run_dir.lock.path.symlink_to("/dev/zero")
        assert (lock, RunReader(run_dir).liveness().state) == (lock, state)


def test_a_lock_kept_by_an_orphan_does_not_make_a_dead_run_alive(run_dir: RunDir) -> None:
    code = (
        "import os, signal, sys, time; from loba_tui.core.run.directory import RunDir\n"
        "from loba_tui.core.run.writer import RunWriter; from pathlib import Path\n"
        "writer = RunWriter.open(RunDir(Path(sys.argv[1]))); writer.status(phase='training')\n"
        "child = os.fork()\n"
        "if child == 0: time.sleep(60)\n"
        "print(child, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    argv = [sys.executable, "-W", "ignore", "-c", code, str(run_dir.path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.wait()
        try:
            assert run_dir.lock.is_locked(shared=True)
            liveness = RunReader(run_dir).liveness()
            assert (liveness.state, "left a child behind" in liveness.reason) == ("dead", True)
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    ("rises", "reason"),
    [("group", "memory limit was reached"), ("machine", "probably"), ("", "or out of memory")],
)
def test_the_kernels_counters_tell_a_run_that_was_killed_for_memory(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, rises: str, reason: str
) -> None:
    group, machine = "/sys/fs/cgroup/job/memory.events", "/proc/vmstat"
    _leave_status(run_dir, process_start=1.0, oom_kills={group: 2, machine: 5})
    counts = {group: 2 + (rises == "group"), machine: 5 + bool(rises)}
    monkeypatch.setattr(owner, "_lines", lambda path: ["low 0", f"oom_kill {counts[str(path)]}"])
    liveness = RunReader(run_dir).liveness()
    assert liveness.state == "dead"
    assert reason in liveness.reason


def test_counters_that_a_foreign_status_names_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("oom_kill 7\n")
    assert owner.oom_kills([str(tmp_path / "secret")]) == {}
    assert owner.oom_kills(["/proc/vmstat"]).keys() <= {"/proc/vmstat"}


@pytest.mark.parametrize(("phase", "state"), [("paused", "paused"), ("paused_disk", "paused")])
def test_a_paused_run_is_alive_and_says_what_it_waits_for(
    run_dir: RunDir, phase: str, state: str
) -> None:
    with RunWriter.open(run_dir) as writer:
        writer.status(phase=phase, disk="66 MiB are needed and 1 MiB are free")
        liveness = RunReader(run_dir).liveness()
    assert liveness.state == state
    assert liveness.is_alive
    assert ("66 MiB" in liveness.reason) == (phase == "paused_disk")
    # This very process still lives, but holds the run no more.
    assert RunReader(run_dir).liveness().state == "dead"


def test_a_queued_run_is_not_running(run_dir: RunDir) -> None:
    write_atomically(run_dir.status.path, encode(Status("queued", 0, 0, 0.0).as_json()))
    liveness = RunReader(run_dir).liveness()
    assert (liveness.state, liveness.is_alive) == ("queued", False)


def test_a_program_that_was_launched_but_never_came_is_dead(run_dir: RunDir) -> None:
    write_atomically(run_dir.status.path, encode(Status("starting", 0, 0, time.time()).as_json()))
    assert RunReader(run_dir).liveness().state == "starting"
    assert RunReader(run_dir).liveness(now=time.time() + 120).state == "dead"


def test_the_start_of_a_process_tells_it_from_a_later_one() -> None:
    assert owner.process_start(os.getpid()) == owner.this_process().process_start
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert owner.process_start(child.pid) is None


def test_the_report_is_read(run_dir: RunDir) -> None:
    assert RunReader(run_dir).report() is None
    run_dir.report.path.write_text(json.dumps({"rho": 1}))
    assert RunReader(run_dir).report() == {"rho": 1}


def status_at(run_dir: RunDir, *, standing: float, **facts: object) -> None:
    """Let this process hold a run whose step has taken so many seconds, at a usual second each."""
    now = time.time()
    extra = {"moved": now - standing, "usual_step": 1.0, "longest_step": 4.0, **facts}
    phase = str(extra.pop("phase", "training"))
    status = Status(phase, 812, 1000, now, owner.this_process(), extra)
    run_dir.status.replace(encode(status.as_json()))


@pytest.mark.parametrize(
    ("standing", "facts", "state"),
    [
        (40.0, {}, "running"),
        (95.0, {}, "stalled"),
        # What is usual decides, and what has been met already.
        (95.0, {"usual_step": 30.0}, "running"),
        (95.0, {"longest_step": 60.0}, "running"),
        # Nothing is known before the first step; and other phases take what they take.
        (95.0, {"usual_step": None}, "running"),
        (5000.0, {"phase": "loading"}, "running"),
        (5000.0, {"phase": "sampling"}, "running"),
        (5000.0, {"phase": "measuring"}, "running"),
        (5000.0, {"phase": "paused"}, "paused"),
        (95.0, {"moved": "long ago"}, "running"),
    ],
)
def test_a_step_that_takes_far_longer_than_others_has_stalled(
    run_dir: RunDir, standing: float, facts: dict[str, object], state: str
) -> None:
    lock = owner.acquire(run_dir.lock)
    try:
        status_at(run_dir, standing=standing, **facts)
        liveness = RunReader(run_dir).liveness()
    finally:
        os.close(lock)
    assert liveness.state == state
    if state == "stalled":
        assert "step 813 has taken 95 s so far, and 1 s are usual" in liveness.reason


def test_a_silent_rank_stalls_the_run_in_every_phase(run_dir: RunDir) -> None:
    now = time.time()
    prepare_ranks(run_dir)
    RankState(0, "a", 1, "cuda:0", 812, "sampling", now, now).write(run_dir)
    RankState(3, "b", 2, "cuda:0", 812, "training", now - 40, now - 40).write(run_dir)
    lock = owner.acquire(run_dir.lock)
    try:
        status_at(run_dir, standing=1.0, phase="sampling")
        liveness = RunReader(run_dir).liveness()
    finally:
        os.close(lock)
    assert liveness.state == "stalled"
    assert liveness.reason == "rank 3 on b silent for 40 s at step 812"


def test_the_writer_tells_what_a_step_usually_takes_and_when_it_last_moved(
    run_dir: RunDir,
) -> None:
    with RunWriter.open(run_dir) as writer:
        writer.status(phase="training", step=0, total=9)
        for step, seconds in enumerate((5.0, 1.0, 1.0), 1):
            writer.metric(step=step, seconds=seconds)
        writer.flush()
        status = RunReader(run_dir).status()
        assert status is not None
        assert (status.extra["usual_step"], status.extra["longest_step"]) == (1.0, 5.0)
        before = status.extra["moved"]
        time.sleep(0.01)
        writer.status(fetched=1)  # bytes that come are movement, and the same ones are not
        writer.flush()
        moved = json.loads(run_dir.status.path.read_text())["moved"]
        assert moved > before
        writer.status(fetched=1)
        writer.flush()
        assert json.loads(run_dir.status.path.read_text())["moved"] == moved
