"""Several adapters at once: merged, and compared, against the dense algebra and each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_adapters import add_adapter, fresh, made_folder, move_adapter
from torch import Tensor

from loba_tui.client.runs import replay
from loba_tui.core.adapter_metadata import MERGED_KEY
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.adapter import read_adapter, write_adapter
from loba_tui.core.program.adapter_files.formats import LoraLayer
from loba_tui.core.program.adapter_files.load import load_adapter
from loba_tui.core.program.adapter_files.read.layers import AdapterFile
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.adapter_layers.kinds import (
    tuner_layers,
)
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.combine.attach import Part, SeveralScales, attach
from loba_tui.core.program.combine.interference import measure_overlap, measured_attribute
from loba_tui.core.program.combine.interference_plot import interference_png
from loba_tui.core.program.combine.merge import inner_product, merge, reduce_rank, write_merged
from loba_tui.core.program.trajectories.held_out import roll_out

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {"alpha": 2.0}),
    "locon": ("locon", {"rank": 2, "layers": ["cross_attention", "convolution"]}),
    "loha": ("loha", {"rank": 2}),
    "lokr": ("lokr", {"rank": 2}),
    "dora": ("dora", {}),
    "oft": ("oft", {}),
}


def files_of(parts: list[Part]) -> list[AdapterFile]:
    return [read_adapter_file(part.source) for part in parts]


@pytest.fixture(scope="module")
def files(tiny_sdxl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, made = tmp_path_factory.mktemp("adapters"), {}
    for number, (name, (kind, options)) in enumerate(KINDS.items()):
        container = fresh(tiny_sdxl_folder)
        add_adapter(container, kind, options)
        move_adapter(container, seed=number, is_relative=False)
        write_adapter(
            container.denoiser, made_folder(folder / name), metadata={"loba.base_model": "tiny"}
        )
        made[name] = folder / name / "adapter.safetensors"
    return made


@torch.no_grad()
def prediction(container: ModelContainer) -> Tensor:
    noise = torch.randn(2, *container.latent_shape(), generator=torch.Generator().manual_seed(0))
    return container.predict(noise, torch.tensor([100, 800]), container.empty_embeds())


@pytest.mark.parametrize(
    ("one", "other"), [("lora", "locon"), ("locon", "loha"), ("lora", "lokr"), ("loha", "lokr")]
)
@torch.no_grad()
def test_a_merged_file_is_the_sum_of_the_weights_that_peft_merges(
    one: str, other: str, files: dict[str, Path], tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    parts = [Part(files[one], 1.5), Part(files[other], -0.5)]
    merged = merge(parts)
    assert merged.error == 0
    path = write_merged(merged, parts, tmp_path / "both.safetensors", file_format="diffusers").path
    ours = fresh(tiny_sdxl_folder)
    load_adapter(ours, path)

    expected = fresh(tiny_sdxl_folder)
    for part in parts:
        alone = fresh(tiny_sdxl_folder)
        load_adapter(alone, part.path)
        for name, layer in tuner_layers(alone.denoiser, "default"):
            before = layer.get_base_layer().weight.clone()
            layer.merge()
            change = layer.get_base_layer().weight - before
            expected.denoiser.get_submodule(name).weight += part.strength * change
    torch.testing.assert_close(prediction(ours), prediction(expected), rtol=1e-3, atol=1e-4)
    made_of = json.loads(read_adapter(path)[2][MERGED_KEY])
    assert [origin["strength"] for origin in made_of] == [1.5, -0.5]
    with pytest.raises(RecipeError, match="merged from several"):
        replay.require_recipe(replay.Adapter.read(path))


def test_attached_together_they_do_what_the_merged_file_does(
    files: dict[str, Path], tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    parts = [Part(files["lora"], 1.5), Part(files["locon"], -0.5)]
    together, one = fresh(tiny_sdxl_folder), fresh(tiny_sdxl_folder)
    base = prediction(together)
    names = attach(together, parts, files_of(parts))
    scales = [AdapterScale(together.denoiser, name) for name in names]
    several = SeveralScales(scales, [part.strength for part in parts])
    load_adapter(
        one,
        write_merged(merge(parts), parts, tmp_path / "m.safetensors", file_format="kohya").path,
    )
    scale = AdapterScale(one.denoiser)
    for factor in (1.0, -2.0):
        with several(factor), scale(factor):
            torch.testing.assert_close(prediction(together), prediction(one), rtol=1e-3, atol=1e-4)
    with several.base():
        assert torch.equal(prediction(together), base)
    with several(torch.tensor([0.0, 0.0])):
        assert torch.equal(prediction(together), base)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 3)])
def test_a_lower_rank_is_as_near_as_any_and_says_how_near(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    down = torch.randn(4, *shape[1:], generator=generator)
    up = torch.randn(shape[0], 4, *[1] * (len(shape) - 2), generator=generator)
    whole = 0.5 * up.flatten(1) @ down.flatten(1)
    reduced, dropped, total = reduce_rank(LoraLayer(down, up, 2.0), 2)
    values = torch.linalg.svdvals(whole.double())
    assert dropped == pytest.approx(float(values[2:].square().sum()), rel=1e-5)
    assert total == pytest.approx(float(whole.square().sum()), rel=1e-5)
    near = reduced.alpha / reduced.rank * reduced.up.flatten(1) @ reduced.down.flatten(1)
    assert float((whole - near).square().sum()) == pytest.approx(dropped, rel=1e-3)
    assert reduced.down.shape == (2, *shape[1:])


def test_products_of_factors_are_those_of_the_weights() -> None:
    generator = torch.Generator().manual_seed(0)

    def layer(rank: int, alpha: float) -> tuple[LoraLayer, Tensor]:
        down = torch.randn(rank, 5, 3, 3, generator=generator)
        up = torch.randn(6, rank, 1, 1, generator=generator)
        return LoraLayer(down, up, alpha), alpha / rank * up.flatten(1) @ down.flatten(1)

    (one, dense), (other, second) = layer(3, 2.0), layer(4, 0.5)
    assert inner_product(one, other) == pytest.approx(float((dense * second).sum()), rel=1e-4)


def test_merging_to_a_rank_says_what_was_lost(files: dict[str, Path]) -> None:
    parts = [Part(files["lora"], 1.0), Part(files["locon"], 1.0)]
    merged = merge(parts, rank=3)
    assert max(layer.rank for layer in merged.layers.values()) == 3
    assert 0 < merged.error < merged.worst_error < 1
    assert merged.worst_layer in merged.layers


@pytest.mark.parametrize("kind", ["dora", "oft"])
def test_what_is_not_of_low_rank_is_not_merged(kind: str, files: dict[str, Path]) -> None:
    with pytest.raises(RecipeError, match="not of low rank"):
        merge([Part(files["lora"], 1.0), Part(files[kind], 1.0)])


@torch.no_grad()
def test_kinds_that_peft_cannot_hold_together_work_together(
    files: dict[str, Path], tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    parts = [Part(files["loha"], 1.0), Part(files["lora"], -0.5)]
    together, one = fresh(tiny_sdxl_folder), fresh(tiny_sdxl_folder)
    names = attach(together, parts, files_of(parts))
    scales = [AdapterScale(together.denoiser, name) for name in names]
    several = SeveralScales(scales, [part.strength for part in parts])
    merged = write_merged(merge(parts), parts, tmp_path / "m.safetensors", file_format="kohya")
    load_adapter(one, merged.path)
    with several(1.0):
        torch.testing.assert_close(prediction(together), prediction(one), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("strength", "overlap"), [(1.0, 1.0), (-1.0, -1.0)])
def test_an_adapter_overlaps_with_itself_and_is_against_its_opposite(
    strength: float, overlap: float, files: dict[str, Path], tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    """Its length is tiny, so that the denoiser is next to linear in it."""
    container = fresh(tiny_sdxl_folder)
    parts = [Part(files["lora"], 1e-3), Part(files["lora"], 1e-3 * strength)]
    names = attach(container, parts, files_of(parts))
    scale = AdapterScale(container.denoiser, names[0])
    prompts = container.empty_embeds()
    held_out = roll_out(
        container,
        scale,
        prompts,
        make_scheduler=lambda: SHIPPED.load("noise", "ddim")(container.scheduler_config),
        seed=0,
    )
    scale.remove()
    found = measure_overlap(
        container, names, [part.strength for part in parts], ["a", "b"], held_out, prompts
    )
    (pair,) = found.pairs
    assert pair.overlap == pytest.approx(overlap, abs=0.05)
    assert list(found.blocks) == [
        "down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1",
    ]  # fmt: skip
    for (part,) in found.blocks.values():
        assert part.overlap == pytest.approx(overlap, abs=0.2)
    if strength > 0:
        assert found.additivity < 0.1
    assert any("overlap" in sentence for sentence in found.sentences())
    images = np.random.default_rng(0).random((2, 4, 16, 16, 3))
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(interference_png(found, images, ["a dot", "another"]))
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_what_is_left_of_an_adapters_own_change() -> None:
    found = measured_attribute("shape_area", 1, ["dark", "large"], [100.0, 101.0, 300.0, 250.0])
    assert found.kept == pytest.approx(0.75)
    assert "75% of large's own change is left" in found.sentence()
    still = measured_attribute("shape_area", 0, ["dark", "large"], [100.0, 100.0, 300.0, 250.0])
    assert still.kept is None
