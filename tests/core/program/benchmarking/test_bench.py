"""A recipe and two alternatives, measured for real on a small model with random weights."""

import json
import math
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from benched import bench_until_memory_ends

from loba_tui.client.bench.text import share_lines, table_lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def document(small_sdxl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the figures of a slider, of one alternative, and of one that memory ends under."""
    # In a process of its own: what others have freed in this one would serve it after the end.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        folder = tmp_path_factory.mktemp("bench")
        made, rows = process.submit(bench_until_memory_ends, small_sdxl_folder, folder).result()
    found = json.loads(json.dumps(made, allow_nan=False))
    assert [row["name"] for row in found["configurations"]] == [row["name"] for row in rows]
    return found


def test_configurations_have_their_figures(document: dict[str, Any]) -> None:
    own, bank, _ = document["configurations"]
    assert own["name"] == "as the recipe says"
    assert bank["changes"] == {"method.trajectories": "bank"}
    for row in (own, bank):
        assert row["outcome"] == "measured"
        timing = row["seconds_per_step"]
        assert 0 < timing["least"] <= timing["median"] <= timing["most"]
        assert math.isclose(row["samples_per_second"], 1 / timing["median"])
        assert math.isclose(row["rows_per_second"], row["rows_per_step"] / timing["median"])
        assert row["operations_per_step"] > 500
        assert 0 < row["share_of_peak"] < 1
        assert row["memory"]["measured"] == pytest.approx(row["memory"]["estimated"], rel=0.1)


def test_rows_and_operations_are_those_of_the_method(document: dict[str, Any]) -> None:
    own, bank, _ = document["configurations"]
    # A step of one row asks the base for positive, negative, neutral and the empty prompt, and
    # trains one row, which counts as two; a bank has asked before.
    assert own["rows_per_step"] == 6
    assert bank["rows_per_step"] == 2
    assert bank["start_rows"] > own["start_rows"]
    # Frozen weights have no gradients: a backward pass is as much work as the forward pass.
    trained, with_teachers = bank["flops_per_step"], own["flops_per_step"]
    assert trained / ((with_teachers - trained) / 4) == pytest.approx(2, rel=0.1)


def test_memory_that_ends_is_a_row_and_not_the_end(document: dict[str, Any]) -> None:
    row = document["configurations"][2]
    assert row["changes"] == {"train.batch_size": "256"}
    assert row["outcome"] == "out_of_memory", row["message"]
    assert row["seconds_per_step"] is None
    assert "memory" in row["message"]
    shown = "\n".join(table_lines(document))
    assert "C  train.batch_size: 256 (out of memory" in shown


def test_a_bare_loop_is_timed_beside_the_trainer(document: dict[str, Any]) -> None:
    bare = document["bare_loop"]
    assert bare["side_by_side"]
    assert 0.5 < bare["overhead"] < 3
    own = document["configurations"][0]["seconds_per_step"]["cpu_median"]
    assert math.isclose(bare["overhead"], own / bare["seconds_per_step"]["cpu_median"])


def test_what_is_shared_names_neither_machine_nor_user(
    document: dict[str, Any], small_sdxl_folder: Path
) -> None:
    for text in ("\n".join(share_lines(document)), json.dumps(document)):
        for secret in (platform.node(), str(small_sdxl_folder), str(Path.home()), "private-name"):
            assert secret not in text
        assert os.sep + "tmp" not in text
    assert "a model of the family sdxl, random weights" in "\n".join(share_lines(document))
