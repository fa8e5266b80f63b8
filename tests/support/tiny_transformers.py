"""Denoisers of each transformer family, of true architecture, tiny and with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import Tensor, nn

from loba_tui.core.adapter_keys.transformers.families import of_class

HEADS = {"num_attention_heads": 2, "attention_head_dim": 16, "joint_attention_dim": 24}


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Return values of a normal distribution."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def places(number: int, axes: int) -> Tensor:
    """Return the places of tokens, four to a line."""
    grid = torch.zeros(number, axes)
    grid[:, 1] = torch.arange(number) // 4
    grid[:, 2] = torch.arange(number) % 4
    return grid


def _z_image(model: nn.Module) -> Tensor:
    latents = [noise(4, 1, 8, 8, seed=n) for n in (0, 1)]
    captions = [noise(5, 24, seed=n) for n in (2, 3)]
    return torch.stack(model(latents, torch.tensor([0.3, 0.8]), captions, return_dict=False)[0])


def _flux(model: nn.Module) -> Tensor:
    return model(
        hidden_states=noise(2, 16, 16),
        encoder_hidden_states=noise(2, 5, 24, seed=1),
        pooled_projections=noise(2, 20, seed=2),
        timestep=torch.tensor([0.3, 0.8]),
        img_ids=places(16, 3),
        txt_ids=torch.zeros(5, 3),
        guidance=torch.tensor([3.5, 3.5]),
        return_dict=False,
    )[0]


def _flux_2(model: nn.Module) -> Tensor:
    return model(
        hidden_states=noise(2, 16, 16),
        encoder_hidden_states=noise(2, 5, 24, seed=1),
        timestep=torch.tensor([0.3, 0.8]),
        img_ids=places(16, 4),
        txt_ids=torch.zeros(5, 4),
        guidance=torch.tensor([3.5, 3.5]),
        return_dict=False,
    )[0]


def _qwen_image(model: nn.Module) -> Tensor:
    return model(
        hidden_states=noise(2, 16, 16),
        encoder_hidden_states=noise(2, 5, 24, seed=1),
        encoder_hidden_states_mask=torch.ones(2, 5, dtype=torch.long),
        timestep=torch.tensor([0.3, 0.8]),
        img_shapes=[[(1, 4, 4)]] * 2,
        return_dict=False,
    )[0]


def _sd_3(model: nn.Module) -> Tensor:
    return model(
        hidden_states=noise(2, 4, 8, 8),
        encoder_hidden_states=noise(2, 5, 24, seed=1),
        pooled_projections=noise(2, 20, seed=2),
        timestep=torch.tensor([300, 800]),
        return_dict=False,
    )[0]


@dataclass(frozen=True)
class Tiny:
    """A family: how its model is made and asked, and which pipeline loads adapters for it."""

    name: str
    model: type[Any]
    settings: Mapping[str, Any]
    predict: Callable[[nn.Module], Tensor]
    pipeline: type[Any]
    empty: tuple[str, ...]

    def made(self, seed: int = 0) -> nn.Module:
        """Return a model whose every weight counts: norms and gates are not at their start."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            made = self.model(**self.settings)
        generator = torch.Generator().manual_seed(seed + 1)
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(0.1 * noise)
        return made.requires_grad_(False).eval()

    def pipe(self, model: nn.Module) -> Any:
        """Return a pipeline with nothing but the denoiser."""
        parts = dict.fromkeys(self.empty)
        scheduler = FlowMatchEulerDiscreteScheduler()
        return self.pipeline(scheduler=scheduler, transformer=model, **parts)

    @torch.no_grad()
    def asked(self, model: nn.Module) -> Tensor:
        """Return what a model predicts for two rows, in float64: what differs is in the weights."""
        copy = deepcopy(model).double()
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return self.predict(copy)
        finally:
            torch.set_default_dtype(before)

    def container(self, model: nn.Module) -> Any:
        """Return as much of a container as adapter files are put on."""
        return SimpleNamespace(denoiser=model, pipeline=self.pipe(model), family=self.name)


ONE = ("vae", "text_encoder", "tokenizer")
TWO = (*ONE, "text_encoder_2", "tokenizer_2")
TINY = {
    each.name: each
    for each in (
        Tiny(
            "Z-Image",
            ZImageTransformer2DModel,
            {
                **{"in_channels": 4, "dim": 32, "n_layers": 2, "n_refiner_layers": 1},
                **{"n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 24},
                **{"axes_dims": [4, 6, 6], "axes_lens": [64, 16, 16]},
            },
            _z_image,
            ZImagePipeline,
            ONE,
        ),
        Tiny(
            "FLUX.1",
            FluxTransformer2DModel,
            {
                **HEADS,
                **{"patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 2},
                **{"pooled_projection_dim": 20, "axes_dims_rope": [4, 6, 6]},
                "guidance_embeds": True,
            },
            _flux,
            FluxPipeline,
            TWO,
        ),
        Tiny(
            "FLUX.2",
            Flux2Transformer2DModel,
            {
                **HEADS,
                **{"in_channels": 16, "num_layers": 2, "num_single_layers": 1},
                **{"timestep_guidance_channels": 16, "axes_dims_rope": [4, 4, 4, 4]},
            },
            _flux_2,
            Flux2KleinPipeline,
            ONE,
        ),
        Tiny(
            "Qwen-Image",
            QwenImageTransformer2DModel,
            {
                **HEADS,
                **{"in_channels": 16, "out_channels": 4, "num_layers": 2},
                "axes_dims_rope": [4, 6, 6],
            },
            _qwen_image,
            QwenImagePipeline,
            ONE,
        ),
        Tiny(
            "SD 3",
            SD3Transformer2DModel,
            {
                **HEADS,
                **{"sample_size": 8, "in_channels": 4, "out_channels": 4, "num_layers": 2},
                **{"caption_projection_dim": 32, "pooled_projection_dim": 20},
                **{"pos_embed_max_size": 8, "dual_attention_layers": (0,), "qk_norm": "rms_norm"},
            },
            _sd_3,
            StableDiffusion3Pipeline,
            (*TWO, "text_encoder_3", "tokenizer_3"),
        ),
    )
}


def linear_layers(model: nn.Module) -> list[str]:
    """Return the names of all linear layers."""
    return [name for name, each in model.named_modules() if isinstance(each, nn.Linear)]


_NORMS = {
    "attn.norm_q.weight": "img_attn.norm.query_norm.scale",
    "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
}
_NORMS_OF_SINGLE = {
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
}
_NORMS_OF_SD_3 = {
    "attn.norm_q.weight": "x_block.attn.ln_q.weight",
    "attn.norm_k.weight": "x_block.attn.ln_k.weight",
    "attn.norm_added_q.weight": "context_block.attn.ln_q.weight",
    "attn.norm_added_k.weight": "context_block.attn.ln_k.weight",
    "attn2.norm_q.weight": "x_block.attn2.ln_q.weight",
    "attn2.norm_k.weight": "x_block.attn2.ln_k.weight",
}


def as_original(model: nn.Module) -> dict[str, Tensor]:
    """Return a one-file checkpoint by the first implementation's names, as its authors have it."""
    family = of_class(type(model).__name__)
    assert family is not None
    rows: dict[str, dict[float, Tensor]] = {}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for key, tensor in state.items():
        module, _, part = key.rpartition(".")
        try:
            original = family.layout.original(module)
        except KeyError:
            rows[_norm(key, family.name)] = {0.0: tensor}
            continue
        weight = state[f"{module}.weight"]
        if original.swaps_halves and weight.shape[0] == 2 * weight.shape[1]:
            tensor = torch.cat(tensor.chunk(2)[::-1])
        at = float(original.share[0]) if original.share else 0.0
        rows.setdefault(f"{original.name}.{part}", {})[at] = tensor
    return {
        f"model.diffusion_model.{name}": torch.cat([parts[at] for at in sorted(parts)])
        for name, parts in rows.items()
    }


def _norm(key: str, name: str) -> str:
    """Return what a norm, or what is no layer, is called in the first implementation."""
    blocks, _, rest = key.partition(".")
    number, _, inner = rest.partition(".")
    if name in ("FLUX.1", "FLUX.2") and blocks == "single_transformer_blocks":
        return f"single_blocks.{number}.{_NORMS_OF_SINGLE[inner]}"
    if name in ("FLUX.1", "FLUX.2") and blocks == "transformer_blocks":
        return f"double_blocks.{number}.{_NORMS[inner]}"
    if name == "SD 3" and blocks == "transformer_blocks":
        return f"joint_blocks.{number}.{_NORMS_OF_SD_3[inner]}"
    return "pos_embed" if key == "pos_embed.pos_embed" else key
