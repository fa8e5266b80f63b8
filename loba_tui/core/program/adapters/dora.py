"""DoRA: LoRA on a weight's direction, and a magnitude m for each output of a layer.

W' = m · (W + α/r · B A) / ‖W + α/r · B A‖, rows normalised (Liu et al. 2024,
https://arxiv.org/abs/2402.09353). A scale s goes to W + s·(W' − W).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peft import LoraConfig

from loba_tui.core.program.adapter_layers.options import AdapterOptions

INIT_FROM = False


def get_adapter(targets: Mapping[str, Sequence[str]], *, options: AdapterOptions) -> LoraConfig:
    """Return a PEFT configuration for the layers of the named groups."""
    return LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        target_modules=options.modules(targets),
        init_lora_weights="gaussian",
        use_dora=True,
    )
