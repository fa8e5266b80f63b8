"""What is written of transformers' adapters: forms, merged files, and models with them inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from tiny_adapters import add_moved_adapter
from tiny_transformers import TINY, Tiny, as_original, linear_layers
from torch import Tensor, nn

from loba_tui.core.errors import RecipeError
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.program.adapter_files.adapter import write_adapter
from loba_tui.core.program.adapter_files.load import load_adapter
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.combine.attach import Part
from loba_tui.core.program.combine.merge import merge, write_merged
from loba_tui.core.program.exporting.bake import bake
from loba_tui.core.program.exporting.checkpoints import opened_weights
from loba_tui.core.program.exporting.extract import extract
from loba_tui.core.program.exporting.forms import LoraParts, Wanted, as_lora, write_form

NEAR = 1e-6


def no_progress(done: int, total: int) -> None:
    assert done <= total


def close(one: Tensor, other: Tensor, near: float = NEAR) -> bool:
    return float((one - other).abs().max()) <= near * max(1.0, float(other.abs().max()))


def adapted(tiny: Tiny, folder: Path, **options: Any) -> tuple[nn.Module, Path]:
    model = tiny.made()
    settings = {"r": 2, "lora_alpha": 3.0, "target_modules": linear_layers(model), **options}
    add_moved_adapter(model, LoraConfig(**settings))
    folder.mkdir()
    write_adapter(model, OwnedFolder(folder), metadata={"loba.recipe": "x"})
    return model, folder / "adapter.safetensors"


@pytest.fixture(params=TINY)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return TINY[request.param]


@pytest.mark.parametrize("form", ["diffusers", "comfy", "peft"])
def test_every_form_does_the_same(tiny: Tiny, form: Any, tmp_path: Path) -> None:
    model, file = adapted(tiny, tmp_path / "own")
    read, wanted = read_adapter_file(file), Wanted(form)
    target = tmp_path / ("folder" if form == "peft" else "out.safetensors")
    parts = as_lora(read, wanted, no_progress)
    written, left_out = write_form(parts, read.metadata, wanted, target)
    assert left_out == []
    other = tiny.made()
    if form == "peft":
        other = PeftModel.from_pretrained(other, str(target)).base_model.model
    else:
        load_adapter(tiny.container(other), written.path)
    assert close(tiny.asked(other), tiny.asked(model))


def test_kohyas_form_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    _, file = adapted(tiny, tmp_path / "own")
    read, wanted = read_adapter_file(file), Wanted("kohya")
    with pytest.raises(RecipeError, match=f"this adapter is for {tiny.name}"):
        write_form(as_lora(read, wanted, no_progress), read.metadata, wanted, tmp_path / "x")


def test_merged_files_do_what_both_do(tiny: Tiny, tmp_path: Path) -> None:
    _, first = adapted(tiny, tmp_path / "one")
    _, second = adapted(tiny, tmp_path / "two", r=1, lora_alpha=1.0)
    parts = [Part(first, 0.5), Part(second, -1.0)]
    merged = merge(parts)
    expected = tiny.made()
    for part in parts:
        for name, layer in read_adapter_file(part.source).denoiser_layers.items():
            weight = expected.get_submodule(name).weight
            weight += part.strength * layer.weight.delta(weight)
    for form in ("diffusers", "comfy"):
        path = write_merged(merged, parts, tmp_path / f"{form}.safetensors", file_format=form).path
        other = tiny.made()
        load_adapter(tiny.container(other), path)
        assert close(tiny.asked(other), tiny.asked(expected))
    with pytest.raises(RecipeError, match="kohya's keys"):
        write_merged(merged, parts, tmp_path / "k.safetensors", file_format="kohya")


def test_adapters_of_two_transformers_are_not_merged(tmp_path: Path) -> None:
    files = [adapted(TINY[name], tmp_path / name)[1] for name in ("FLUX.1", "SD 3")]
    with pytest.raises(RecipeError, match=r"is for FLUX\.1, and adapter\.safetensors for SD 3"):
        merge([Part(file, 1.0) for file in files])


@pytest.mark.parametrize("is_original", [True, False], ids=["original", "diffusers"])
def test_a_checkpoint_has_it_inside(tiny: Tiny, is_original: bool, tmp_path: Path) -> None:
    _, file = adapted(tiny, tmp_path / "own")
    model, layers = tiny.made(), read_adapter_file(file).denoiser_layers
    expected = tiny.made()
    for name, layer in layers.items():
        weight = expected.get_submodule(name).weight
        weight += 1.5 * layer.weight.delta(weight)
    vae = {"first_stage_model.encoder.conv_in.weight": torch.ones(2, 2, 3, 3)}
    forms = [as_original(each) | vae for each in (model, expected)]
    if not is_original:
        forms = [dict(each.state_dict()) for each in (model, expected)]
    before, after = forms
    save_file(before, tmp_path / "model.safetensors")
    baked = bake(
        read_adapter_file(file),
        1.5,
        tmp_path / "model.safetensors",
        tmp_path / "out.safetensors",
        no_progress,
    )
    assert baked.left_out == []
    made = load_file(tmp_path / "out.safetensors")
    assert made.keys() == after.keys()
    for key, tensor in made.items():
        torch.testing.assert_close(tensor, after[key], rtol=1e-6, atol=1e-6)
    assert sum(not torch.equal(made[key], before[key]) for key in made) == baked.num_tensors


def test_a_lora_is_taken_from_two_models(tiny: Tiny, tmp_path: Path) -> None:
    _, file = adapted(tiny, tmp_path / "own")
    tuned = tiny.made()
    for name, layer in read_adapter_file(file).denoiser_layers.items():
        weight = tuned.get_submodule(name).weight
        weight += layer.weight.delta(weight)
    save_file(as_original(tuned), tmp_path / "tuned.safetensors")
    tiny.made().save_pretrained(tmp_path / "base" / "transformer")
    with (
        opened_weights(tmp_path / "tuned.safetensors") as one,
        opened_weights(tmp_path / "base") as other,
    ):
        found = extract(one, other, 2, no_progress)
        assert other.transformer == tiny.name
    parts = LoraParts(
        {"transformer": found.layers}, found.losses, found.left_out, family_name=tiny.name
    )
    wanted = Wanted("comfy")
    written, _ = write_form(parts, {}, wanted, tmp_path / "out.safetensors")
    model = tiny.made()
    load_adapter(tiny.container(model), written.path)
    assert close(tiny.asked(model), tiny.asked(tuned), 1e-3)


def test_biases_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    name = "diffusion_model.double_blocks.0.img_mod.lin"
    file = {
        f"{name}.lora_A.weight": torch.ones(2, 32),
        f"{name}.lora_B.weight": torch.ones(192, 2),
        f"{name}.diff_b": torch.ones(192),
    }
    save_file(file, tmp_path / "f.safetensors")
    read, wanted = read_adapter_file(tmp_path / "f.safetensors"), Wanted("comfy")
    parts = as_lora(read, wanted, no_progress)
    assert parts.left_out == ("1 bias change, which a LoRA does not hold",)
    written, _ = write_form(parts, read.metadata, wanted, tmp_path / "out.safetensors")
    again = load_file(written.path)
    assert set(again) == {
        f"transformer.transformer_blocks.0.norm1.linear.{part}"
        for part in ("lora_A.weight", "lora_B.weight", "alpha")
    }
    save_file({f"{name}.diff_b": torch.ones(192)}, tmp_path / "b.safetensors")
    with pytest.raises(RecipeError, match="no layer that a LoRA could hold"):
        as_lora(read_adapter_file(tmp_path / "b.safetensors"), wanted, no_progress)


def test_a_checkpoint_with_an_odd_tensor_is_no_traceback(tiny: Tiny, tmp_path: Path) -> None:
    _, file = adapted(tiny, tmp_path / "own")
    tensors = as_original(tiny.made())
    key = next(key for key in tensors if key.endswith(".weight") and tensors[key].ndim == 2)
    for odd in (torch.tensor(1.0), torch.ones(3), torch.ones(0, 4), torch.ones(4, 0)):
        save_file(tensors | {key: odd}, tmp_path / "model.safetensors")
        read = read_adapter_file(file)
        with pytest.raises(RecipeError):
            bake(
                read, 1.0, tmp_path / "model.safetensors", tmp_path / "out.safetensors", no_progress
            )
