"""Adapter files as users have them from other tools, one of each kind, and what each changes.

What is expected is computed here by each tool's own formula, from the tensors of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from loba_tui.client.adapters.show import show_adapter
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import CorruptError, LobaError, NumericsError, RecipeError, RefusedError
from loba_tui.core.program.adapter_files.load import attach_to_denoiser
from loba_tui.core.program.adapter_files.read.read import read_adapter_file

K = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
KOHYA = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA_Q = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"
CONV = "down_blocks.1.resnets.0.conv1"
KOHYA_CONV = "lora_unet_input_blocks_4_0_in_layers_2"
NORM = "down_blocks.1.attentions.0.norm"
FLAT = "lora_unet_" + K.replace(".", "_")
SHAPES = {K: (64, 112), Q: (96, 96), CONV: (64, 32, 3, 3), NORM: (64,)}
Tensors = dict[str, Tensor]
Change = Callable[[Tensors, Tensor], Tensor]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def pair(
    name: str = KOHYA,
    suffixes: tuple[str, str] = (".lora_down.weight", ".lora_up.weight"),
    *,
    alpha: Tensor | float | None = 2.0,
    rank: int = 4,
    size: tuple[int, int] = (64, 112),
) -> Tensors:
    """Return the tensors of one low-rank layer."""
    down, up = suffixes
    made = {name + down: drawn(rank, size[1]), name + up: drawn(size[0], rank)}
    if alpha is not None:
        made[f"{name}.alpha"] = torch.as_tensor(alpha)
    return made


def ending(tensors: Tensors, *ends: str) -> list[Tensor]:
    """Return the tensor of each end, as number."""
    return [next(v for k, v in tensors.items() if k.endswith(end)).float() for end in ends]


def times(strength: float) -> Change:
    """Return the change of a file with one low-rank layer."""

    def change(tensors: Tensors, base: Tensor) -> Tensor:
        down, up = sorted(
            (v.float().flatten(1) for v in tensors.values() if v.ndim > 1 and 4 in v.shape[:2]),
            key=lambda each: each.shape[1],
            reverse=True,
        )[:2]
        return strength * up @ down

    return change


def normed(change: Change, *, dim: int = 1) -> Change:
    """Return a DoRA's change: the changed weight at the lengths that the file says."""

    def whole(tensors: Tensors, base: Tensor) -> Tensor:
        wanted = next(v for k, v in tensors.items() if "dora_scale" in k or "magnitude" in k)
        moved = base + change(tensors, base)
        lengths = wanted.float().reshape(-1, 1) if dim else wanted.float().reshape(1, -1)
        return moved * lengths / moved.norm(dim=dim, keepdim=True) - base

    return whole


def hadamard(tensors: Tensors, _base: Tensor) -> Tensor:
    a, b, c, d = ending(tensors, "w1_a", "w1_b", "w2_a", "w2_b")
    return (a @ b) * (c @ d) * 0.5


def kronecker(tensors: Tensors, _base: Tensor) -> Tensor:
    return torch.kron(*ending(tensors, "lokr_w1", "lokr_w2"))


def convolved(strength: float) -> Change:
    def change(tensors: Tensors, base: Tensor) -> Tensor:
        down, up = ending(tensors, "2.lora_down.weight", "2.lora_up.weight")
        return strength * (up.flatten(1) @ down.flatten(1)).reshape(base.shape)

    return change


def scaled(shape: tuple[int, ...], **of: Any) -> Tensors:
    return pair(**of) | {f"{KOHYA}.dora_scale": drawn(*shape).abs() + 1}


class Good(NamedTuple):
    """A file that is read: what it changes by module, and the note that it gets."""

    tensors: Tensors
    changes: Mapping[str, Change] = {K: times(0.5)}
    note: str = ""
    metadata: dict[str, str] | None = None
    name: str = "f.safetensors"


AB = (".lora_A.weight", ".lora_B.weight")
ONE = {K: times(1.0)}
WITH_Q = pair(KOHYA_Q, size=(96, 96))
CONVOLUTION = {
    f"{KOHYA_CONV}.lora_down.weight": drawn(2, 32, 3, 3),
    f"{KOHYA_CONV}.lora_up.weight": drawn(64, 2, 1, 1),
    f"{KOHYA_CONV}.alpha": torch.tensor(1.0),
}
LOHA = {
    f"{KOHYA}.hada_w{n}_{s}": drawn(*((64, 4) if s == "a" else (4, 112)), seed=int(n))
    for n in "12"
    for s in "ab"
} | {f"{KOHYA}.alpha": torch.tensor(2.0)}
LOKR = {
    f"lycoris_{K.replace('.', '_')}.{part}": value
    for part, value in {
        "lokr_w1": drawn(8, 8),
        "lokr_w2": drawn(8, 14),
        "alpha": torch.tensor(2.0),
    }.items()
}
PROCESSOR = K.rpartition(".")[0] + ".processor.to_k_lora"
META_PEFT = '{"unet.r":4,"unet.lora_alpha":2,"unet.target_modules":["to_k"]}'
META_ODD = '{"unet.r":4,"unet.lora_alpha":4,"text_encoder.r":8}'


def cast(dtype: torch.dtype) -> Tensors:
    return {k: v if k.endswith("alpha") else v.to(dtype) for k, v in pair().items()}


def without_q(change: Change) -> Change:
    """Return a change that is computed of the tensors of the other layer alone."""
    return lambda tensors, base: change({k: v for k, v in tensors.items() if KOHYA in k}, base)


def of_q(change: Change) -> Change:
    return lambda tensors, base: change({k: v for k, v in tensors.items() if KOHYA_Q in k}, base)


GOOD: dict[str, Good] = {
    "bundle-emb": Good(
        pair() | {"bundle_emb.zog.string_to_param.*": drawn(2, 48)}, note="a text embedding"
    ),
    "comfy-diffusion_model": Good(
        pair("diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k")
    ),
    "diffusers-lora-up": Good(
        pair(f"unet.{K}", (".lora.down.weight", ".lora.up.weight"), alpha=None), ONE
    ),
    "diffusers-processor": Good(
        pair(PROCESSOR, (".down.weight", ".up.weight"), alpha=None), ONE
    ),
    "dora-diffusers": Good(
        pair(f"unet.{K}", AB, alpha=None)
        | {f"unet.{K}.lora_magnitude_vector": drawn(64).abs() + 1},
        {K: normed(times(1.0))},
    ),
    "dora-diffusers-scale": Good(pair()),
    "dora-fp16": Good(
        {k: v.half() for k, v in scaled((64, 1)).items()}, {K: normed(times(0.5))}
    ),
    "dora-in": Good(scaled((1, 112)), {K: normed(times(0.5), dim=0)}),
    "dora-out": Good(scaled((64, 1)), {K: normed(times(0.5))}),
    "dora-out-1d": Good(scaled((64,)), {K: normed(times(0.5))}),
    "dora-some": Good(
        scaled((64, 1)) | WITH_Q,
        {K: without_q(normed(times(0.5))), Q: of_q(times(0.5))},
    ),
    "emb-params": Good(pair() | {"emb_params": drawn(2, 48)}, note="a text embedding"),
    "extra-keys": Good(pair() | {"foo.bar": drawn(3)}, note="'foo.bar': not a key"),
    "full-diff": Good(
        {f"{KOHYA_CONV}.diff": drawn(64, 32, 3, 3), f"{KOHYA_CONV}.diff_b": drawn(64)},
        {CONV: lambda tensors, base: tensors[f"{KOHYA_CONV}.diff"]},
    ),
    "kohya-alpha-0": Good(pair(alpha=0.0), ONE, note="alpha is 0 in 1 layer;"),
    "kohya-alpha-1d": Good(pair(alpha=torch.tensor([2.0]))),
    "kohya-alpha-fp16": Good(pair(alpha=torch.tensor(2.0, dtype=torch.float16))),
    "kohya-alpha-int": Good(pair(alpha=torch.tensor(2))),
    "kohya-alpha-mixed": Good(
        pair() | pair(KOHYA_Q, size=(96, 96), alpha=None),
        {K: without_q(times(0.5)), Q: of_q(times(1.0))},
    ),
    "kohya-alpha-neg": Good(pair(alpha=-2.0), {K: times(-0.5)}, note="alpha is below 0 in 1 layer"),
    "kohya-alpha-none": Good(pair(alpha=None), ONE),
    "kohya-bf16": Good(cast(torch.bfloat16)),
    "kohya-diffusers-names": Good(pair(FLAT)),
    "kohya-f64": Good(cast(torch.float64)),
    "kohya-fp16": Good(cast(torch.float16)),
    "kohya-fp8": Good(cast(torch.float8_e4m3fn)),
    "kohya-sgm": Good(pair()),
    "kohya-te": Good(
        pair() | pair("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", size=(48, 48)),
        {K: without_q(times(0.5))},
    ),
    "linear-as-1x1": Good(
        {k: v[..., None, None] if v.ndim == 2 else v for k, v in pair().items()}
    ),
    "locon": Good(
        pair() | CONVOLUTION, {K: without_q(times(0.5)), CONV: convolved(0.5)}
    ),
    "locon-mixed-rank": Good(
        pair(alpha=4.0) | CONVOLUTION, {K: without_q(times(1.0)), CONV: convolved(0.5)}
    ),
    "loha": Good(LOHA, {K: hadamard}),
    "loha-dora": Good(
        LOHA | {f"{KOHYA}.dora_scale": drawn(64, 1).abs() + 1}, {K: normed(hadamard)}
    ),
    "meta-alpha-peft": Good(
        pair(f"unet.{K}", AB, alpha=None), metadata={"lora_adapter_metadata": META_PEFT}
    ),
    "meta-odd": Good(
        pair(f"unet.{K}", AB, alpha=None),
        ONE,
        metadata={"ss_network_args": "{broken", "lora_adapter_metadata": META_ODD},
    ),
    "mixed-rank-noalpha": Good(
        pair(alpha=None) | pair(KOHYA_CONV.replace("4_0_in_layers_2", "4_1_proj_in"), alpha=None,
        rank=2, size=(64, 64)),
        {K: without_q(times(1.0)), "down_blocks.1.attentions.0.proj_in": lambda tensors, base:
         torch.mm(*ending(tensors, "proj_in.lora_up.weight", "proj_in.lora_down.weight"))},
    ),
    "norm-diff": Good(
        pair()
        | {
            "lora_unet_input_blocks_4_1_norm.w_norm": drawn(64),
            "lora_unet_input_blocks_4_1_norm.b_norm": drawn(64),
        },
        {K: without_q(times(0.5)), NORM: lambda tensors, base: ending(tensors, ".w_norm")[0]},
    ),
    "ot-unet-lora_down": Good(pair(f"unet.{K}")),
    "peft-alpha": Good(pair(f"unet.{K}", AB)),
    "peft-basemodel": Good(
        pair(f"base_model.model.{K}", AB, alpha=None), ONE, name="adapter_model.safetensors"
    ),
    "peft-default": Good(
        pair(f"unet.{K}", (".lora_A.default.weight", ".lora_B.default.weight"), alpha=None), ONE
    ),
    "peft-diffusers": Good(pair(f"unet.{K}", AB, alpha=None), ONE),
    "peft-noprefix": Good(pair(K, AB, alpha=None), ONE),
    "peft-unet-basemodel": Good(pair(f"unet.base_model.model.{K}", AB, alpha=None), ONE),
    "simpletuner-lycoris": Good(LOKR, {K: kronecker}),
    "unet-unet": Good(pair(f"unet.unet.{K}", AB, alpha=None), ONE),
    "up-only": Good(
        pair() | {k: v for k, v in WITH_Q.items() if "down" not in k},
        {K: without_q(times(0.5))},
        note="its down is missing",
    ),
    "upper-ext": Good(pair(), name="F.SAFETENSORS"),
    "zero": Good(
        {k: v if "up" not in k else torch.zeros_like(v) for k, v in pair().items()},
        {K: lambda tensors, base: torch.zeros_like(base)},
        note="changes nothing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", GOOD)
def test_a_users_file_changes_what_its_tool_says(kind: str, tmp_path: Path) -> None:
    case = GOOD[kind]
    path = tmp_path / case.name
    save_file({k: v.contiguous() for k, v in case.tensors.items()}, path, case.metadata)
    file = read_adapter_file(path)
    layers = file.of("unet")
    assert layers.keys() == case.changes.keys()
    for module, wanted in case.changes.items():
        weight = layers[module].weight
        assert weight is not None
        base = drawn(*SHAPES.get(module, (64, 64)), seed=7)
        expected = wanted(case.tensors, base)
        torch.testing.assert_close(weight.delta(base), expected, rtol=1e-4, atol=1e-4)
    notes = " ".join(file.notes())
    assert case.note in notes if case.note else not notes
    shown = show_adapter(path)
    assert sum(g.num_layers for g in shown.groups if g.component == "unet") == len(layers)
    assert not shown.faults


def test_biases_and_text_encoders_of_such_files_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    save_file(GOOD["full-diff"].tensors, path)
    bias = read_adapter_file(path).of("unet")[CONV].bias
    assert torch.equal(bias, GOOD["full-diff"].tensors[f"{KOHYA_CONV}.diff_b"])
    save_file(GOOD["norm-diff"].tensors, path)
    assert read_adapter_file(path).of("unet")[NORM].bias is not None
    save_file(GOOD["kohya-te"].tensors, path)
    assert read_adapter_file(path).text_encoder_layers == 1


def content(tensors: Tensors) -> Callable[[Path], None]:
    return lambda path: save_file(tensors, path)


def raw(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


FLUX = "double_blocks_0_img_attn_qkv"
FLUX_DIFF = "transformer.single_transformer_blocks.0.attn.to_q"
SD_1 = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def put_on_a_model(path: Path) -> None:
    file = read_adapter_file(path)
    container = ModelCache("cpu", torch.float32).container("builtin:shapes-xl")
    attach_to_denoiser(container, file)


Bad = tuple[Callable[[Path], object], type[LobaError], str]
BAD: dict[str, Bad] = {
    "empty-file": (raw(b""), CorruptError, "it has 0 bytes"),
    "flux": (content(pair(f"lora_unet_{FLUX}")), RecipeError, "for FLUX.1 or FLUX.2, and this"),
    "flux-diff": (
        content(pair(FLUX_DIFF, AB, alpha=None)),
        RecipeError,
        "an adapter for FLUX.1, and",
    ),
    "html": (raw(b"<!DOCTYPE html><html>Log in</html>"), CorruptError, "it is a web page"),
    "kohya-alpha-nan": (content(pair(alpha=float("nan"))), NumericsError, "is not finite"),
    "nan": (
        content({k: v * float("nan") if "up" in k else v for k, v in pair().items()}),
        NumericsError,
        "lora_up.weight' is not finite",
    ),
    "no-tensors": (content({}), RecipeError, "holds no tensors"),
    "pt": (raw(b"PK\x03\x04"), RefusedError, "is a pickle file"),
    "rank-mismatch": (
        content(pair() | {f"{KOHYA}.lora_up.weight": drawn(64, 8)}),
        CorruptError,
        "rank 4 and lora_up 8",
    ),
    "real-sdxl-shape": (
        content(pair(size=(640, 2048))),
        RecipeError,
        r"it changes a weight of \[640, 2048\], and this is \[64, 112\]",
    ),
    "sd15-names": (
        content(pair(SD_1, size=(320, 320), alpha=None)),
        RecipeError,
        "an adapter for SD 1.x, and this model is an SD-XL",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_users_file_that_cannot_be_used_is_said_so(kind: str, tmp_path: Path) -> None:
    write, error, told = BAD[kind]
    path = tmp_path / ("slider.pt" if kind == "pt" else "f.safetensors")
    write(path)
    with pytest.raises(error, match=told):
        put_on_a_model(path)
