"""The table of a run's processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from loba_tui.client.machine.rank_table import MOST_ROWS, rank_lines, rank_records
from loba_tui.client.runs.describe import record_lines, run_record
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.ranks import RankState, prepare_ranks

FIRST = RankState(0, "a", 10, "cuda:0", 812, "training", heartbeat=1000.0, moved=999.0)
OTHER = replace(FIRST, rank=3, host="b", pid=11, heartbeat=960.0)


def test_each_process_is_a_line_and_a_silent_one_says_since_when(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, "run")
    prepare_ranks(run_dir)
    for state in (FIRST, OTHER):
        state.write(run_dir)
    record = run_record(run_dir)
    assert [(each["rank"], each["silent_seconds"]) for each in record["ranks"]] == [
        (0, 0.0),
        (3, 40.0),
    ]
    first, other = [line for line in record_lines(record) if line.startswith("process")]
    assert " ".join(first.split()) == "process rank 0 a cuda:0 step 812 training"
    assert other.endswith("training, silent for 40 s")


def test_one_process_alone_has_no_table() -> None:
    assert rank_lines(rank_records([FIRST])) == []


def test_of_very_many_the_silent_ones_are_shown() -> None:
    many = [replace(FIRST, rank=rank) for rank in range(MOST_ROWS + 8)]
    many[-1] = replace(many[-1], heartbeat=900.0)
    lines = rank_lines(rank_records(many))
    assert len(lines) == MOST_ROWS + 1
    assert lines[0] == (lines[0][0], True)
    assert f"rank {MOST_ROWS + 7}" in lines[0][0]
    assert lines[-1][0] == "and 8 more"


def test_hostile_words_of_a_rank_do_nothing_to_the_screen() -> None:
    hostile = replace(OTHER, host="\x1b[2Jb\u202e" * 30, phase="\n\x07" * 50)
    ((_, _), (line, _)) = rank_lines(rank_records([FIRST, hostile]))
    assert line.isprintable()
