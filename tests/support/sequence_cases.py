"""Denoisers whose tokens several processes share, held against the same denoisers alone.

As a program it is one of the processes: `python sequence_cases.py FILE CASE...`, with RANK and
WORLD_SIZE as torchrun sets them; the first writes what it found as JSON.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from ring_on_cpu import ring_on_cpu
from tiny_transformers import TINY, noise, places
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils._pytree import tree_map_only

from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.engines.sequence_parallel.transformer import SplitTransformer
from loba_tui.core.program.engines.sequence_parallel.unet import SplitUNet
from loba_tui.core.program.pipeline_wrapper import apply_attention

ADAPTED = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
OUTSIDE = ("conv1", "conv2", "time_emb_proj")
STRENGTHS = (0.5, -1.5)


def unet(heads: tuple[int, int]) -> nn.Module:
    """Return a UNet of SD-XL's kind; its heads decide how attention is shared."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(24, 48),
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=2,
        attention_head_dim=heads,
        cross_attention_dim=16,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=32,
        use_linear_projection=True,
    )


def unet_inputs(height: int, width: int, *, masked: bool) -> dict[str, Any]:
    """Return a call of two rows, with states that gradients flow to."""
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 3:] = False
    return {
        "sample": noise(2, 4, height, width),
        "timestep": torch.tensor([300, 700]),
        "encoder_hidden_states": noise(2, 7, 16, seed=1).requires_grad_(),
        "encoder_attention_mask": mask if masked else None,
        "added_cond_kwargs": {
            "text_embeds": noise(2, 8, seed=2),
            "time_ids": noise(2, 6, seed=3).abs() * 100,
        },
        "return_dict": False,
    }


def transformer_inputs(name: str, *, masked: bool) -> dict[str, Any]:
    """Return a call of two rows: 16 tokens of an image, 6 states of a prompt, or 5 with a mask."""
    states = 5 if masked else 6
    given = {
        "hidden_states": noise(2, 16, 16),
        "encoder_hidden_states": noise(2, states, 24, seed=1).requires_grad_(),
        "timestep": torch.tensor([0.3, 0.8]),
        "return_dict": False,
    }
    if name == "Qwen-Image":
        mask = torch.ones(2, states, dtype=torch.bool)
        mask[1, 3:] = False
        mask = mask if masked else None
        return {**given, "encoder_hidden_states_mask": mask, "img_shapes": [[(1, 4, 4)]] * 2}
    axes = 3 if name == "FLUX.1" else 4
    ids = {"img_ids": places(16, axes), "txt_ids": torch.zeros(states, axes)}
    pooled = {"pooled_projections": noise(2, 20, seed=2)} if name == "FLUX.1" else {}
    return {**given, **ids, **pooled, "guidance": torch.tensor([3.5, 3.5])}


def adapted(model: nn.Module, targets: tuple[str, ...]) -> AdapterScale:
    """Put a LoRA that changes something on a model, with other strengths for each row."""
    model.requires_grad_(False)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=list(targets), init_lora_weights=False)
    torch.manual_seed(1)
    inject_adapter_in_model(config, model)
    dtype = next(model.parameters()).dtype
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    scale = AdapterScale(model)
    scale.set(torch.tensor(STRENGTHS))
    return scale


def measured(
    model: nn.Module, inputs: Mapping[str, Any], factor: float = 1.0
) -> tuple[Tensor, dict[str, Tensor], int]:
    """Return a model's output, the gradients of all that has any, and the bytes of activations."""
    states = inputs["encoder_hidden_states"]
    states.grad = None
    model.zero_grad()
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = model(**inputs)[0]
    target = noise(*output.shape, seed=9).to(output.dtype)
    (((output - target) ** 2).mean() * factor).backward()
    named = {name: each.grad for name, each in model.named_parameters() if each.requires_grad}
    return output.detach(), {**named, "states": states.grad.clone()}, sum(saved.values())


def compared(
    model: nn.Module,
    targets: tuple[str, ...],
    inputs: Mapping[str, Any],
    split_of: Callable[[nn.Module], Any],
    *,
    checkpointing: bool = False,
) -> dict[str, float]:
    """Return the largest differences between a shared model and the same one alone."""
    alone, shared = model, copy.deepcopy(model)
    adapted(alone, targets)
    scale = adapted(shared, targets)
    split = split_of(shared)
    if checkpointing:
        shared.enable_gradient_checkpointing()
        shared.train()
    expected, expected_grads, expected_saved = measured(alone, inputs)
    with torch.no_grad():
        off = shared(**inputs)[0]
    with split.on():
        output, grads, saved = measured(shared, inputs, split.loss_factor)
        with torch.no_grad(), scale.base():
            base = shared(**inputs)[0]
    with torch.no_grad(), scale.base():
        expected_base = shared(**inputs)[0]
    for grad in grads.values():
        dist.all_reduce(grad)
        grad /= dist.get_world_size()
    return {
        "output": _difference(output, expected),
        "off": _difference(off, expected),
        "base": _difference(base, expected_base),
        "gradients": max(_difference(grads[name], expected_grads[name]) for name in grads),
        "saved": saved / expected_saved,
        "number": len(grads),
        "largest": max(float(grad.abs().max()) for grad in expected_grads.values()),
    }


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference, as a part of the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-6))


def of_unet(
    heads: tuple[int, int] = (2, 4),
    size: tuple[int, int] = (8, 8),
    *,
    masked: bool = False,
    attention: str = "auto",
    checkpointing: bool = False,
) -> dict[str, float]:
    """Compare a UNet in float64, where a difference is one of the mathematics."""

    def split_of(model: nn.Module) -> SplitUNet:
        return SplitUNet(model, dist.group.WORLD)

    model = unet(heads).double()
    apply_attention(attention, model)
    return compared(
        model,
        (*ADAPTED, *OUTSIDE),
        tree_map_only(Tensor, _doubled, unet_inputs(*size, masked=masked)),
        split_of,
        checkpointing=checkpointing,
    )


def _doubled(tensor: Tensor) -> Tensor:
    double = tensor.detach().double() if tensor.is_floating_point() else tensor
    return double.requires_grad_(tensor.requires_grad)


def of_transformer(
    name: str, *, ring: bool = False, masked: bool = False, checkpointing: bool = False
) -> dict[str, float]:
    """Compare a transformer in float32, in which a ring combines its parts."""
    degree = dist.get_world_size()

    def split_of(model: nn.Module) -> SplitTransformer:
        return SplitTransformer(
            model,
            dist.group.WORLD,
            ulysses=1 if ring else degree,
            ring=degree if ring else 1,
            device=torch.device("cpu"),
            dtype=torch.float32,
        )

    with ring_on_cpu() if ring else nullcontext():
        return compared(
            TINY[name].made(),
            ("to_q", "to_k", "to_v", "to_out.0", "linear_1", "proj_out"),
            transformer_inputs(name, masked=masked),
            split_of,
            checkpointing=checkpointing,
        )


def refusal(
    name: str,
    *,
    masked: bool = False,
    ulysses: int = 1,
    ring: int = 1,
    patched: bool = True,
    checkpointing: bool = False,
) -> str:
    """Return why tokens are not shared."""
    model = TINY[name].made()
    if checkpointing:
        model.enable_gradient_checkpointing()
    try:
        with ring_on_cpu() if patched else nullcontext():
            split = SplitTransformer(
                model,
                dist.group.WORLD,
                ulysses=ulysses,
                ring=ring,
                device=torch.device("cpu"),
                dtype=torch.float32,
            )
            with split.on(), torch.no_grad():
                model(**transformer_inputs(name, masked=masked))
    except RecipeError as error:
        return error.message
    return "none"


CASES: dict[str, Callable[[], Any]] = {
    "unet by heads": of_unet,
    "unet by heads, checkpointing, tokens that do not divide": lambda: of_unet(
        size=(9, 7), checkpointing=True
    ),
    "unet by heads, one kernel, a mask": lambda: of_unet(masked=True, attention="math"),
    "unet by keys": lambda: of_unet((1, 3)),
    "unet by keys, checkpointing, tokens that do not divide": lambda: of_unet(
        (1, 3), (9, 7), checkpointing=True
    ),
    "unet, both, a mask": lambda: of_unet((1, 4), (6, 10), masked=True),
    "unet with fewer tokens than processes": lambda: of_unet(size=(2, 1)),
    "FLUX.1 by heads": lambda: of_transformer("FLUX.1"),
    "FLUX.1 by heads, checkpointing": lambda: of_transformer("FLUX.1", checkpointing=True),
    "FLUX.1 ring": lambda: of_transformer("FLUX.1", ring=True),
    "FLUX.2 by heads": lambda: of_transformer("FLUX.2"),
    "FLUX.2 ring": lambda: of_transformer("FLUX.2", ring=True),
    "Qwen-Image by heads": lambda: of_transformer("Qwen-Image"),
    "Qwen-Image by heads, a mask": lambda: of_transformer("Qwen-Image", masked=True),
    "Qwen-Image ring": lambda: of_transformer("Qwen-Image", ring=True),
    "refused Z-Image": lambda: refusal("Z-Image", ulysses=2),
    "refused SD 3": lambda: refusal("SD 3", ulysses=2),
    "refused ring on a CPU": lambda: refusal("FLUX.1", ring=2, patched=False),
    "refused ring, checkpointing": lambda: refusal("FLUX.2", ring=2, checkpointing=True),
    "refused ring, a mask": lambda: refusal("Qwen-Image", ring=2, masked=True),
    "refused FLUX.1": lambda: refusal("FLUX.1", ulysses=2, masked=True),
    "refused three heads": lambda: refusal("FLUX.1", ulysses=3),
}


def work(file: Path, names: list[str]) -> None:
    """Make cases as one process of a group."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {name: CASES[name]() for name in names or CASES}
    if dist.get_rank() == 0:
        file.write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2:])
