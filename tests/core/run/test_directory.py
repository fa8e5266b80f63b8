import os
import stat
from pathlib import Path

import pytest

from loba_tui.core.errors import ExitCode, RecipeError, ResourceError
from loba_tui.core.run import directory
from loba_tui.core.run.directory import Ledger, RunDir


def test_folders_are_new_private_and_named_after_the_run(tmp_path: Path) -> None:
    first = RunDir.create(tmp_path / "output", "slider")
    second = RunDir.create(tmp_path / "output", "slider")
    assert first.path != second.path
    assert first.name.startswith("slider-")
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o700
    assert first.control.path.is_dir()
    assert first.adapter_dir.path.is_dir()


def test_runs_of_one_second_with_the_same_digits_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = iter(["0000", "0000", "0001", *["0000"] * 20])
    monkeypatch.setattr(directory.time, "strftime", lambda _format: "20260101-000000")
    monkeypatch.setattr(directory.secrets, "token_hex", lambda _size: next(digits))
    names = [RunDir.create(tmp_path, "x").name for _ in range(2)]
    assert names == ["x-20260101-000000-0000", "x-20260101-000000-0001"]
    with pytest.raises(ResourceError, match="File exists"):
        RunDir.create(tmp_path, "x")


def test_a_folder_below_a_file_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be made") as caught:
        RunDir.create(tmp_path / "file", "slider")
    assert caught.value.exit_code == ExitCode.RESOURCES
    assert "--out-dir" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_resource_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ResourceError, match="Permission denied"):
        RunDir.create(tmp_path, "slider")


def test_the_ledger_finds_runs_wherever_they_are(tmp_path: Path) -> None:
    ledger = Ledger.of_user({"XDG_STATE_HOME": str(tmp_path / "state")})
    runs = [RunDir.create(tmp_path / parent, "x", ledger=ledger) for parent in ("a", "b")]
    ledger.register(runs[0])
    assert {run.path for run in ledger.runs()} == {run.path for run in runs}


def test_the_ledger_survives_foreign_lines_and_removed_runs(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "runs.jsonl")
    kept, removed = (RunDir.create(tmp_path, "x", ledger=ledger) for _ in range(2))
    for folder in (removed.control, removed.checkpoints, removed.samples, removed.adapter_dir):
        folder.path.rmdir()
    removed.marker.remove()
    removed.path.rmdir()
    with ledger.path.open("ab") as stream:
        stream.write(b'\xff\xfe\nnull\n[1]\n{"path": 3}\n{"path"')
    assert ledger.runs() == [kept]


def test_a_ledger_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ledger = Ledger(tmp_path / "file" / "runs.jsonl")
    assert RunDir.create(tmp_path, "x", ledger=ledger).path.is_dir()
    assert ledger.runs() == []


def test_a_relative_state_home_is_ignored() -> None:
    assert Ledger.of_user({"XDG_STATE_HOME": "here"}).path.is_absolute()


def test_opening_something_else_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="not a run folder"):
        RunDir.open(tmp_path)
