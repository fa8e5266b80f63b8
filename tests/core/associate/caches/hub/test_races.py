"""Two processes at once on one cache, over the real client."""

from __future__ import annotations

from pathlib import Path

import pytest
from cache_racers import check, make_sources, race
from hub_server import serve


# benchmarks/cache_races.py does hundreds.
@pytest.mark.slow
@pytest.mark.parametrize("how", ["ours", "theirs"])
def test_pulling_and_deleting_at_once_breaks_nothing(tmp_path: Path, how: str) -> None:
    folders = make_sources(tmp_path)
    with serve(folders) as hub:
        counts = race(hub, tmp_path / "home", list(folders), pulls=20, how=how, seed=3)
        check(tmp_path / "home", list(folders))
    if how == "ours":
        assert counts["failed pulls"] == 0
    assert counts["deletions"] > 0
