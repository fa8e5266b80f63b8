"""Twins for tools that refuse negative weights, held against the slider in predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_adapters import fresh
from torch import Tensor

from loba_tui.client.runs.export import Export, export_request
from loba_tui.core.adapter_keys.twin_files import twin_paths
from loba_tui.core.adapter_metadata import CALIBRATION_PREFIX, EFFECT_PREFIX, TWIN_KEY
from loba_tui.core.errors import RecipeError, RefusedError
from loba_tui.core.program.adapter_files.load import load_adapter
from loba_tui.core.program.adapter_files.read.layers import AdapterFile
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.adapter_files.text_encoders import TextAdapters
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.serving.export_requests import serve_export
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.launch import Request
from loba_tui.core.run.writer import RunWriter

UNET = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_"
TEXT = "text_model_encoder_layers_1_mlp_fc2"
SIZES = {f"{UNET}k": (64, 112), f"lora_te1_{TEXT}": (48, 192), f"lora_te2_{TEXT}": (64, 256)}
PROMPT = "a red circle"
METADATA = {f"{EFFECT_PREFIX}rho": "1.000", f"{CALIBRATION_PREFIX}at": "1", "loba.recipe": "x"}


def lora(outputs: int, inputs: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    down, up = (torch.randn(*shape, generator=generator) for shape in ((2, inputs), (outputs, 2)))
    return {"lora_down.weight": down, "lora_up.weight": 0.3 * up, "alpha": torch.tensor(1.5)}


def slider(folder: Path, *, lora_parts: bool = True, biases: bool = False) -> Path:
    """Return a file with parts for the UNet and both text encoders of the tiny SD-XL."""
    tensors: dict[str, Tensor] = {}
    if lora_parts:
        for seed, (name, size) in enumerate(SIZES.items()):
            tensors |= {f"{name}.{part}": value for part, value in lora(*size, seed).items()}
    if biases:
        generator = torch.Generator().manual_seed(9)
        for name, (outputs, _) in {**SIZES, f"{UNET}out_0": (64, 64)}.items():
            if name != f"{UNET}k":  # it has no bias
                tensors[f"{name}.diff_b"] = torch.randn(outputs, generator=generator)
    path = folder / "size.safetensors"
    save_file(tensors, path, METADATA)
    return path


def twins_of(path: Path, folder: Path, form: Any, **changes: Any) -> tuple[Path, Path]:
    """Export both twins as the command asks the program to."""
    wanted = Export(str(path), form, None, None, None, folder / "out.safetensors", False, True)
    if form == "peft":
        wanted = replace(wanted, out=folder / "out")
    request = replace(export_request(wanted, Ledger(folder / "ledger")), **changes)
    served(request, folder)
    return twin_paths(Path(request.file))


def served(request: Request, folder: Path) -> None:
    run_dir = RunDir(folder / "request")
    run_dir.path.mkdir(exist_ok=True)
    run_dir.prepare()
    with RunWriter.open(run_dir) as writer:
        serve_export(request, writer)


@torch.no_grad()
def predicted(folder: Path, path: Path, strength: float) -> Tensor:
    """Return what a model predicts with a file at a strength, its text encoders' parts too."""
    container = fresh(folder)
    file: AdapterFile = load_adapter(container, path)
    prompts = container.encode_prompts([PROMPT])
    if file.text_encoder_layers:
        (prompts,) = TextAdapters(container, [(file, 1.0)]).encode([PROMPT], strength)
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(1, *container.latent_shape(), generator=generator)
    if not file.of("unet"):
        return container.predict(latents, torch.tensor([500]), prompts)
    with AdapterScale(container.denoiser)(strength):
        return container.predict(latents, torch.tensor([500]), prompts)


CASES: Mapping[str, tuple[str, dict[str, bool]]] = {
    "diffusers": ("diffusers", {}),
    "kohya": ("kohya", {}),
    "comfy": ("comfy", {}),
    "comfy with biases": ("comfy", {"biases": True}),
    "comfy, biases alone": ("comfy", {"biases": True, "lora_parts": False}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_twin_at_plus_w_is_the_slider_at_plus_or_minus_w(
    case: str, tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    form, parts = CASES[case]
    path = slider(tmp_path, **parts)
    plus, minus = twins_of(path, tmp_path, form)
    base = predicted(tiny_sdxl_folder, path, 0.0)
    for weight in (1.0, 0.6):
        up = predicted(tiny_sdxl_folder, path, weight)
        down = predicted(tiny_sdxl_folder, path, -weight)
        moved = float((up - down).abs().max())
        assert moved > 1e-3
        assert float((up - base).abs().max()) > 1e-3
        assert float((predicted(tiny_sdxl_folder, plus, weight) - up).abs().max()) < 1e-4 * moved
        assert float((predicted(tiny_sdxl_folder, minus, weight) - down).abs().max()) < 1e-4 * moved


def test_metadata_says_which_twin_it_is_and_drops_what_held_for_the_other(tmp_path: Path) -> None:
    plus, minus = (read_adapter_file(p) for p in twins_of(slider(tmp_path), tmp_path, "kohya"))
    assert (plus.metadata[TWIN_KEY], minus.metadata[TWIN_KEY]) == ("plus", "minus")
    assert plus.metadata[f"{EFFECT_PREFIX}rho"] == "1.000"
    assert not any(key.startswith((EFFECT_PREFIX, CALIBRATION_PREFIX)) for key in minus.metadata)
    assert minus.metadata["loba.recipe"] == "x"
    # The sign is in the weights: an alpha below 0 is no size.
    assert all(v.item() > 0 for k, v in minus.tensors.items() if k.endswith("alpha"))


def test_a_strength_is_multiplied_into_both(tmp_path: Path) -> None:
    path = slider(tmp_path)
    plus, minus = (read_adapter_file(p) for p in twins_of(Path(f"{path}@0.5"), tmp_path, "kohya"))
    (module, *_) = read_adapter_file(path).of("unet")
    whole = read_adapter_file(path).of("unet")[module].weight.dense()
    assert torch.allclose(plus.of("unet")[module].weight.dense(), 0.5 * whole)
    assert torch.allclose(minus.of("unet")[module].weight.dense(), -0.5 * whole)
    assert EFFECT_PREFIX + "rho" not in plus.metadata


def test_peft_folders_are_two_as_well(tmp_path: Path) -> None:
    for folder in twins_of(slider(tmp_path), tmp_path, "peft"):
        assert (folder / "adapter_config.json").is_file()


def test_biases_alone_name_the_form_that_holds_them(tmp_path: Path) -> None:
    path = slider(tmp_path, lora_parts=False, biases=True)
    with pytest.raises(RecipeError, match="--format comfy"):
        twins_of(path, tmp_path, "diffusers")


def test_neither_twin_is_overwritten_nor_baked(tmp_path: Path) -> None:
    path = slider(tmp_path)
    plus, minus = twins_of(path, tmp_path, "kohya")
    plus.unlink()
    with pytest.raises(RefusedError, match=minus.name):
        twins_of(path, tmp_path, "kohya")
    wanted = Export(str(path), "kohya", None, None, path, None, False, True)
    with pytest.raises(RecipeError, match="leave out --twins"):
        export_request(wanted, Ledger(tmp_path / "ledger"))
