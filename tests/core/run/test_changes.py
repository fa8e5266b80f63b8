from pathlib import Path

import pytest

from loba_tui.core.errors import CorruptError
from loba_tui.core.file_sources import file_at
from loba_tui.core.run.changes import Change, ChangeRecord


def test_a_record_comes_back_and_its_text_is_always_the_same(tmp_path: Path) -> None:
    record = ChangeRecord().with_change(Change(5, "train.steps", 8, 9))
    record = record.with_change(Change(2, "optimizer.lr", 1e-3, 1e-4)).with_skipped(3)
    (tmp_path / "steering.json").write_text(record.text())
    read = ChangeRecord.read(file_at(tmp_path / "steering.json"))
    assert read == record
    assert read.text() == record.text()
    assert [change.step for change in record.changes] == [2, 5]


def test_only_what_has_come_to_pass_goes_into_an_adapter() -> None:
    record = ChangeRecord((Change(2, "save.every", 0, 1), Change(7, "save.every", 1, 2)), (1, 9))
    assert record.until(7) == ChangeRecord((Change(2, "save.every", 0, 1),), (1,))


def test_changes_of_one_step_keep_their_order() -> None:
    record = ChangeRecord()
    for old, new in ((1, 2), (2, 3), (3, 1)):
        record = record.with_change(Change(4, "save.every", old, new))
    assert [change.new for change in record.changes] == [2, 3, 1]


def test_nothing_changed_is_no_text(tmp_path: Path) -> None:
    assert ChangeRecord().text() == ""
    assert ChangeRecord.from_text("", "adapter") == ChangeRecord()
    assert ChangeRecord.read(file_at(tmp_path / "steering.json")) is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"version":2,"changes":[],"passed_over":[]}',
        '{"version":1,"changes":[{"step":1}],"passed_over":[]}',
        '{"version":1,"changes":[],"passed_over":[-1]}',
        '{"version":1,"changes":[],"passed_over":[true]}',
        '{"version":1,"changes":[{"step":1,"key":"loss.name","old":1,"new":2}],"passed_over":[]}',
    ],
)
def test_a_damaged_record_is_said_to_be_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "steering.json"
    path.write_text(text)
    with pytest.raises(CorruptError, match=r"steering\.json"):
        ChangeRecord.read(file_at(path))
