"""What is not measured: models and configurations that memory or time do not suffice for."""

import time
from pathlib import Path

import pytest
import torch
from program_runs import SHAPE

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.benchmarking import bench, true_size
from loba_tui.core.program.benchmarking.alternatives import Configuration
from loba_tui.core.program.benchmarking.bench import Bench
from loba_tui.core.program.benchmarking.results import Results
from loba_tui.core.program.benchmarking.timing import Windows
from loba_tui.core.program.benchmarking.true_size import at_true_size
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import Records


def slider_on(model: str) -> Recipe:
    return parse_recipe(
        {
            "version": 1,
            "base_model": {"id": model, "device": "cpu"},
            "method": {"name": "text_slider", "concepts": [SHAPE]},
            "train": {"resolution": 32},
        },
        plugins=SHIPPED,
    )


def bench_until(deadline: float, folder: Path) -> Bench:
    cpu = torch.device("cpu")
    results = Results({}, {}, {})
    return Bench(cpu, SHIPPED, RunDir(folder), Records(), Windows(), deadline, results)


def test_a_model_whose_steps_are_fast_is_measured_at_its_size(tiny_sdxl_folder: Path) -> None:
    recipe = slider_on(str(tiny_sdxl_folder))
    assert at_true_size(recipe, SHIPPED, most_seconds=10) == (recipe, "")


def test_steps_that_take_too_long_are_measured_on_an_embedded_model(
    tiny_sdxl_folder: Path,
) -> None:
    recipe, note = at_true_size(slider_on(str(tiny_sdxl_folder)), SHIPPED, most_seconds=1e-6)
    assert recipe.base_model.id == "builtin:shapes-xl"
    assert recipe.train.resolution is None
    assert recipe.method == slider_on("builtin:shapes-xl").method
    assert note.startswith("Not at the size of sdxl: a step takes no less than")


def test_weights_that_do_not_fit_are_not_made(
    tiny_sdxl_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(true_size, "free_memory", lambda device: 2**20)
    recipe, note = at_true_size(slider_on(str(tiny_sdxl_folder)), SHIPPED, most_seconds=10)
    assert recipe.base_model.id == "builtin:shapes-xl"
    assert "1.0 MiB are free" in note


def test_an_embedded_model_is_taken_as_it_is() -> None:
    recipe = slider_on("builtin:shapes-z")
    assert at_true_size(recipe, SHIPPED, most_seconds=0) == (recipe, "")


def test_when_the_time_is_up_an_alternative_is_a_row_without_figures(tmp_path: Path) -> None:
    change = {"train.batch_size": 2}
    configuration = Configuration(slider_on("builtin:shapes-xl"), change)
    row = bench_until(time.monotonic() - 1, tmp_path).measure(configuration, num_left=1)
    assert (row.outcome, row.changes, row.seconds_per_step) == ("no_time", change, None)


@pytest.mark.usefixtures("one_thread")
def test_what_cannot_fit_into_a_cpus_memory_is_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "free_memory", lambda device: 2**20)
    configuration = Configuration(slider_on("builtin:shapes-xl"))
    row = bench_until(time.monotonic() + 60, tmp_path).measure(configuration, num_left=1)
    assert row.outcome == "too_large"
    assert row.message.endswith("and 1.0 MiB are free")
    assert row.memory is not None
    assert row.memory.needed > 2**20


def test_what_fails_is_a_row_that_names_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError(f"cannot compile {tmp_path}/kernel.cpp:3\nand more")

    monkeypatch.setattr(Bench, "_measure", fail)
    changed = Configuration(slider_on("builtin:shapes-xl"), {"train.compile": "blocks"})
    row = bench_until(time.monotonic() + 60, tmp_path).measure(changed, num_left=1)
    assert (row.outcome, row.message) == ("failed", "RuntimeError: cannot compile …")
    with pytest.raises(RuntimeError):
        bench_until(time.monotonic() + 60, tmp_path).measure(
            Configuration(slider_on("builtin:shapes-xl")), num_left=1
        )
