"""Checkpoints with an adapter baked in, against W + s·ΔW, and LoRA made of two checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ldm_topology import Topology, layers_of, topology
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tool_readers import a1111, comfyui, sd_scripts
from torch import Tensor

from loba_tui.core.errors import CorruptError, NumericsError, RecipeError, RefusedError
from loba_tui.core.program.adapter_files.losses import Losses
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.exporting import bake as baking
from loba_tui.core.program.exporting.bake import bake
from loba_tui.core.program.exporting.checkpoints import opened_weights
from loba_tui.core.program.exporting.extract import extract
from loba_tui.core.program.exporting.forms import LoraParts, Wanted, as_lora, write_form

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CLIP = "cond_stage_model.transformer.text_model.encoder.layers.0"
OPEN_CLIP = "conditioner.embedders.1.model.transformer.resblocks.0"
LAYERS = {
    "sdxl": [
        "input_blocks.4.1.transformer_blocks.1.attn2.to_k",
        "middle_block.1.transformer_blocks.9.ff.net.0.proj",
        "output_blocks.2.2.conv",
        "input_blocks.3.0.op",
        "output_blocks.0.0.skip_connection",
        "input_blocks.7.0.in_layers.2",
        "input_blocks.4.1.proj_in",
    ],
    "sd1": [
        "input_blocks.1.1.transformer_blocks.0.attn1.to_out.0",
        "output_blocks.2.1.conv",
        "middle_block.2.out_layers.3",
        "input_blocks.1.1.proj_out",
    ],
}


def no_progress(done: int, total: int) -> None:
    assert done <= total


def checkpoint(made: Topology, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return a one-file checkpoint of a UNet, with a text encoder and what is no layer."""
    generator = torch.Generator().manual_seed(3)
    state = made.unet.state_dict()
    tensors = {
        f"model.diffusion_model.{ldm}.{part}": state[f"{name}.{part}"].to(dtype)
        for ldm, name in made.diffusers_of.items()
        for part in ("weight", "bias")
        if f"{name}.{part}" in state
    }
    if made.family == "sdxl":
        tensors[f"{OPEN_CLIP}.attn.in_proj_weight"] = torch.randn(24, 8, generator=generator)
        tensors[f"{OPEN_CLIP}.mlp.c_fc.weight"] = torch.randn(16, 8, generator=generator)
    else:
        tensors[f"{CLIP}.mlp.fc1.weight"] = torch.randn(16, 8, generator=generator)
    tensors["first_stage_model.encoder.conv_in.weight"] = torch.randn(4, 3, 3, 3)
    tensors["model_ema.decay"] = torch.tensor(0.9999)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def adapter(made: Topology, *, rank: int = 3, size: float = 0.1) -> dict[str, Tensor]:
    """Return a LoRA in kohya's keys, alpha 2, of some layers and of a text encoder's."""
    generator, file = torch.Generator().manual_seed(5), {}
    for ldm in LAYERS[made.family]:
        weight = made.weight(ldm)
        name = ldm if made.family == "sdxl" else made.diffusers_of[ldm]
        key = "lora_unet_" + name.replace(".", "_")
        kernel = weight.shape[2:]
        file[f"{key}.lora_down.weight"] = torch.randn(
            rank, weight.shape[1], *kernel, generator=generator
        )
        file[f"{key}.lora_up.weight"] = size * torch.randn(
            weight.shape[0], rank, *[1] * len(kernel), generator=generator
        )
        file[f"{key}.alpha"] = torch.tensor(2.0)
    return file


def delta_of(file: Mapping[str, Tensor], key: str, shape: torch.Size) -> Tensor:
    down, up = file[f"{key}.lora_down.weight"], file[f"{key}.lora_up.weight"]
    return (2.0 / len(down) * (up.flatten(1) @ down.flatten(1))).reshape(shape)


@pytest.mark.parametrize("family", ["sdxl", "sd1"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_checkpoint_has_the_change_and_all_else_as_it_was(
    family: str, dtype: str, tmp_path: Path
) -> None:
    made = topology(family)
    tensors, lora = checkpoint(made, DTYPES[dtype]), adapter(made)
    metadata = {"modelspec.title": "größer", "sshs_model_hash": "0"}
    save_file(tensors, tmp_path / "model.safetensors", metadata)
    save_file(lora, tmp_path / "lora.safetensors")
    read = read_adapter_file(tmp_path / "lora.safetensors")
    target = tmp_path / "baked.safetensors"
    baked = bake(read, -1.5, tmp_path / "model.safetensors", target, no_progress)
    assert baked.num_tensors == len(LAYERS[family])
    after, changed = load_file(target), set()
    for ldm in LAYERS[family]:
        name = f"model.diffusion_model.{ldm}.weight"
        key = "lora_unet_" + (ldm if family == "sdxl" else made.diffusers_of[ldm]).replace(".", "_")
        base = tensors[name]
        change = -1.5 * delta_of(lora, key, base.shape)
        expected = (base.float() + change).to(base.dtype)
        torch.testing.assert_close(after[name], expected, rtol=1e-6, atol=1e-6)
        assert not torch.equal(after[name], base)
        changed.add(name)
    assert all(torch.equal(after[n], t) for n, t in tensors.items() if n not in changed)
    # The header is the same to the byte: names, order, shapes, dtypes and metadata.
    before = (tmp_path / "model.safetensors").read_bytes()
    length = 8 + int.from_bytes(before[:8], "little")
    assert target.read_bytes()[:length] == before[:length]
    with safe_open(target, "pt") as file:
        assert file.metadata() == metadata
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@torch.no_grad()
def test_text_encoders_are_baked_in_and_a_query_is_a_third_of_open_clips_matrix(
    tmp_path: Path,
) -> None:
    made = topology("sdxl")
    tensors, lora = checkpoint(made, torch.float32), adapter(made)
    for place, key in enumerate(["k_proj", "v_proj"], start=1):
        name = f"lora_te2_text_model_encoder_layers_0_self_attn_{key}"
        lora[f"{name}.lora_down.weight"] = torch.full((3, 8), float(place))
        lora[f"{name}.lora_up.weight"] = torch.ones(8, 3)
        lora[f"{name}.alpha"] = torch.tensor(2.0)
    absent = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    lora |= {f"{absent}.lora_down.weight": torch.ones(3, 8)}
    lora |= {f"{absent}.lora_up.weight": torch.ones(16, 3)}
    save_file(tensors, tmp_path / "model.safetensors")
    save_file(lora, tmp_path / "lora.safetensors")
    read = read_adapter_file(tmp_path / "lora.safetensors")
    baked = bake(
        read, 1.0, tmp_path / "model.safetensors", tmp_path / "baked.safetensors", no_progress
    )
    after = load_file(tmp_path / "baked.safetensors")
    name = f"{OPEN_CLIP}.attn.in_proj_weight"
    change = torch.zeros(24, 8)
    change[8:16], change[16:] = 2.0, 4.0
    torch.testing.assert_close(after[name], tensors[name] + change)
    (told,) = baked.left_out
    assert told.startswith("1 layer of text encoders")


@torch.no_grad()
def test_a_dora_is_baked_in_over_the_checkpoints_own_weights(tmp_path: Path) -> None:
    made = topology("sdxl")
    tensors, lora = checkpoint(made, torch.float32), adapter(made)
    for ldm in LAYERS["sdxl"]:
        rows = made.weight(ldm).flatten(1).norm(dim=1)
        key = "lora_unet_" + ldm.replace(".", "_")
        lora[f"{key}.dora_scale"] = 1.2 * rows.reshape(-1, *[1] * (made.weight(ldm).ndim - 1))
    save_file(tensors, tmp_path / "model.safetensors")
    save_file(lora, tmp_path / "dora.safetensors")
    read = read_adapter_file(tmp_path / "dora.safetensors")
    with pytest.raises(RecipeError, match="depends on the base"):
        as_lora(read, Wanted("kohya"), no_progress)
    bake(read, 1.0, tmp_path / "model.safetensors", tmp_path / "baked.safetensors", no_progress)
    after = load_file(tmp_path / "baked.safetensors")
    for ldm in LAYERS["sdxl"]:
        rows = after[f"model.diffusion_model.{ldm}.weight"].flatten(1).norm(dim=1)
        torch.testing.assert_close(rows, 1.2 * made.weight(ldm).flatten(1).norm(dim=1))


def change_of(tensors: dict[str, Tensor], change: Any) -> dict[str, Tensor]:
    change(tensors)
    return tensors


CONV = "model.diffusion_model.output_blocks.2.2.conv.weight"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda t: t.pop(CONV), RecipeError, "lacks 1"),
        (lambda t: t.update(scaled_fp8=torch.zeros(2)), RecipeError, "scaled fp8"),
        (
            lambda t: t.update({CONV: torch.ones(2, 2)}),
            RecipeError,
            "does not fit",
        ),
        (
            lambda t: t.update({CONV: torch.full((64, 64, 3, 3), 65504.0).half()}),
            NumericsError,
            "not finite",
        ),
    ],
    ids=["another model", "scaled fp8", "another shape", "overflow"],
)  # fmt: skip
def test_what_cannot_be_baked_leaves_nothing_behind(
    change: Any, error: type[Exception], words: str, tmp_path: Path
) -> None:
    made = topology("sdxl")
    save_file(change_of(checkpoint(made, torch.float16), change), tmp_path / "model.safetensors")
    save_file(adapter(made, size=1e4), tmp_path / "lora.safetensors")
    read = read_adapter_file(tmp_path / "lora.safetensors")
    with pytest.raises(error, match=words):
        bake(read, 1.0, tmp_path / "model.safetensors", tmp_path / "baked.safetensors", no_progress)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "lora.safetensors",
        "model.safetensors",
    ]


def test_a_checkpoint_is_never_baked_over_itself_nor_read_where_it_is_torn(tmp_path: Path) -> None:
    made = topology("sd1")
    model = tmp_path / "model.safetensors"
    save_file(checkpoint(made, torch.float16), model)
    save_file(adapter(made), tmp_path / "lora.safetensors")
    read = read_adapter_file(tmp_path / "lora.safetensors")
    with pytest.raises(RefusedError, match="the checkpoint itself"):
        bake(read, 1.0, model, model, no_progress)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(CorruptError):
        bake(read, 1.0, torn, tmp_path / "baked.safetensors", no_progress)

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bake(read, 1.0, model, tmp_path / "baked.safetensors", stop)
    assert not any("baked" in path.name for path in tmp_path.iterdir())


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = topology("sd1")
    save_file(checkpoint(made, torch.float16), tmp_path / "model.safetensors")
    save_file(adapter(made), tmp_path / "lora.safetensors")
    read = read_adapter_file(tmp_path / "lora.safetensors")
    monkeypatch.setattr(
        baking.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})()
    )
    with pytest.raises(baking.ResourceError, match="are free"):
        bake(read, 1.0, tmp_path / "model.safetensors", tmp_path / "b.safetensors", no_progress)


@pytest.mark.parametrize("family", ["sdxl", "sd1"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_was_baked_in_is_extracted_again(family: str, kind: str, tmp_path: Path) -> None:
    made = topology(family)
    model, lora = tmp_path / "model.safetensors", adapter(made)
    save_file(checkpoint(made, torch.float32), model)
    save_file(lora, tmp_path / "lora.safetensors")
    read = read_adapter_file(tmp_path / "lora.safetensors")
    bake(read, 1.0, model, tmp_path / "tuned.safetensors", no_progress)
    base = model
    if kind == "folder":
        made.unet.save_pretrained(tmp_path / "base" / "unet")
        base = tmp_path / "base"
    with opened_weights(tmp_path / "tuned.safetensors") as tuned, opened_weights(base) as before:
        found = extract(tuned, before, 3, no_progress)
        low = extract(tuned, before, 1, no_progress)
    assert found.layers.keys() == {made.diffusers_of[ldm] for ldm in LAYERS[family]}
    assert Losses.of(found.losses).share < 1e-4  # rounding of weights to float32
    assert all(0.1 < loss.share < 1 for loss in low.losses)

    parts = LoraParts({"unet": found.layers}, found.losses, found.left_out)
    write_form(parts, {}, Wanted("kohya"), tmp_path / "out.safetensors")
    file, truth = load_file(tmp_path / "out.safetensors"), sd_scripts(lora, made, 1.0).changes
    for reader in (sd_scripts, comfyui, a1111):
        reading = reader(file, made, 1.0)
        assert reading.changes.keys() == truth.keys()
        for name, change in reading.changes.items():
            torch.testing.assert_close(change, truth[name], rtol=1e-3, atol=1e-5)
            assert change.shape == layers_of(made.unet)[name].weight.shape


def test_models_that_do_not_differ_or_differ_in_kind_are_said_so(tmp_path: Path) -> None:
    one, other = topology("sd1"), topology("sdxl")
    save_file(checkpoint(one, torch.float16), tmp_path / "a.safetensors")
    save_file(checkpoint(other, torch.float16), tmp_path / "b.safetensors")
    save_file({"x": torch.ones(2)}, tmp_path / "c.safetensors")
    with opened_weights(tmp_path / "a.safetensors") as a:
        with pytest.raises(RecipeError, match="do not differ"):
            extract(a, a, 4, no_progress)
        with (
            opened_weights(tmp_path / "b.safetensors") as b,
            pytest.raises(RecipeError, match=r"not of one architecture|is \["),
        ):
            extract(a, b, 4, no_progress)
    with (
        pytest.raises(RecipeError, match="has no denoiser"),
        opened_weights(tmp_path / "c.safetensors"),
    ):
        pass
