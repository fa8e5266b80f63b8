"""A run that begins with an adapter file: what is taken of it, at which rank, and what is told."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from program_runs import adapter_hashes, events, new_run, run_here, shape_slider
from safetensors.torch import load_file, save_file

from loba_tui.core.adapter_metadata import INIT_FROM_KEY
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.associate.safe_files import check_safetensors
from loba_tui.core.errors import LobaError, NumericsError, RecipeError
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.adapter import write_adapter
from loba_tui.core.program.adapter_layers.attach import attach_adapter
from loba_tui.core.program.adapter_layers.kinds import tuner_layers
from loba_tui.core.program.training.initial_adapter import InitialFile, begin_with
from loba_tui.core.recipe.load import dump_recipe, load_recipe, parse_recipe
from loba_tui.core.recipe.schema import Recipe

ATTENTION = {"name": "lora", "layers": ["cross_attention"]}
LOCON = {"name": "locon", "layers": ["cross_attention", "convolution"], "conv_rank": 2}


def recipe_of(folder: Path, **adapter: Any) -> Recipe:
    return parse_recipe(
        {
            "version": 1,
            "base_model": {"id": str(folder), "device": "cpu"},
            "method": {
                "name": "text_slider",
                "concepts": [{"target": "a", "positive": "b", "negative": "c"}],
            },
            "adapter": adapter,
        },
        plugins=SHIPPED,
    )


def model_with(folder: Path, **adapter: Any) -> ModelContainer:
    """Return a model with a new adapter."""
    container = ModelCache("cpu", torch.float32).container(str(folder))
    attach_adapter(recipe_of(folder, **adapter), container, SHIPPED)
    return container


Make = Callable[..., Path]
RAW = "as-trained.safetensors"


@pytest.fixture
def trained(tiny_sdxl_folder: Path, tmp_path: Path) -> Make:
    """Write the files of an adapter that changes something, and return the folder."""

    def make(**adapter: Any) -> Path:
        container = model_with(tiny_sdxl_folder, **adapter)
        torch.manual_seed(3)
        for name, parameter in container.denoiser.named_parameters():
            if "lora_B" in name or "hada_w2_b" in name:
                parameter.data = 0.1 * torch.randn_like(parameter)
        folder = tmp_path / "trained"
        folder.mkdir()
        parameters = dict(container.denoiser.named_parameters())
        save_file({n: p.detach() for n, p in parameters.items() if p.requires_grad}, folder / RAW)
        write_adapter(container.denoiser, OwnedFolder(folder))
        return folder

    return make


def updates(container: ModelContainer) -> dict[str, torch.Tensor]:
    """Return the change of every layer's weight."""
    with torch.no_grad():
        return {
            name: layer.get_delta_weight("default").double().flatten(1)
            for name, layer in tuner_layers(container.denoiser, "default")
        }


def weights(layer: BaseTunerLayer) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


@pytest.mark.parametrize("name", ["adapter.safetensors", "adapter.kohya.safetensors"])
@pytest.mark.parametrize("adapter", [{**ATTENTION, "alpha": 0.7}, {**LOCON, "conv_alpha": 2}])
def test_the_same_rank_and_alpha_take_the_very_bits(
    tiny_sdxl_folder: Path, trained: Make, adapter: dict[str, Any], name: str
) -> None:
    folder = trained(**adapter)
    container = model_with(tiny_sdxl_folder, **adapter)
    facts = begin_with(InitialFile.read(str(folder / name)), container.denoiser)
    trained_weights = load_file(folder / RAW)
    # The strength that is folded into B there costs a rounding, unless it is a power of two.
    is_rounded = "kohya" not in name and math.log2(adapter.get("alpha", 1)) % 1
    for module, weight in trained_weights.items():
        begun = container.denoiser.get_parameter(module).detach()
        torch.testing.assert_close(begun, weight, rtol=2e-7 if is_rounded else 0, atol=0)
    assert facts["layers"] == len(trained_weights) // 2
    assert (facts["fresh"], facts["unused"], facts["ranks"], facts["error"]) == (0, 0, {}, 0)


@pytest.mark.parametrize(("rank", "alpha"), [(7, 1.0), (2, 5.0)])
def test_another_rank_keeps_what_it_can_of_the_update(
    tiny_sdxl_folder: Path, trained: Make, rank: int, alpha: float
) -> None:
    folder = trained(**LOCON)
    whole = model_with(tiny_sdxl_folder, **LOCON)
    file = InitialFile.read(str(folder / "adapter.safetensors"))
    begin_with(file, whole.denoiser)
    container = model_with(
        tiny_sdxl_folder, **{**LOCON, "rank": rank, "alpha": alpha, "conv_rank": rank}
    )
    started = {n: weights(la)[0].clone() for n, la in tuner_layers(container.denoiser, "default")}
    facts = begin_with(file, container.denoiser)

    lost = total = 0.0
    wanted = updates(whole)
    for name, update in updates(container).items():
        left, values, right = torch.linalg.svd(wanted[name], full_matrices=False)
        nearest = (left[:, :rank] * values[:rank]) @ right[:rank]
        torch.testing.assert_close(update, nearest, atol=1e-6, rtol=1e-5)
        lost += float(values[rank:].square().sum())
        total += float(values.square().sum())
    assert facts["error"] == pytest.approx(math.sqrt(lost / total), rel=1e-2, abs=1e-6)
    if rank == 7:
        assert facts["error"] == 0
        for name, layer in tuner_layers(container.denoiser, "default"):
            given = 2 if "conv" in name or "sampler" in name or "short" in name else 4
            assert torch.equal(weights(layer)[0][given:], started[name][given:])
            assert not weights(layer)[1][:, given:].any()
    assert set(facts["ranks"]) == ({"4 to 7", "2 to 7"} if rank == 7 else {"4 to 2"})


def test_a_layer_that_the_file_leaves_at_zero_can_still_be_trained(
    tiny_sdxl_folder: Path, trained: Make
) -> None:
    path = trained(**ATTENTION) / "adapter.safetensors"
    tensors = load_file(path)
    module = next(iter(tensors)).split(".lora_")[0]
    for part in ("A", "B"):
        tensors[f"{module}.lora_{part}.weight"] = torch.zeros_like(
            tensors[f"{module}.lora_{part}.weight"]
        )
    save_file(tensors, path)
    for rank in (2, 4):
        container = model_with(tiny_sdxl_folder, **ATTENTION, rank=rank)
        begin_with(InitialFile.read(str(path)), container.denoiser)
        layer = container.denoiser.get_submodule(module.removeprefix("unet."))
        down, up = weights(layer)
        assert down.flatten(1).any(dim=1).all()
        assert not up.any()


def test_what_is_not_in_the_file_starts_anew_and_what_is_not_used_is_named(
    tiny_sdxl_folder: Path, trained: Make
) -> None:
    folder = trained(name="lora", layers=["cross_attention", "feed_forward"])
    adapter = {"name": "lora", "layers": ["cross_attention", "self_attention"]}
    container = model_with(tiny_sdxl_folder, **adapter)
    before = {n: weights(la)[0].clone() for n, la in tuner_layers(container.denoiser, "default")}
    facts = begin_with(InitialFile.read(str(folder / "adapter.safetensors")), container.denoiser)
    fresh = [name for name in before if ".attn1." in name]
    assert facts["fresh"] == len(fresh) > 0
    for name in fresh:
        down, up = weights(container.denoiser.get_submodule(name))
        assert torch.equal(down, before[name])
        assert not up.any()
    assert facts["unused"] > 0
    assert all(".ff." in name for name in facts["unused_names"])


def test_a_loha_file_can_be_begun_with_as_a_lora(tiny_sdxl_folder: Path, trained: Make) -> None:
    folder = trained(name="loha", rank=2, layers=["cross_attention"])
    container = model_with(tiny_sdxl_folder, **ATTENTION)
    facts = begin_with(InitialFile.read(str(folder / "adapter.safetensors")), container.denoiser)
    assert facts["layers"] > 0
    assert facts["error"] == pytest.approx(0, abs=1e-4)  # a product of two of rank 2 is of rank 4


def test_files_that_do_not_fit_are_refused(
    tiny_sdxl_folder: Path, tiny_sd_folder: Path, trained: Make, tmp_path: Path
) -> None:
    file = trained(**ATTENTION) / "adapter.safetensors"
    for folder, adapter, message in (
        (tiny_sd_folder, ATTENTION, "is for another model|has none of the layers"),
        (tiny_sdxl_folder, {"name": "lora", "layers": ["feed_forward"]}, "none of the layers"),
        (tiny_sdxl_folder, {"name": "dora", "layers": ["cross_attention"]}, "DoRA cannot begin"),
    ):
        container = model_with(folder, **adapter)
        with pytest.raises(RecipeError, match=message):
            begin_with(InitialFile.read(str(file)), container.denoiser)
    with pytest.raises(RecipeError, match="no adapter"):
        InitialFile.read(str(tmp_path / "missing.safetensors"))
    with pytest.raises(RecipeError, match="not a run folder"):
        InitialFile.read(str(tmp_path))
    tensors = load_file(file)
    name, tensor = next(iter(tensors.items()))
    save_file({**tensors, name: torch.full_like(tensor, math.nan)}, file)
    with pytest.raises(NumericsError, match="not finite"):
        InitialFile.read(str(file))


def test_text_encoders_of_a_file_are_counted_and_named(
    tiny_sdxl_folder: Path, trained: Make
) -> None:
    path = trained(**ATTENTION) / "adapter.kohya.safetensors"
    encoder = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
    more = {"lora_down.weight": torch.ones(2, 8), "lora_up.weight": torch.ones(8, 2)}
    save_file({**load_file(path), **{f"{encoder}.{k}": v for k, v in more.items()}}, path)
    container = model_with(tiny_sdxl_folder, **ATTENTION)
    facts = begin_with(InitialFile.read(str(path)), container.denoiser)
    assert facts["unused"] == 1
    assert "self_attn.q_proj" in facts["unused_names"][0]


def test_a_dora_file_is_refused(trained: Make) -> None:
    with pytest.raises(LobaError, match=r"adapter.init_from: .*DoRA"):
        InitialFile.read(str(trained(name="dora", rank=2) / "adapter.safetensors"))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"adapter": {"name": "oft", "init_from": "a.safetensors"}}, "only a LoRA or LoCon"),
        (
            {
                "adapter": {"init_from": "a.safetensors"},
                "method": {"name": "text_slider", "warm_start": "instant"},
            },
            "method.warm_start says already",
        ),
        (
            {"adapter": {"init_from": "a.safetensors"}, "method": {"name": "instant_slider"}},
            "computes its adapter without training",
        ),
    ],
)
def test_a_recipe_that_says_two_beginnings_is_refused(
    sections: dict[str, Any], message: str
) -> None:
    concept = {"target": "a", "positive": "b", "negative": "c"}
    method = {"name": "text_slider", **sections.get("method", {}), "concepts": [concept]}
    whole = {"version": 1, "base_model": {"id": "builtin:shapes-xl"}, **sections, "method": method}
    with pytest.raises(RecipeError, match=message):
        parse_recipe(whole, plugins=SHIPPED)


def test_a_recipe_without_it_is_written_as_it_was(tmp_path: Path) -> None:
    assert "init_from" not in dump_recipe(recipe_of(tmp_path))
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe_of(tmp_path, init_from="old/size.safetensors")))
    assert load_recipe(file, plugins=SHIPPED).adapter.init_from == str(
        tmp_path / "old" / "size.safetensors"
    )


QUICK = {
    "sample": {"steps": 1, "scales": [-1, 1]},
    "proof": {"enabled": False},
    "save": {"every": 1},
}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_run_begins_with_another_and_says_so_in_its_file(tmp_path: Path) -> None:
    train = {"steps": 2, "batch_size": 1}
    first = run_here(shape_slider(2, train=train, **QUICK), new_run(shape_slider(2), tmp_path))
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(first.adapter.path.read_bytes())
    recipe = shape_slider(2, train=train, adapter={"init_from": str(mine), "rank": 2}, **QUICK)
    runs = [run_here(recipe, new_run(recipe, tmp_path)) for _ in range(2)]
    assert adapter_hashes(runs[0]) == adapter_hashes(runs[1]) != adapter_hashes(first)

    (told,) = events(runs[0], "init_from")
    (sha256, _) = adapter_hashes(first)
    assert (told["file"], told["sha256"]) == ("mine.safetensors", sha256)
    assert told["ranks"] == {"4 to 2": told["layers"]}
    metadata = check_safetensors(runs[0].adapter.path)["__metadata__"]
    assert json.loads(metadata[INIT_FROM_KEY])["sha256"] == sha256
    assert str(tmp_path) not in json.dumps(metadata)

    # The last step made again from the checkpoint before it; the file is not there any more.
    mine.unlink()
    (last,) = runs[0].checkpoints.path.glob("step-*2")
    for each in last.iterdir():
        each.unlink()
    last.rmdir()
    wanted = adapter_hashes(runs[0])
    run_here(recipe, runs[0], resume=True)
    assert adapter_hashes(runs[0]) == wanted
    folder = shape_slider(2, train=train, adapter={"init_from": str(first.path)}, **QUICK)
    assert events(run_here(folder, new_run(folder, tmp_path)), "init_from")[0]["sha256"] == sha256
