import time
from datetime import datetime, timedelta

import pytest

from loba_tui.core.errors import RecipeError
from loba_tui.core.run.deadline import Deadline


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90m", 5400), ("2h", 7200), ("1h30m", 5400), ("1d", 86400), ("45s", 45), ("0.5h", 1800)],
)
def test_a_duration_counts_from_now(text: str, seconds: float) -> None:
    assert Deadline.parse(text).seconds_left() == pytest.approx(seconds, abs=1)


def test_a_clock_that_is_set_does_not_move_a_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    deadline = Deadline.parse("2h")
    moved = time.time() + 86400
    monkeypatch.setattr(time, "time", lambda: moved)
    assert deadline.seconds_left() == pytest.approx(7200, abs=1)


def test_a_time_of_day_is_the_next_one() -> None:
    now = datetime(2031, 5, 1, 6, 0).astimezone()
    assert Deadline.parse("07:30", now=now).wall == datetime(2031, 5, 1, 7, 30).timestamp()
    assert Deadline.parse("05:30", now=now).wall == datetime(2031, 5, 2, 5, 30).timestamp()


def test_an_iso_time_is_taken_with_its_zone() -> None:
    soon = datetime.now().astimezone() + timedelta(hours=1)
    assert Deadline.parse(soon.isoformat()).seconds_left() == pytest.approx(3600, abs=2)
    assert Deadline.parse("2099-01-01T00:00:00+00:00").wall == 4070908800.0


@pytest.mark.parametrize("text", ["", "soon", "2", "h", "25:00", "12:99", "2020-01-01", "-1h"])
def test_what_is_no_time_to_come_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="--deadline"):
        Deadline.parse(text)
