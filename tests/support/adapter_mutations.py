"""Adapter files with random changes: cut, renamed, reshaped, retyped, and with odd metadata."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from loba_tui.client.adapters.show import show_adapter
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.adapter_layers.added import base_of, check_host, host_named

Tensors = dict[str, torch.Tensor]
K = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
FLAT = "lora_unet_" + K.replace(".", "_")
CONVOLUTION = "lora_unet_down_blocks_0_resnets_0_conv1"
NORM = "lora_unet_down_blocks_1_attentions_0_norm"
TEXT = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
WORDS = (
    ".lora_up.weight",
    ".lora_down.weight",
    ".alpha",
    ".dora_scale",
    ".diff",
    ".hada_w1_a",
    ".lokr_w1",
    ".lokr_t2",
    ".oft_blocks",
    ".w_norm",
    ".weight",
    ".on_input",
    ".ia3_l",
    ".lora_mid.weight",
    "unet.",
    "transformer.",
    "lora_unet_",
    "lora_te2_",
    "base_model.model.",
    "..",
    "",
    "x" * 500,
    "\n",
    "__",
)
DTYPES = (
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int8,
    torch.uint8,
    torch.int64,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)


def originals() -> list[dict[str, torch.Tensor]]:
    """Return a small file of each kind."""

    def made(*shapes: tuple[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return {key: torch.randn(shape, generator=generator) for key, shape in shapes}

    lora = made(
        (f"{FLAT}.lora_down.weight", (4, 112)),
        (f"{FLAT}.lora_up.weight", (64, 4)),
        (f"{FLAT}.alpha", ()),
    )
    return [
        lora,
        lora | made((f"{FLAT}.dora_scale", (64, 1))),
        lora | made((f"{TEXT}.lora_down.weight", (4, 48)), (f"{TEXT}.lora_up.weight", (48, 4))),
        made((f"unet.{K}.lora_A.weight", (4, 112)), (f"unet.{K}.lora_B.weight", (64, 4))),
        made((f"{FLAT}.diff", (64, 112)), (f"{FLAT}.diff_b", (64,))),
        made(
            *(
                (f"{FLAT}.hada_w{n}_{s}", (64, 2) if s == "a" else (2, 112))
                for n in "12"
                for s in "ab"
            )
        ),
        made((f"{FLAT}.lokr_w1", (8, 8)), (f"{FLAT}.lokr_w2", (8, 14))),
        made((f"{FLAT}.oft_blocks", (8, 8, 8)), (f"{FLAT}.alpha", ())),
        made((f"{FLAT}.oft_blocks", (3, 8, 8, 8)), (f"{FLAT}.rescale", (64, 1))),
        made((f"{FLAT}.weight", (64,)), (f"{FLAT}.on_input", ())),
        made(
            (f"{CONVOLUTION}.lora_down.weight", (4, 32, 1, 1)),
            (f"{CONVOLUTION}.lora_up.weight", (32, 4, 1, 1)),
            (f"{CONVOLUTION}.lora_mid.weight", (4, 4, 3, 3)),
        ),
        made((f"{NORM}.w_norm", (64,)), (f"{NORM}.b_norm", (64,))),
        made(
            (f"{FLAT}.a1.weight", (112, 2)),
            (f"{FLAT}.a2.weight", (2, 112)),
            (f"{FLAT}.b1.weight", (64, 2)),
            (f"{FLAT}.b2.weight", (2, 112)),
        ),
    ]


def originals_of_transformers() -> list[dict[str, torch.Tensor]]:
    """Return small files of a FLUX's layers, several of which share a matrix."""

    def pair(name: str, outputs: int, down: str = "lora_A", up: str = "lora_B") -> Tensors:
        return {
            f"{name}.{down}.weight": torch.ones(4, 32),
            f"{name}.{up}.weight": torch.ones(outputs, 4),
            f"{name}.alpha": torch.tensor(2.0),
        }

    own = "diffusion_model.double_blocks.0.img_attn.qkv"
    flat = "lora_unet_double_blocks_0_txt_attn_qkv"
    kohya = ("lora_down", "lora_up")
    return [
        pair(own, 96) | pair("diffusion_model.final_layer.adaLN_modulation.1", 64),
        pair(flat, 96, *kohya) | pair("lora_unet_single_blocks_0_linear1", 288, *kohya),
        pair(flat, 96, *kohya) | {f"{flat}.dora_scale": torch.ones(96, 1)},
        {f"{flat}.lokr_w1": torch.ones(4, 4), f"{flat}.lokr_w2": torch.ones(24, 8)},
        {f"{own}.diff": torch.ones(96, 32), f"{own}.diff_b": torch.ones(96)},
        {f"{own}.oft_blocks": torch.ones(8, 12, 12)},
        pair("transformer.transformer_blocks.0.attn.to_q", 32)
        | pair("unet.transformer_blocks.0.attn.to_k", 32),
    ]


def mutate(number: int, path: Path, files: list[Tensors] | None = None) -> None:
    """Write file `number` of the endless row of them, each made of one of `files`."""
    chance = random.Random(number)
    files = originals() if files is None else files
    tensors = dict(files[number % len(files)])
    metadata: dict[str, str] = {}
    for _ in range(chance.randint(1, 4)):
        key = chance.choice(sorted(tensors) or [""])
        change = chance.randrange(9)
        if change == 0:
            tensors.pop(key, None)
        elif change == 1 and key in tensors:
            tensors[_renamed(key, chance)] = tensors.pop(key)
        elif change == 2 and key in tensors:
            shape = [chance.choice((0, 1, 2, 3, 64, 112)) for _ in range(chance.randint(0, 5))]
            tensors[key] = torch.ones(shape if len(shape) < 4 else [min(s, 3) for s in shape])
        elif change == 3 and key in tensors:
            tensors[key] = tensors[key].to(chance.choice(DTYPES))
        elif change == 4 and key in tensors:
            number_ = chance.choice((0.0, -1.0, float("nan"), float("inf"), 1e38, 1e-45))
            tensors[key] = torch.full(tensors[key].shape, number_)
        elif change == 5:
            tensors |= chance.choice(files)
        elif change == 6:
            text = chance.choice(
                (
                    "{",
                    "[]",
                    "{}",
                    '{"unet.r": "x"}',
                    '{"unet.lora_alpha": 1e999}',
                    '{"unet.lora_alpha": true}',
                    '{"unet.alpha_pattern": [1]}',
                    "1" * 5000,
                    '{"r": 4, "lora_alpha": 2, "peft_type": "LOHA", "target_modules": "x"}',
                    '{"peft_type": "OFT", "target_modules": ["x"], "r": 0}',
                    "\x1b[2J",
                    "é",
                )
            )
            name = chance.choice(
                ("lora_adapter_metadata", "peft_config", "ss_network_args", "software", "ss_v2")
            )
            metadata[name] = text
        elif change == 7:
            tensors[f"{key[:40]}.scalar"] = torch.tensor(chance.choice((0.0, 2.0)))
    save_file({k: v.clone() for k, v in tensors.items()}, path, metadata or None)
    if chance.random() < 0.2:
        _damage(path, chance)


def _renamed(key: str, chance: random.Random) -> str:
    name, dot, part = key.partition(".")
    if chance.random() < 0.5:
        return name + chance.choice(WORDS)
    place = chance.randrange(len(key))
    return chance.choice((key[:place] + chance.choice(WORDS) + key[place:], part + dot + name))


def _damage(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if chance.random() < 0.5:
        del content[chance.randrange(len(content)) :]
    elif len(content) > 8:
        content[chance.randrange(len(content))] = chance.randrange(256)
    path.write_bytes(bytes(content))


def use(path: Path, denoiser: nn.Module) -> None:
    """Do with a file all that commands do, but for putting it on the model."""
    show = show_adapter(path)
    json.dumps(show.record())
    list(show.lines())
    file = read_adapter_file(path)
    file.notes()
    for module, layer in file.of("unet").items():
        try:
            host = base_of(host_named(denoiser, module))
            check_host(module, host, layer)
        except (KeyError, ValueError):
            continue  # the command says that it is not for this model
        if layer.weight is not None:
            layer.weight.delta(host.weight.detach())
