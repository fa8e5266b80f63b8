"""The index of metrics: the same numbers as the records, quickly, whatever happens to the file."""

import json
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loba_tui.client.metrics.blocks import BLOCK
from loba_tui.client.metrics.index import RATE, SeriesIndex, discard_orphans
from loba_tui.client.metrics.window import window
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import RunReader


def write(run: RunDir, rows: Iterable[dict[str, Any]], mode: str = "a") -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    with run.metrics.path.open(mode) as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def losses(num: int, first: int = 1) -> list[dict[str, Any]]:
    return [{"step": s, "time": 100.0 + s, "loss": math.sin(s)} for s in range(first, first + num)]


def updated(run: RunDir, cache: Path, **kwargs: int) -> SeriesIndex:
    index = SeriesIndex(run, cache)
    while index.update(**kwargs):
        pass
    return index


def values(index: SeriesIndex, name: str = "loss") -> list[float]:
    _, blocks = index.blocks(name, 0, index.num_rows, index.num_rows)
    return blocks[blocks[:, 3] > 0, 0].tolist()


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def test_columns_hold_what_the_reader_reads(run: RunDir, tmp_path: Path) -> None:
    write(run, losses(3000))
    index = updated(run, tmp_path / "cache")
    assert values(index) == [metric.loss for metric in RunReader(run).new_metrics()]
    assert index.steps() == (1.0, 3000.0)
    assert index.names == ["loss"]


def test_growth_in_pieces_gives_the_same_as_all_at_once(run: RunDir, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    step = 0
    index = SeriesIndex(run, tmp_path / "grown")
    while step < 9000:
        num = int(rng.integers(1, 700))
        write(run, losses(num, step + 1))
        step += num
        index.update()
    whole = updated(run, tmp_path / "whole")
    for first, last in ((0, step), (63, 64), (64, 4097), (100, step - 1)):
        for most in (7, 50, 100_000):
            for one, other in zip(
                index.blocks("loss", first, last, most),
                whole.blocks("loss", first, last, most),
                strict=True,
            ):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("most", [3, 20, 300])
def test_blocks_keep_extremes_sum_and_count(run: RunDir, tmp_path: Path, most: int) -> None:
    rows = losses(BLOCK**2 * 2 + 777)
    write(run, rows)
    index = updated(run, tmp_path / "cache")
    first, last = 5, len(rows) - 3
    edges, blocks = index.blocks("loss", first, last, most)
    assert edges[0] == first
    assert edges[-1] == last
    assert len(blocks) == len(edges) - 1 <= 4 * most + 4
    data = np.array([row["loss"] for row in rows])
    for begin, end, block in zip(edges[:-1], edges[1:], blocks, strict=True):
        part = data[begin:end]
        assert block[0] == part.min()
        assert block[1] == part.max()
        assert block[2] == pytest.approx(part.sum(), abs=1e-9)
        assert block[3] == len(part)


def test_a_resumed_run_replaces_what_it_records_again(run: RunDir, tmp_path: Path) -> None:
    write(run, losses(5000))
    write(run, [{"step": s, "loss": -1.0} for s in range(4101, 4301)])
    index = updated(run, tmp_path / "cache")
    found = values(index)
    assert len(found) == 4300
    assert found[4100:] == [-1.0] * 200
    assert found[4099] == math.sin(4100)
    fresh = {m.step: m.loss for m in RunReader(run).new_metrics() if m.step <= 4300}
    assert found == [fresh[step] for step in sorted(fresh)]


def test_what_is_not_finite_or_missing_is_neither_lost_nor_mixed_up(
    run: RunDir, tmp_path: Path
) -> None:
    rows = losses(200)
    rows[10]["loss"] = "NaN"
    rows[20]["loss"] = "-Infinity"
    for step in (50, 100, 150):
        rows[step]["seen"] = step * 1.0
    write(run, rows)
    index = updated(run, tmp_path / "cache")
    assert index.blocks("loss", 0, 200, 1)[1][:, 3:].sum(axis=0).tolist() == [198, 2]
    assert values(index, "seen") == [50.0, 100.0, 150.0]
    assert index.last_value("seen") == 150.0
    drawn = window(index, "loss", first=1, last=200, num_columns=20)
    assert np.flatnonzero(drawn.num_bad).tolist() == [1, 2]


def test_a_series_that_begins_late_is_placed_rightly(run: RunDir, tmp_path: Path) -> None:
    write(run, losses(9000))
    write(run, [{"step": s, "loss": 0.0, "late": float(s)} for s in range(9001, 9101)])
    index = updated(run, tmp_path / "cache")
    drawn = window(index, "late", first=1, last=9100, num_columns=91)
    assert np.flatnonzero(np.isfinite(drawn.least)).tolist() == [90]
    assert values(index, "late") == [float(s) for s in range(9001, 9101)]


def test_torn_foreign_and_overlong_lines_are_passed_over(run: RunDir, tmp_path: Path) -> None:
    write(run, losses(10))
    with run.metrics.path.open("ab") as stream:
        stream.write(b'{"step": "x"}\n[1]\n\xff\xfe\n' + b"x" * 3_000_000 + b"\n")
        stream.write(b'{"step": 11, "loss": 7, "note": "text", "flag": true}\n{"step": 12, "lo')
    index = updated(run, tmp_path / "cache")
    assert values(index)[-1] == 7.0
    assert index.names == ["loss"]
    with run.metrics.path.open("ab") as stream:
        stream.write(b'ss": 8}\n')
    index.update()
    assert values(index)[-1] == 8.0


def test_another_file_of_the_same_name_is_read_anew(run: RunDir, tmp_path: Path) -> None:
    write(run, losses(1000))
    updated(run, tmp_path / "cache")
    run.metrics.path.unlink()
    write(run, [{"step": s, "loss": 1.0} for s in range(1, 2001)])
    assert set(values(updated(run, tmp_path / "cache"))) == {1.0}


def test_an_index_is_kept_shared_and_healed(run: RunDir, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    write(run, losses(2000))
    first, second = updated(run, cache), SeriesIndex(run, cache)
    assert second.num_rows == 2000
    write(run, losses(10, 2001))
    assert second.update()
    assert first.update()
    assert first.num_rows == second.num_rows == 2010
    next(path for path in (cache / "series").glob("*/*.0")).write_bytes(b"")
    assert len(values(updated(run, cache))) == 2010


def test_indexes_of_runs_that_are_gone_are_removed(run: RunDir, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    write(run, losses(5))
    updated(run, cache)
    discard_orphans(cache)
    assert len(list((cache / "series").iterdir())) == 1
    run.metrics.path.unlink()
    run.path.rmdir()
    discard_orphans(cache)
    assert list((cache / "series").iterdir()) == []


def test_a_cache_that_cannot_be_made_costs_only_the_speed(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    write(run, losses(100))
    index = updated(run, tmp_path / "cache")
    assert len(values(index)) == 100
    index.close()


def test_the_rate_is_one_over_the_seconds(run: RunDir, tmp_path: Path) -> None:
    write(run, [{"step": 1, "loss": 1.0, "seconds": 0.25}, {"step": 2, "seconds": 0}])
    index = updated(run, tmp_path / "cache")
    assert values(index, RATE) == [4.0]


def test_a_spike_is_seen_from_any_distance(run: RunDir, tmp_path: Path) -> None:
    rows = losses(20_000)
    rows[12_344]["loss"] = 50.0
    write(run, rows)
    index = updated(run, tmp_path / "cache")
    for width in (100, 5000, 20_000):
        first = max(1, 12_345 - width // 2)
        for num_columns in (3, 40, 160):
            drawn = window(index, "loss", first=first, last=first + width, num_columns=num_columns)
            assert np.nanmax(drawn.greatest) == 50.0


def test_the_smoothed_line_is_the_exponential_moving_average(run: RunDir, tmp_path: Path) -> None:
    rows = losses(400)
    write(run, rows)
    index = updated(run, tmp_path / "cache")
    drawn = window(index, "loss", first=1, last=400, num_columns=400, smoothing=0.9)
    total = weight = 0.0
    for row in rows:
        total, weight = 0.9 * total + 0.1 * row["loss"], 0.9 * weight + 0.1
    assert drawn.last_smooth == pytest.approx(total / weight)


def test_an_indexed_run_opens_without_reading_it_again(run: RunDir, tmp_path: Path) -> None:
    write(run, losses(20_000))
    updated(run, tmp_path / "cache")
    os.utime(run.metrics.path)
    begin = time.process_time()
    index = SeriesIndex(run, tmp_path / "cache")
    index.update()
    assert index.num_rows == 20_000
    # Reading takes some 0.2 s; opening about a millisecond.
    assert time.process_time() - begin < 0.1


def test_steps_are_found_by_wall_time(run: RunDir, tmp_path: Path) -> None:
    write(run, losses(100))
    index = updated(run, tmp_path / "cache")
    assert index.steps_at(np.array([0.0, 150.5, 1e9])).tolist() == [1.0, 50.0, 100.0]
