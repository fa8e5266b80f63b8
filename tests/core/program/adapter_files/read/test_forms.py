"""The forms in which tools write the same adapter, each made here: all of them mean the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from loba_tui.core.errors import CorruptError, LobaError, NumericsError, RecipeError, RefusedError
from loba_tui.core.program.adapter_files.read.layers import AdapterFile
from loba_tui.core.program.adapter_files.read.read import read_adapter_file

MODULES = {
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": (
        "input_blocks.4.1.transformer_blocks.0.attn2.to_k",
        (64, 112),
    ),
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0": (
        "middle_block.1.transformer_blocks.0.attn1.to_out.0",
        (96, 96),
    ),
}
RANK, ALPHA = 4, 2.0
Tensors = dict[str, torch.Tensor]


def factors(module: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(module))
    outputs, inputs = MODULES[module][1]
    down = torch.randn(RANK, inputs, generator=generator)
    return down, torch.randn(outputs, RANK, generator=generator)


def file_with(name: str, down: str, up: str, *, alpha: str = "") -> Tensors:
    """Return a file whose keys are `name` and suffixes; alpha is in the weights if it has none."""
    made: Tensors = {}
    for module, (sgm, _) in MODULES.items():
        flat = {"flat": module.replace(".", "_"), "sgm_flat": sgm.replace(".", "_")}
        key = name.format(module=module, sgm=sgm, **flat)
        low, high = factors(module)
        made[key + down] = low
        made[key + up] = high if alpha else high * (ALPHA / RANK)
        if alpha:
            made[key + alpha] = torch.tensor(ALPHA)
    return made


AB = (".lora_A.weight", ".lora_B.weight")
DOWN_UP = (".lora_down.weight", ".lora_up.weight")
FORMS: dict[str, Any] = {
    "kohya, Stability's names": lambda: file_with("lora_unet_{sgm_flat}", *DOWN_UP, alpha=".alpha"),
    "kohya, diffusers' names": lambda: file_with("lora_unet_{flat}", *DOWN_UP, alpha=".alpha"),
    "kohya without alpha": lambda: file_with("lora_unet_{sgm_flat}", *DOWN_UP),
    "ComfyUI": lambda: file_with("diffusion_model.{sgm}", *DOWN_UP, alpha=".alpha"),
    "ComfyUI's whole names": lambda: file_with("model.diffusion_model.{sgm}", *AB),
    "diffusers": lambda: file_with("unet.{module}", *AB),
    "diffusers with alpha": lambda: file_with("unet.{module}", *AB, alpha=".alpha"),
    "no prefix": lambda: file_with("{module}", *AB),
    "prefix twice": lambda: file_with("unet.unet.{module}", *AB),
    "before PEFT": lambda: file_with("unet.{module}", ".lora.down.weight", ".lora.up.weight"),
    "OneTrainer": lambda: file_with("unet.{module}", *DOWN_UP, alpha=".alpha"),
    "PEFT": lambda: file_with("base_model.model.{module}", *AB),
    "PEFT in a UNet": lambda: file_with("unet.base_model.model.{module}", *AB),
    "adapter's name": lambda: file_with(
        "unet.{module}", ".lora_A.default_0.weight", ".lora_B.default_0.weight"
    ),
    "SimpleTuner": lambda: file_with("lycoris_{flat}", *DOWN_UP, alpha=".alpha"),
    "fp16": lambda: {k: v.half() for k, v in FORMS["OneTrainer"]().items()},
    "fp64": lambda: {k: v.double() for k, v in FORMS["OneTrainer"]().items()},
    "1x1 convolutions": lambda: {
        k: v[..., None, None] if v.ndim == 2 else v for k, v in FORMS["OneTrainer"]().items()
    },
    "processors": lambda: {
        _as_processor(key): value for key, value in FORMS["before PEFT"]().items()
    },
}


def _as_processor(key: str) -> str:
    name, _, rest = key.partition(".lora.")
    attention, _, projection = name.removesuffix(".0").rpartition(".")
    return f"{attention}.processor.{projection}_lora.{rest}"


def read(tensors: Tensors, folder: Path, metadata: dict[str, str] | None = None) -> AdapterFile:
    save_file(
        {key: each.contiguous() for key, each in tensors.items()},
        folder / "f.safetensors",
        metadata,
    )
    return read_adapter_file(folder / "f.safetensors")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_means_the_same(form: str, tmp_path: Path):
    file = read(FORMS[form](), tmp_path)

    layers = file.of("unet")
    assert layers.keys() == MODULES.keys()
    assert not file.notes()
    for module, layer in layers.items():
        down, up = factors(module)
        wanted = up @ down * (ALPHA / RANK)
        tolerance = 3e-2 if form == "fp16" else 1e-5
        delta = layer.weight.delta(torch.zeros(wanted.shape))
        torch.testing.assert_close(delta, wanted, rtol=tolerance, atol=tolerance)


def test_fp8_weights_are_read(tmp_path: Path):
    tensors = FORMS["OneTrainer"]()
    file = read({k: v.to(torch.float8_e4m3fn) for k, v in tensors.items()}, tmp_path)
    for module, layer in file.of("unet").items():
        down, up = (each.to(torch.float8_e4m3fn).float() for each in factors(module))
        assert torch.equal(layer.weight.dense(), up @ down * (ALPHA / RANK))


def test_peft_reads_alpha_from_the_configuration_beside_it(tmp_path: Path):
    tensors = file_with("base_model.model.{module}", *AB)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    first = next(iter(MODULES))
    (tmp_path / "adapter_config.json").write_text(
        f'{{"r": 4, "lora_alpha": 8, "alpha_pattern": {{"{first}": 1}}}}'
    )
    layers = read_adapter_file(tmp_path / "adapter_model.safetensors").of("unet")
    assert [layer.weight.alpha for layer in layers.values()] == [1.0, 8.0]


def test_patterns_that_are_regular_expressions_are_refused(tmp_path: Path):
    config = '{"unet.lora_alpha": 2, "unet.alpha_pattern": {"(a+)+$": 1}}'
    with pytest.raises(RecipeError, match="regular expression"):
        read(FORMS["diffusers"](), tmp_path, {"lora_adapter_metadata": config})


def test_text_encoders_are_read_beside_the_unet(tmp_path: Path):
    tensors = FORMS["kohya, Stability's names"]()
    layer = "text_model_encoder_layers_0_self_attn_q_proj"
    for name in (f"lora_te1_{layer}", f"lora_te2_{layer}", "lora_te2_text_projection"):
        tensors |= {
            f"{name}.lora_down.weight": torch.ones(2, 8),
            f"{name}.lora_up.weight": torch.ones(8, 2),
        }
    file = read(tensors, tmp_path)
    assert list(file.of("text_encoder")) == ["text_model.encoder.layers.0.self_attn.q_proj"]
    assert "text_projection" in file.of("text_encoder_2")
    assert file.text_encoder_layers == 3
    assert file.keys.family.name == "SD-XL"


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("bundle_emb.word.string_to_param.*", "a text embedding"),
        ("emb_params", "a text embedding"),
        ("foo.bar", "not a key of an adapter"),
        ("lora_unet_side_blocks_1.alpha", "no layer of"),
        ("unet.mid_block.resnets.0.conv1.weight", "a whole weight"),
        ("unet.mid_block.resnets.0.conv1.lora_up.weight", "its down is missing"),
    ],
)
def test_what_is_not_used_is_counted_and_named(key: str, reason: str, tmp_path: Path):
    (note,) = read({**FORMS["OneTrainer"](), key: torch.ones(2, 3)}, tmp_path).notes()
    assert f"1 tensor not used, {key!r}" in note
    assert reason in note


def test_dora_stays_on_the_layers_that_have_it(tmp_path: Path):
    tensors = FORMS["kohya, Stability's names"]()
    name = next(iter(tensors)).partition(".")[0]
    tensors[f"{name}.dora_scale"] = torch.ones(64, 1)
    kinds = [layer.weight.kind for layer in read(tensors, tmp_path).layers]
    assert sorted(kinds) == ["DoRA", "LoRA"]


@pytest.mark.parametrize(
    ("alpha", "told", "taken"),
    [(0.0, "alpha is 0", 4.0), (-2.0, "alpha is below 0", -2.0), (3, None, 3.0)],
)
def test_odd_alphas(alpha: Any, told: str | None, taken: float, tmp_path: Path):
    tensors = FORMS["OneTrainer"]()
    tensors |= {key: torch.tensor([alpha]) for key in tensors if key.endswith("alpha")}
    file = read(tensors, tmp_path)
    assert {layer.weight.alpha for layer in file.layers} == {taken}
    assert [told in note for note in file.notes()] == ([True] if told else [])


def _changed(**changes: torch.Tensor) -> Tensors:
    made = FORMS["OneTrainer"]()
    for suffix, value in changes.items():
        made[next(key for key in made if key.endswith(suffix.replace("__", ".")))] = value
    return made


@pytest.mark.parametrize(
    ("tensors", "error", "told"),
    [
        (_changed(alpha=torch.tensor(float("nan"))), NumericsError, "alpha' is not finite"),
        (
            _changed(lora_up__weight=torch.full((64, 4), float("inf"))),
            NumericsError,
            "lora_up.weight' is not finite",
        ),
        (_changed(lora_up__weight=torch.ones(64, 8)), CorruptError, "rank 4 and lora_up 8"),
        ({}, RecipeError, "holds no tensors"),
        ({"x": torch.ones(1)}, RecipeError, "not an adapter that can be used"),
        (
            {"lora_unet_blocks_0_cross_attn_k.lora_up.weight": torch.ones(2, 2)},
            RecipeError,
            "an adapter for Wan",
        ),
        (
            {"transformer.blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 2)},
            RecipeError,
            "an adapter for a diffusion transformer",
        ),
    ],
    ids=["alpha", "infinite", "ranks", "nothing", "no adapter", "Wan", "Wan in diffusers"],
)
def test_what_has_no_meaning_is_refused(
    tensors: Tensors, error: type[LobaError], told: str, tmp_path: Path
):
    with pytest.raises(error, match=told):
        read(tensors, tmp_path)


def test_zeros_are_a_warning(tmp_path: Path):
    tensors = FORMS["OneTrainer"]()
    tensors |= {key: torch.zeros_like(v) for key, v in tensors.items() if "lora_up" in key}
    assert "changes nothing" in read(tensors, tmp_path).notes()[0]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("empty.safetensors", b"", CorruptError),
        ("page.safetensors", b"<!DOCTYPE html><html></html>", CorruptError),
        ("slider.pt", b"PK\x03\x04", RefusedError),
    ],
)
def test_what_is_no_safetensors_file_is_said_so(
    name: str, content: bytes, error: type[LobaError], tmp_path: Path
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error):
        read_adapter_file(tmp_path / name)
