"""Adapters and runs on a quantised base, by a quantizer that needs no package: a user's own."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from program_runs import adapter_hashes, events, new_run, run_here, stop_after
from safetensors import safe_open
from tiny_adapters import add_adapter, made_folder, move_adapter
from torch import Tensor

from loba_tui.client.plugins.scaffold import create
from loba_tui.client.runs.events import describe_event
from loba_tui.core.associate.caches.memory.block_offload import BlockOffload
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.associate.model_shapes import open_shapes
from loba_tui.core.associate.quantized import Quantization, quantize_shapes
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.plugins.user import UserPlugins
from loba_tui.core.program.adapter_files.adapter import write_adapter
from loba_tui.core.program.adapter_files.load import load_adapter
from loba_tui.core.program.adapter_layers.kinds import tuner_layers
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.pipeline_wrapper import quantizer_of
from loba_tui.core.program.planning.preflight import Preflight
from loba_tui.core.program.planning.simulation import RealDeviceRules, measure
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.method import Choice
from loba_tui.core.run.records import Event

CPU = torch.device("cpu")
CHOICE = Choice(name="mine")
ATTENTION = ("self_attention", "cross_attention")
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"layers": ATTENTION},
    "locon": {"layers": (*ATTENTION, "convolution")},
    "dora": {"layers": ATTENTION},
    "loha": {"layers": ATTENTION},
    "lokr": {"layers": ATTENTION},
    "oft": {"layers": ATTENTION},
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    """The shipped drop-ins, and the quantizer that `loba plugins new` writes."""
    folder = tmp_path_factory.mktemp("user") / "loba"
    user = UserPlugins(folder / "plugins", folder / "trusted.json")
    found = Plugins(user)
    create("quantizers", CHOICE.name, found)
    user.trust(user.read("quantizers", CHOICE.name))
    return found


@pytest.fixture(scope="module")
def loaded(small_sdxl_folder: Path, plugins: Plugins) -> ModelContainer:
    quantization = Quantization(CHOICE.name, quantizer_of(CHOICE, plugins), CPU)
    cache = ModelCache("cpu", torch.float32, on_read=quantization)
    return cache.container(str(small_sdxl_folder))


def copied(loaded: ModelContainer) -> ModelContainer:
    """Return a model with a denoiser of its own."""
    container = copy.copy(loaded)
    container.pipeline = copy.copy(container.pipeline)
    container.pipeline.unet = copy.deepcopy(container.pipeline.unet)
    return container


def prediction(container: ModelContainer) -> Tensor:
    source = torch.Generator().manual_seed(0)
    latents = torch.randn(2, *container.latent_shape(), generator=source)
    zeros = container.zero_embeds()
    embeds = replace(zeros, embeds=torch.randn(zeros.embeds.shape, generator=source))
    return container.predict(latents, torch.tensor([300, 700]), embeds)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_trains_and_is_kept_on_a_quantised_base(
    kind: str, loaded: ModelContainer, tmp_path: Path
) -> None:
    container = copied(loaded)
    base = prediction(container)
    add_adapter(container, kind, KINDS[kind])
    layers = len(list(tuner_layers(container.denoiser, "default")))
    move_adapter(container)
    scale = AdapterScale(container.denoiser)
    with scale(0.0):
        assert torch.equal(prediction(container), base)
    trained = [p for p in container.denoiser.parameters() if p.requires_grad]
    assert layers
    assert all(p.dtype == torch.float32 for p in trained)
    moved = prediction(container)
    gradients = torch.autograd.grad(moved.square().mean(), trained)
    assert all(bool(each.isfinite().all()) and bool(each.any()) for each in gradients)
    scale.remove()
    written = write_adapter(container.denoiser, made_folder(tmp_path / kind))
    again = copied(loaded)
    load_adapter(again, written["diffusers"].path)
    torch.testing.assert_close(prediction(again), moved, rtol=1e-4, atol=1e-5)


def test_shapes_cost_what_real_tensors_cost(
    loaded: ModelContainer, small_sdxl_folder: Path, plugins: Plugins
) -> None:
    real = copied(loaded)
    shapes = open_shapes(str(small_sdxl_folder), None, torch.float32).container
    quantize_shapes(shapes.denoiser, quantizer_of(CHOICE, plugins))
    costs = []
    for container in (shapes, real):
        add_adapter(container, "lora", KINDS["lora"])
        rows = torch.zeros(2, *container.latent_shape(), device=container.device)
        times = torch.full((2,), 500, device=container.device)
        embeds = container.zero_embeds()
        denoiser = container.denoiser
        cost = measure(
            lambda rows=rows, times=times, embeds=embeds, here=container: here.predict(
                rows, times, embeds
            ),
            with_grad=True,
            rules=RealDeviceRules() if container is shapes else None,
            present=[*denoiser.parameters(), *denoiser.buffers(), rows, times, embeds.embeds],
        )
        costs.append(cost)
    # What is copied to a device is no copy on the CPU.
    assert replace(costs[0], operators=costs[1].operators) == costs[1]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_blocks_that_wait_in_main_memory_give_the_same_bits(
    loaded: ModelContainer, checkpointing: bool
) -> None:
    found = []
    for waits in (False, True):
        container = copied(loaded)
        denoiser = container.denoiser
        offload = BlockOffload(denoiser, CPU) if waits else None
        for block in offload._blocks if offload is not None else ():
            # Who reads a weight that is away reads NaN; whole numbers have a scale beside them.
            block.away = [
                torch.full_like(each, torch.nan) if each.is_floating_point() else each
                for each in block.away
            ]
            block.point_to(block.away)
        if checkpointing:
            denoiser.train()
            denoiser.enable_gradient_checkpointing(offload.checkpoint if offload else None)
        torch.manual_seed(0)
        add_adapter(container, "lora", KINDS["lora"])
        move_adapter(container)
        trained = [p for p in denoiser.parameters() if p.requires_grad]
        output = prediction(container)
        output.square().mean().backward()
        found.append([output.detach(), *(p.grad for p in trained)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def recipe_of(folder: Path, plugins: Plugins, **base_model: Any) -> Recipe:
    concept = {"target": "a dot", "positive": "a large dot", "negative": "a small dot"}
    return parse_recipe(
        {
            "version": 1,
            "base_model": {"id": str(folder), "device": "cpu", **base_model},
            "adapter": {"name": "lora", "layers": ["cross_attention"]},
            "method": {"name": "text_slider", "rollout_steps": 2, "concepts": [concept]},
            "train": {"steps": 4, "batch_size": 1},
            "save": {"every": 2},
            "sample": {"steps": 1, "scales": [0, 1]},
            "proof": {"enabled": False},
        },
        plugins=plugins,
    )


def test_a_run_on_a_quantised_base_resumes_to_the_same_bytes_and_says_what_it_was(
    small_sdxl_folder: Path, plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Preflight, "announce", lambda *args, **options: None)  # it takes seconds
    recipe = recipe_of(small_sdxl_folder, plugins, quantize={"name": CHOICE.name})
    whole = run_here(recipe, new_run(recipe, tmp_path / "whole"), plugins=plugins)

    broken = new_run(recipe, tmp_path / "broken")
    stop_after(2, recipe, broken, plugins)
    in_float = recipe_of(small_sdxl_folder, plugins)
    with pytest.raises(RecipeError, match=r"of another recipe: base_model\.quantize was"):
        run_here(in_float, broken, resume=True, plugins=plugins)
    run_here(recipe, broken, resume=True, plugins=plugins)
    assert adapter_hashes(broken) == adapter_hashes(whole)

    (built,) = events(whole, "built")
    assert built["quantized"]["by"] == CHOICE.name
    line = describe_event(Event("built", 0.0, built))
    assert f"layers held by {CHOICE.name}" in line
    assert "% off)" in line
    (exported,) = events(whole, "exported")
    assert f"held in fewer bits by {CHOICE.name}" in exported["notes"][-1]
    with safe_open(whole.adapter.path, "pt") as file:
        metadata = file.metadata()
    assert metadata["loba.quantized"] == CHOICE.name
    assert f"quantize:\n    name: {CHOICE.name}" in metadata["loba.recipe"]


@pytest.mark.slow
def test_an_edit_in_closed_form_reads_the_weights_that_are_computed_with(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Preflight, "announce", lambda *args, **options: None)
    changes = []
    for number, base in enumerate(({}, {"quantize": {"name": CHOICE.name}})):
        concept = {"target": "a red circle", "neutral": "a circle"}
        sections = {
            "version": 1,
            "base_model": {"id": "builtin:shapes-xl", "device": "cpu", **base},
            "method": {"name": "uce", "concepts": [concept]},
            "sample": {"steps": 1, "scales": [0, 1]},
            "proof": {"enabled": False},
        }
        recipe = parse_recipe(sections, plugins=plugins)
        run = run_here(recipe, new_run(recipe, tmp_path / str(number)), plugins=plugins)
        with safe_open(run.adapter.path, "pt") as file:
            up = {n: file.get_tensor(n) for n in file.keys() if "lora_B" in n}  # noqa: SIM118
            down = {n: file.get_tensor(n.replace("lora_B", "lora_A")) for n in up}
        changes.append(torch.cat([(up[n] @ down[n]).flatten() for n in sorted(up)]))
    assert float(torch.cosine_similarity(*changes, dim=0)) > 0.999
    assert not torch.equal(*changes)
