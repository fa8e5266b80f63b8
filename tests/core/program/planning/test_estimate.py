"""Estimates against what runs really take, and what is said when there is not enough."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from loba_tui.core.associate.caches.memory.block_offload import BlockOffload
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import LobaError, ResourceError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.planning.estimate import Estimator
from loba_tui.core.program.planning.estimate_records import Estimate
from loba_tui.core.program.planning.free_resources import FreeResources
from loba_tui.core.program.planning.preflight import Preflight, is_out_of_memory
from loba_tui.core.program.planning.remedies import require_fit, with_changes
from loba_tui.core.program.planning.state_sizes import state_bytes
from loba_tui.core.program.train import train
from loba_tui.core.recipe.load import dump_recipe, parse_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.start_options import StartOptions
from loba_tui.core.run.writer import RunWriter

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


def recipe_of(**sections: object) -> Recipe:
    concept = {"target": "a circle", "positive": "a large circle", "negative": "a small circle"}
    return parse_recipe(
        {
            "version": 1,
            "base_model": {"id": "builtin:shapes-xl"},
            "method": {
                "name": "text_slider",
                "rollout_steps": 3,
                "concepts": [{**concept, "preserve": ["a square"]}],
            },
            "train": {"steps": 2, "batch_size": 2},
            "proof": {"enabled": False},
            "sample": {"steps": 1, "scales": [0, 1]},
            **sections,
        },
        plugins=SHIPPED,
    )


@pytest.fixture(scope="module")
def estimate() -> Estimate:
    return Estimator(CPU, plugins=SHIPPED).estimate(recipe_of())


def test_a_small_model_costs_the_same_on_real_tensors(estimate: Estimate):
    shapes = Estimator(CPU, shapes_only=True, plugins=SHIPPED).estimate(recipe_of())
    # What is copied to a device is no copy on the CPU.
    operators = estimate.work.operators_per_step
    assert shapes.work.operators_per_step == pytest.approx(operators, rel=0.01)
    work = replace(shapes.work, operators_per_step=operators)
    assert replace(shapes, work=work) == estimate


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion", "adafactor", "prodigy"])
def test_parameters_and_optimizer_state_are_those_of_a_run(tmp_path: Path, optimizer: str):
    recipe = recipe_of(optimizer={"name": optimizer, "lr": 1e-4})
    estimated = Estimator(CPU, plugins=SHIPPED).estimate(recipe)
    run_dir = RunDir.create(tmp_path, "run")
    run_dir.recipe.path.write_text(dump_recipe(recipe))
    with RunWriter.open(run_dir) as writer:
        train(recipe, run_dir, writer, StopNever(), StartOptions(), SHIPPED)

    from safetensors.torch import load_file

    checkpoint = run_dir.checkpoints.path / "step-000002"
    state = state_bytes(load_file(checkpoint / "optimizer.safetensors"))
    adapter = load_file(checkpoint / "adapter.safetensors")
    assert estimated.trained_parameters == sum(tensor.numel() for tensor in adapter.values())
    assert estimated.memory.optimizer == state
    written = sum(file.stat().st_size for file in checkpoint.iterdir())
    assert estimated.disk.checkpoint == pytest.approx(written, rel=0.5)
    events = [json.loads(line) for line in run_dir.events.path.read_text().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds.index("estimated") < kinds.index("built") < kinds.index("measured_memory")
    built = next(event for event in events if event["event"] == "built")
    assert built["trained_parameters"] == estimated.trained_parameters
    last = json.loads(run_dir.metrics.path.read_text().splitlines()[-1])
    calls = estimated.calls
    assert last["forwards"] == rows(calls.first) + rows(calls.later[0])


def rows(calls: object) -> int:
    return sum((2 if call.with_grad else 1) * call.rows for call in calls)  # type: ignore[attr-defined]


class StopNever:
    is_set = False


def test_what_does_not_fit_is_refused_with_changes_that_do(estimate: Estimate):
    recipe = recipe_of(train={"batch_size": 8, "steps": 2})
    estimator = Estimator(CPU, plugins=SHIPPED)
    needed = estimator.estimate(recipe)
    limit = int(0.8 * needed.memory.needed)

    with pytest.raises(ResourceError, match="this run needs about") as caught:
        require_fit(estimator, recipe, needed, FreeResources(limit, None))

    hint = caught.value.hint
    assert caught.value.exit_code == 4
    assert "train.batch_size: 4, train.gradient_accumulation: 2" in hint
    assert "base_model.gradient_checkpointing: true" in hint
    assert "--force" in hint
    assert hint.count("(then ") == 3
    changed = with_changes(recipe, {"base_model.gradient_checkpointing": True})
    assert estimator.estimate(changed).memory.needed <= limit
    assert "loba cache pull" not in hint

    guessed = replace(needed, origin="assumed")
    with pytest.raises(ResourceError, match="this run needs about") as caught:
        require_fit(estimator, recipe, guessed, FreeResources(limit, None))
    assert f"after `loba cache pull {recipe.base_model.id}` the" in caught.value.hint


def test_a_disk_that_is_too_small_is_refused(estimate: Estimate):
    recipe = recipe_of(sample={"every": 1, "steps": 1, "scales": [0, 1]})
    estimator = Estimator(CPU, plugins=SHIPPED)
    needed = estimator.estimate(recipe)
    free = FreeResources(None, needed.disk.needed - 1)
    with pytest.raises(ResourceError, match=r"sample\.every: 0"):
        require_fit(estimator, recipe, needed, free)


def test_free_memory_that_is_not_known_refuses_nothing(estimate: Estimate):
    require_fit(Estimator(CPU, plugins=SHIPPED), recipe_of(), estimate, FreeResources(None, None))


def test_force_starts_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def tiny(device: torch.device, folder: Path) -> FreeResources:
        return FreeResources(1000, None)

    monkeypatch.setattr("loba_tui.core.program.planning.preflight.free_resources", tiny)
    with RunWriter.open(RunDir.create(tmp_path, "run")) as writer:
        with pytest.raises(ResourceError):
            Preflight(recipe_of(), CPU, plugins=SHIPPED).announce(writer, tmp_path)
        Preflight(recipe_of(), CPU, plugins=SHIPPED).announce(writer, tmp_path, force=True)
        assert "--force" in writer.run_dir.events.path.read_text()


def test_out_of_memory_names_changes_that_fit():
    recipe = recipe_of(train={"batch_size": 8, "steps": 2})
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
    told = Preflight(recipe, CPU, plugins=SHIPPED).out_of_memory(error)
    assert told.exit_code == 4
    assert "Tried to allocate 2 GiB" in told.message
    assert "free" in told.message
    assert "Cheapest first: train.batch_size: 4" in told.hint


def test_out_of_memory_is_told_from_other_errors():
    preflight = Preflight(recipe_of(), CPU, plugins=SHIPPED)
    with pytest.raises(ValueError, match="other"), preflight.explains_out_of_memory():
        raise ValueError("other")
    with pytest.raises(ResourceError), preflight.explains_out_of_memory():
        torch.empty(10**15)
    assert is_out_of_memory(MemoryError())


def test_slices_of_the_vae_take_no_more_for_several_images(estimate: Estimate) -> None:
    def sampling(**base: object) -> int:
        made = recipe_of(
            base_model={"id": "builtin:shapes-xl", **base},
            sample={"steps": 1, "scales": [0, 1], "batch_size": 64, "guidance_scale": 1},
        )
        networks = Estimator(CPU, plugins=SHIPPED)._open(made, torch.float32)
        return networks.decode_cost(64).peak_bytes

    whole, sliced = sampling(), sampling(vae_slicing=True)
    images = 64 * 3 * 32**2 * 4
    assert images < sliced < whole / 4


def test_a_base_whose_blocks_wait_takes_what_real_tensors_take() -> None:
    base = {"id": "builtin:shapes-xl", "offload": "blocks", "blocks_on_host": 20}
    settings = {**base, "dtype": "float32"}
    memory = Estimator(CUDA, plugins=SHIPPED).estimate(recipe_of(base_model=settings)).memory
    denoiser = ModelCache("cpu", "float32").container("builtin:shapes-xl").denoiser
    moved = BlockOffload(denoiser, CPU, 20)
    waiting = {view.data_ptr() for block in moved._blocks for view in block.away}
    there = [t for t in (*denoiser.parameters(), *denoiser.buffers())]
    staying = sum(t.numel() * t.element_size() for t in there if t.data_ptr() not in waiting)
    assert memory.weights == staying + sum(each.memory.nbytes for each in moved._buffers)


@pytest.mark.slow
def test_sdxl_needs_less_with_checkpointing_and_lower_resolution():
    def needed(**base: object) -> Estimate:
        base_model = {"id": SDXL, "dtype": "bfloat16", "device": "cuda", **base}
        train = {"batch_size": 1, "resolution": 512}
        return Estimator(CUDA, plugins=SHIPPED).estimate(
            recipe_of(base_model=base_model, train=train)
        )

    plain, recomputed = needed(), needed(gradient_checkpointing=True)

    assert plain.origin == "shipped"
    assert plain.memory.activations > 4 * recomputed.memory.activations
    assert recomputed.work.flops_per_step > plain.work.flops_per_step
    # bfloat16 weights of the UNet alone; the VAE comes for pictures.
    unet, vae = 2 * 2_567_463_684, 2 * 83_653_863
    assert plain.memory.weights == pytest.approx(unet, rel=1e-4)
    # Prompts are encoded before the UNet is there.
    assert unet + vae < plain.memory.loading < unet + vae + plain.memory.adapter + 2**25


def test_a_resolution_that_does_not_fit_the_model_is_an_error_before_loading():
    with pytest.raises(LobaError, match=r"train\.resolution"):
        Estimator(CPU, plugins=SHIPPED).estimate(recipe_of(train={"resolution": 33}))


def test_looks_while_it_trains_take_what_those_of_the_proof_take():
    def sampling(**sections: object) -> int:
        made = recipe_of(sample={"batch_size": 1, "prompts": ["a circle"]}, **sections)
        return Estimator(CPU, plugins=SHIPPED).estimate(made).memory.sampling

    proven = sampling(proof={"enabled": True})
    looked_at = sampling(train={"steps": 2, "batch_size": 2, "efficacy_every": 1})
    assert sampling() < looked_at == proven


def test_evaluations_and_the_extra_step_are_counted(estimate: Estimate) -> None:
    held = {"target": "a line", "positive": "a large line", "negative": "a small line"}
    section = {"every": 1, "concepts": [held], "timesteps": 4, "training_loss": False}
    estimator = Estimator(CPU, plugins=SHIPPED)
    plain, checked = estimate.work, estimator.estimate(recipe_of(validation=section)).work
    # One image of the concept in 3 guided steps, at 4 timesteps with what is asked of the base;
    # and two evaluations of 4 rows and of what is preserved.
    assert plain.validation_rows == 0
    assert 2 * 3 + 4 * 3 + 2 * 4 <= checked.validation_rows <= 2 * (2 * 3 + 4 * 5 + 2 * 8)
    assert checked.flops > plain.flops
    gradient = estimator.estimate(recipe_of(adapter={"init": "gradient"})).work
    assert (plain.extra_steps, gradient.extra_steps) == (0, 1)
    assert gradient.flops == pytest.approx(plain.flops + plain.flops_per_step)


def test_the_best_adapter_takes_disk_and_its_images_time(estimate: Estimate) -> None:
    measured = {"by": "measured_rho", "every": 1, "measure": {"name": "shape_area"}}
    best = estimate_of_best({"best": {**measured, "prompts": ["a square"], "seeds": [1, 2]}})
    assert best.disk.checkpoint == estimate.disk.checkpoint + 4 * estimate.trained_parameters
    assert best.disk.adapter == 2 * estimate.disk.adapter
    # Two images of the base, and of scale 1 twice two, in one guided step each.
    assert best.work.sample_rows == estimate.work.sample_rows + (2 + 2 * 2) * 2


def estimate_of_best(save: dict[str, object]) -> Estimate:
    return Estimator(CPU, plugins=SHIPPED).estimate(recipe_of(save=save))
