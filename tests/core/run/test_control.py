import math
import os
from pathlib import Path

import pytest

from loba_tui.core.errors import RefusedError, ResourceError
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
    (run_dir.control.path / ".00000001-ab.json.12.tmp").write_text('{"version"')
    assert take(run_dir) == []


def test_what_has_the_name_of_a_command_and_is_none_is_refused_and_removed(
    run_dir: RunDir, tmp_path: Path
) -> None:
    (tmp_path / "secret.json").write_text('{"version":1,"command":"stop","args":{}}')
    names = [f"{number:08d}-0123abcd.json" for number in range(1, 8)]
    control = run_dir.control.path
    (control / names[0]).symlink_to(tmp_path / "secret.json")
    os.mkfifo(control / names[1])
    (control / names[2]).write_text('{"version":1,"command":"rm -rf"}')
    (control / names[3]).write_text('{"version":2,"command":"stop"}')
    (control / names[4]).write_bytes(b"[" * 70_000)
    os.link(tmp_path / "secret.json", control / names[5])
    (control / names[6]).write_text('{"version":1,"command":["stop"],"args":{}}')
    send(run_dir, Command("save"))
    refused: list[str] = []
    assert take(run_dir, on_refused=lambda name, reason: refused.append(name)) == [Command("save")]
    assert refused == names
    assert list(control.iterdir()) == []
    assert (tmp_path / "secret.json").exists()


def test_what_has_another_name_is_neither_taken_nor_removed(run_dir: RunDir) -> None:
    others = ["notes.json", "00000001-a.json", "1-0123abcd.json", "00000001-0123abcd.JSON"]
    for name in others:
        (run_dir.control.path / name).write_text('{"version":1,"command":"stop","args":{}}')
    assert take(run_dir, on_refused=lambda *_: pytest.fail("refused")) == []
    assert discard(run_dir, before=math.inf) == 0
    assert sorted(path.name for path in run_dir.control.path.iterdir()) == sorted(others)


def test_a_folder_in_the_way_does_not_stop_the_program(run_dir: RunDir) -> None:
    (run_dir.control.path / "00000001-0123abcd.json").mkdir()
    assert take(run_dir) == []


def test_a_control_folder_that_is_a_link_is_not_entered(run_dir: RunDir, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "00000001-0123abcd.json").write_text('{"version":1,"command":"stop","args":{}}')
    run_dir.control.path.rmdir()
    run_dir.control.path.symlink_to(elsewhere)
    assert take(run_dir) == []
    assert discard(run_dir, before=math.inf) == 0
    with pytest.raises(RefusedError, match="is a link"):
        send(run_dir, Command("save"))
    assert [path.name for path in elsewhere.iterdir()] == ["00000001-0123abcd.json"]


def test_commands_for_an_earlier_owner_can_be_discarded(run_dir: RunDir) -> None:
    send(run_dir, Command("stop"))
    assert discard(run_dir, before=math.inf) == 1
    assert take(run_dir) == []


def test_commands_for_a_program_that_is_still_starting_are_kept(run_dir: RunDir) -> None:
    send(run_dir, Command("stop"))
    (stale,) = run_dir.control.path.iterdir()
    os.utime(stale, (1000.0, 1000.0))
    send(run_dir, Command("pause"))
    assert discard(run_dir, before=2000.0) == 1
    assert take(run_dir) == [Command("pause")]


def test_sending_to_a_run_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="No command can be left"):
        send(RunDir(tmp_path / "gone"), Command("stop"))
