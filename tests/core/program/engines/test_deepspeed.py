"""ZeRO trains what one process does with the same global batch, bad steps and all."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from process_groups import Job, Trained, bank_slider, job_after, new_job, train_together

from loba_tui.core.errors import ResourceError
from loba_tui.core.program.engines.zero.library import load_deepspeed
from loba_tui.core.recipe.schema import Recipe

STEPS = 10
ACCUMULATED = 2
SAVED = 5
SPOILED = 2
"""The step that has no finite loss."""
STAGES: dict[str, dict[str, Any]] = {
    "1": {"zero_stage": 1},
    "2": {"zero_stage": 2},
    "2-offload": {"zero_stage": 2, "cpu_offload": True},
    "3": {"zero_stage": 3},
    "3-offload": {"zero_stage": 3, "cpu_offload": True},
}
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)


def small_slider(batch_size: int, **sections: Any) -> Recipe:
    """Return a recipe that averages, accumulates, checkpoints, and skips a bad step."""
    given = {
        "train": {
            "steps": STEPS,
            "batch_size": batch_size,
            "gradient_accumulation": ACCUMULATED,
            "ema": {"decay": 0.9},
            "on_nan": "skip",
        },
        "sample": {"every": 0},
        "save": {"every": SAVED, "keep": 3},
        "proof": {"enabled": False},
    }
    return bank_slider(**{**given, **sections})


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One process with the batch of both."""
    folder = tmp_path_factory.mktemp("alone")
    job = replace(new_job(small_slider(2), folder), spoiled=ACCUMULATED * SPOILED)
    return train_together([job], 1, folder)[0]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """Two processes at each stage, and at some once more from the middle on."""
    folder = tmp_path_factory.mktemp("together")
    jobs: dict[str, Job] = {}
    for name, stage in STAGES.items():
        recipe = small_slider(1, parallel={"engine": "deepspeed", **stage})
        jobs[name] = replace(new_job(recipe, folder), spoiled=ACCUMULATED * SPOILED)
    for name in ("2", "3"):
        jobs[f"{name}-resumed"] = job_after(jobs[name], SAVED)
    found = train_together(list(jobs.values()), 2, folder, seconds=400)
    return dict(zip(jobs, found, strict=True))


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_train_what_one_does_with_twice_the_batch(
    alone: Trained, together: dict[str, Trained], stage: str
) -> None:
    two = together[stage]
    assert [event["step"] for event in two.events("skipped")] == [SPOILED]
    assert len(two.losses) == STEPS - 1
    np.testing.assert_allclose(two.losses, alone.losses, rtol=1e-4)
    ours, theirs = two.adapter, alone.adapter
    assert ours.keys() == theirs.keys()
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in ours) < 2e-5
    assert max(float(theirs[key].abs().max()) for key in theirs) > 1e-3


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("stage", ["2", "3"])
def test_a_run_goes_on_exactly(together: dict[str, Trained], stage: str) -> None:
    resumed = together[f"{stage}-resumed"]
    hashes = {
        hashlib.sha256(run.run_dir.adapter.path.read_bytes()).hexdigest()
        for run in (together[stage], resumed)
    }
    assert len(hashes) == 1
    assert [event["step"] for event in resumed.events("resumed")] == [SAVED]


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("stage", ["3", "3-offload"])
def test_each_process_holds_half_of_the_base_at_stage_3(
    together: dict[str, Trained], stage: str
) -> None:
    facts = together[stage].events("built")[0]
    adapter = facts["trained_parameters"]
    share = (facts["held_parameters"] - adapter) / (facts["denoiser_parameters"] - adapter)
    assert 0.5 <= share < 0.51  # small weights stay whole
    assert together["2"].num_held == facts["denoiser_parameters"]


def test_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with pytest.raises(ResourceError, match="needs DeepSpeed") as caught:
        load_deepspeed("cpu")
    assert "pip install 'loba-trainer[deepspeed]'" in (caught.value.hint or "")
