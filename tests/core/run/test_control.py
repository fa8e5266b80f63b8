import math
import os
from pathlib import Path

import pytest

from loba_tui.core.errors import ResourceError
from loba_tui.core.run.control import Command, discard, send, take
from loba_tui.core.run.directory import RunDir


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "run")


def test_commands_are_taken_once_in_the_order_they_were_sent(run_dir: RunDir) -> None:
    sent = [Command("pause"), Command("set", {"optimizer.lr": 1e-5}), Command("resume")]
    sent += [Command("sample")] * 20
    for command in sent:
        send(run_dir, command)
    assert take(run_dir) == sent
    assert take(run_dir) == []


def test_a_command_carries_the_name_that_its_answer_will_have(run_dir: RunDir) -> None:
    name = send(run_dir, Command("save"))
    assert [command.id for command in take(run_dir)] == [name]


def test_a_half_written_command_is_not_taken(run_dir: RunDir) -> None:
    (run_dir.control / ".00000001-ab.json.12.tmp").write_text('{"version"')
    assert take(run_dir) == []


def test_what_is_not_a_command_is_refused_and_removed(run_dir: RunDir, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('{"version":1,"command":"stop","args":{}}')
    (run_dir.control / "00000001-a.json").symlink_to(tmp_path / "secret.json")
    os.mkfifo(run_dir.control / "00000002-b.json")
    (run_dir.control / "00000003-c.json").write_text('{"version":1,"command":"rm -rf"}')
    (run_dir.control / "00000004-d.json").write_text('{"version":2,"command":"stop"}')
    (run_dir.control / "00000005-e.json").write_bytes(b"[" * 70_000)
    (run_dir.control / "zz.json").write_text("{")
    send(run_dir, Command("save"))
    refused: list[str] = []
    assert take(run_dir, on_refused=lambda name, reason: refused.append(name)) == [Command("save")]
    assert len(refused) == 6
    assert list(run_dir.control.iterdir()) == []
    assert (tmp_path / "secret.json").exists()


def test_a_folder_in_the_way_does_not_stop_the_program(run_dir: RunDir) -> None:
    (run_dir.control / "00000001-a.json").mkdir()
    assert take(run_dir) == []


def test_commands_for_an_earlier_owner_can_be_discarded(run_dir: RunDir) -> None:
    send(run_dir, Command("stop"))
    assert discard(run_dir, before=math.inf) == 1
    assert take(run_dir) == []


def test_commands_for_a_program_that_is_still_starting_are_kept(run_dir: RunDir) -> None:
    send(run_dir, Command("stop"))
    (stale,) = run_dir.control.iterdir()
    os.utime(stale, (1000.0, 1000.0))
    send(run_dir, Command("pause"))
    assert discard(run_dir, before=2000.0) == 1
    assert take(run_dir) == [Command("pause")]


def test_sending_to_a_run_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="No command can be left"):
        send(RunDir(tmp_path / "gone"), Command("stop"))
