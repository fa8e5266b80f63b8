"""Each engine trains what one process does with the same global batch."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from process_groups import Trained, bank_slider, job_after, new_job, train_together
from program_runs import new_run, run_here

from loba_tui.core.recipe.schema import Recipe

STEPS = 10
ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp2": {"engine": "fsdp2"},
    "ulysses": {"ulysses": 2},
}
RESUMED = ("fsdp2", "ulysses")
HELD_OUT = {"target": "a cross", "positive": "a large cross", "negative": "a small cross"}


def small_slider(batch_size: int, **sections: Any) -> Recipe:
    """Return a recipe that trains, averages, validates, draws and proves in few forwards."""
    given = {
        "train": {
            "steps": STEPS,
            "batch_size": batch_size,
            "ema": {"decay": 0.9},
            "efficacy_every": 5,
        },
        # Three micro-steps of one row: no number that two processes could share evenly.
        "validation": {"every": 5, "concepts": [HELD_OUT], "timesteps": 3, "most": 1},
        "sample": {"every": 5, "steps": 3, "scales": [-1, 0, 1], "batch_size": 6},
        "save": {"every": 5, "keep": 3},
        "proof": {"measure": {"name": "shape_area"}, "prompts": ["a green square"]},
    }
    return bank_slider(**{**given, **sections})


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One process with the batch of two."""
    run_dir = new_run(small_slider(4), tmp_path_factory.mktemp("alone"))
    return Trained(run_here(small_slider(4), run_dir))


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """Two processes with each engine, and with some once more from the middle on.

    The strip that fsdp2 draws at its end then fails.
    """
    folder = tmp_path_factory.mktemp("together")
    jobs = {
        name: new_job(small_slider(4 if "ulysses" in parallel else 2, parallel=parallel), folder)
        for name, parallel in ENGINES.items()
    }
    for name in RESUMED:
        jobs[f"{name} resumed"] = job_after(jobs[name], STEPS // 2)
    jobs["fsdp2 resumed"] = replace(jobs["fsdp2 resumed"], breaks_first_strip=True)
    found = train_together(list(jobs.values()), 2, folder)
    return dict(zip(jobs, found, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_train_what_one_does_with_twice_the_batch(
    alone: Trained, together: dict[str, Trained], engine: str
) -> None:
    two = together[engine]
    assert len(two.losses) == STEPS
    np.testing.assert_allclose(two.losses, alone.losses, rtol=1e-4)
    ours, theirs = two.adapter, alone.adapter
    assert ours.keys() == theirs.keys()
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in ours) < 2e-5
    assert max(float(theirs[key].abs().max()) for key in theirs) > 1e-3
    # How many rows are validated at once depends on the batch size of a process.
    alike = alone if "ulysses" in ENGINES[engine] else together["ddp"]
    validated = [[e["loss"] for e in run.events("validated")] for run in (two, alike)]
    assert len(validated[0]) == 2
    np.testing.assert_allclose(*validated, rtol=1e-4)


@pytest.mark.slow
def test_each_process_holds_half_of_the_base_under_fsdp2(together: dict[str, Trained]) -> None:
    facts = together["fsdp2"].events("built")[0]
    adapter = facts["trained_parameters"]
    share = (facts["held_parameters"] - adapter) / (facts["denoiser_parameters"] - adapter)
    assert 0.5 <= share < 0.501
    assert together["ddp"].num_held == facts["denoiser_parameters"]
    estimated = [together[e].events("estimated")[0]["memory"]["weights"] for e in ENGINES]
    assert estimated[1] < estimated[0]


@pytest.mark.slow
@pytest.mark.parametrize("engine", RESUMED)
def test_a_run_goes_on_exactly(together: dict[str, Trained], engine: str) -> None:
    resumed = together[f"{engine} resumed"]
    hashes = {
        hashlib.sha256(run.run_dir.adapter.path.read_bytes()).hexdigest()
        for run in (together[engine], resumed)
    }
    assert len(hashes) == 1
    assert [event["step"] for event in resumed.events("resumed")] == [STEPS // 2]


@pytest.mark.slow
def test_a_strip_that_fails_releases_the_others(together: dict[str, Trained]) -> None:
    (failed,) = together["fsdp2 resumed"].events("sample_failed")
    assert (failed["step"], failed["message"]) == (STEPS, "the paper is out")
    proven = [len(together[name].events("measured")) for name in ("fsdp2", "fsdp2 resumed")]
    assert proven == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_the_first_process_draws_and_proves(
    alone: Trained, together: dict[str, Trained], engine: str
) -> None:
    two = together[engine]
    assert [event["step"] for event in two.events("sampled")] == [STEPS // 2, STEPS]
    assert not two.events("sample_failed")
    assert len(two.events("measured")) == 1
    for step in (STEPS // 2, STEPS):
        drawn = [
            np.asarray(Image.open(run.run_dir.sample_strip(step).path)).astype(int)
            for run in (two, alone)
        ]
        assert np.abs(drawn[0] - drawn[1]).max() <= 2
