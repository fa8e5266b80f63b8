"""The files about the processes of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.ranks import (
    RankState,
    forget_ranks,
    prepare_ranks,
    read_ranks,
    silence_sentence,
    silent_ranks,
)

FIRST = RankState(0, "a", 10, "cuda:0", 812, "training", heartbeat=1000.0, moved=999.0)
THIRD = replace(FIRST, rank=3, host="b", pid=11, heartbeat=960.0)


def test_ranks_are_read_as_they_were_written(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, "run")
    assert read_ranks(run_dir) == []
    prepare_ranks(run_dir)
    for state in (THIRD, FIRST):
        state.write(run_dir)
    assert sorted(path.name for path in run_dir.ranks.path.iterdir()) == ["000.json", "003.json"]
    assert read_ranks(run_dir) == [FIRST, THIRD]
    run_dir.require_safe()
    forget_ranks(run_dir)
    assert read_ranks(run_dir) == []


def test_a_silent_rank_is_told_with_host_and_step() -> None:
    ranks = [FIRST, THIRD]
    assert silent_ranks(ranks) == [THIRD]
    assert silence_sentence(THIRD, ranks) == "rank 3 on b silent for 40 s at step 812"
    # When the first process ends, nobody listens any more.
    assert silent_ranks([FIRST, replace(THIRD, heartbeat=999.0)]) == []
    # One that has said that it is done has nothing more to say.
    assert silent_ranks([FIRST, replace(THIRD, phase="finished")]) == []


def test_a_file_that_is_not_a_ranks_is_left_out(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, "run")
    prepare_ranks(run_dir)
    FIRST.write(run_dir)
    folder = run_dir.ranks.path
    (folder / "001.json").write_text('{"rank": 1')
    (folder / "002.json").write_text('{"rank": -2, "pid": 1, "step": 0}')
    (folder / "003.json").symlink_to(folder / "000.json")
    (folder / "notes.txt").write_text("mine")
    assert read_ranks(run_dir) == [FIRST]


@given(
    st.dictionaries(
        st.sampled_from(["rank", "pid", "step", "host", "device", "phase", "heartbeat", "moved"]),
        st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.lists(st.integers())),
    )
)
def test_any_object_is_a_state_or_a_value_error(data: dict[str, object]) -> None:
    try:
        state = RankState.from_json(json.loads(json.dumps(data)))
    except ValueError:
        return
    assert state.rank >= 0
