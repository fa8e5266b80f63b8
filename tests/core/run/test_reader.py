import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loba_tui.core.run import owner
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.records import Event, Metric, Status, decode, encode
from loba_tui.core.run.writer import RunWriter, write_atomically


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "run")


def test_a_torn_last_line_is_not_there_yet(run_dir: RunDir) -> None:
    reader = RunReader(run_dir)
    assert reader.new_metrics() == []
    with run_dir.metrics.open("ab", buffering=0) as stream:
        stream.write(b'{"step":1,"loss":1}\n{"step":2,"lo')
        assert [metric.step for metric in reader.new_metrics()] == [1]
        assert reader.new_metrics() == []
        stream.write(b'ss":2}\n')
        assert [metric.loss for metric in reader.new_metrics()] == [2]
    assert reader.num_foreign_lines == 0


def test_foreign_lines_are_counted_and_skipped(run_dir: RunDir) -> None:
    run_dir.metrics.write_bytes(
        b'\xff\xfe\x00\n\nnull\n{"step":"x"}\n{"loss":1}\n'
        + b"[" * 100_000
        + b'\n{"step":1e400}\n{"step":3}\n'
    )
    reader = RunReader(run_dir)
    assert [metric.step for metric in reader.new_metrics()] == [3]
    assert reader.num_foreign_lines == 6


def test_a_replaced_or_shortened_file_is_read_anew(run_dir: RunDir) -> None:
    reader = RunReader(run_dir)
    run_dir.metrics.write_bytes(b'{"step":1}\n{"step":2}\n')
    assert len(reader.new_metrics()) == 2
    run_dir.metrics.write_bytes(b'{"step":7}\n')
    assert [metric.step for metric in reader.new_metrics()] == [7]


def test_a_line_too_long_to_be_a_record_is_dropped(run_dir: RunDir) -> None:
    run_dir.metrics.write_bytes(b'{"step":1}\n' + b"x" * 20_000_000 + b'\n{"step":2}\n')
    assert [metric.step for metric in RunReader(run_dir).new_metrics()] == [1, 2]


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 7))
def test_any_bytes_in_any_pieces_are_read_without_an_exception(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], step: int
) -> None:
    run_dir = RunDir(tmp_path_factory.mktemp("run"))
    reader = RunReader(run_dir)
    with run_dir.metrics.open("ab", buffering=0) as stream:
        for piece in pieces:
            stream.write(piece)
            reader.new_metrics()
        stream.write(b"\n" + encode({"step": step}))
    assert reader.new_metrics()[-1].step == step


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"phase":"x","step":[]}'])
def test_an_unreadable_status_is_none(run_dir: RunDir, content: bytes) -> None:
    run_dir.status.write_bytes(content)
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
    write_atomically(run_dir.status, encode({**record, **changes}))


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
def test_without_a_lock_the_process_itself_is_looked_at(
    run_dir: RunDir, changes: dict[str, object], state: str
) -> None:
    _leave_status(run_dir, **changes)
    assert RunReader(run_dir).liveness().state == state


def test_a_program_that_was_launched_but_never_came_is_dead(run_dir: RunDir) -> None:
    write_atomically(run_dir.status, encode(Status("starting", 0, 0, time.time()).as_json()))
    assert RunReader(run_dir).liveness().state == "starting"
    assert RunReader(run_dir).liveness(now=time.time() + 120).state == "dead"


def test_the_start_of_a_process_tells_it_from_a_later_one() -> None:
    assert owner.process_start(os.getpid()) == owner.this_process().process_start
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert owner.process_start(child.pid) is None


def test_the_report_is_read(run_dir: RunDir) -> None:
    assert RunReader(run_dir).report() is None
    run_dir.report.write_text(json.dumps({"rho": 1}))
    assert RunReader(run_dir).report() == {"rho": 1}
