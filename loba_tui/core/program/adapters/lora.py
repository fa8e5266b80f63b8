"""LoRA: low-rank adaptation of linear layers (Hu et al. 2021, https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peft import LoraConfig

from loba_tui.core.program.adapter_layers.options import LinearAdapterOptions


def get_adapter(
    targets: Mapping[str, Sequence[str]], *, options: LinearAdapterOptions
) -> LoraConfig:
    """Return a PEFT configuration for the linear layers of the named groups."""
    return LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        target_modules=options.modules(targets),
        init_lora_weights="gaussian",
    )
