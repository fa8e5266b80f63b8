"""A factor multiplied into an adapter's weights: its strength 1 becomes what another strength was.

LoRA, LoHa and LoKr are linear in one of their factors. A DoRA has W' = m · (W + Δ) / ‖W + Δ‖, row
by row; with q = m / ‖W + Δ‖ and c = 1 − f + f·q,

    W + f·(W' − W) = c · (W + f·q/c · Δ),

which is a DoRA again: its rows of Δ times f·q/c, and its magnitudes c · ‖W + f·q/c · Δ‖.
"""

from __future__ import annotations

import torch
from peft.tuners.loha.layer import LoHaLayer
from peft.tuners.lokr.layer import LoKrLayer
from peft.tuners.lora import LoraLayer
from torch import nn

from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_layers.kinds import tuner_layers


def check_linear(network: nn.Module, adapter_name: str = "default") -> None:
    """Refuse an adapter that has no other strength in its own form.

    Raises:
        RecipeError: It is of such a kind.
    """
    for _, layer in tuner_layers(network, adapter_name):
        if not isinstance(layer, LoraLayer | LoHaLayer | LoKrLayer):
            kind = type(layer).__name__
            raise RecipeError(
                f"proof.calibrate: a {kind} is not linear in its strength and takes no factor",
                "Leave proof.calibrate out, or train a lora, locon, dora, loha or lokr.",
            )


@torch.no_grad()
def multiply_adapter(network: nn.Module, factor: float, adapter_name: str = "default") -> None:
    """Multiply an attached adapter by a factor; a network without one stays as it is.

    Raises:
        RecipeError: It is of a kind that is not linear in its strength.
    """
    check_linear(network, adapter_name)
    for _, layer in tuner_layers(network, adapter_name):
        if isinstance(layer, LoHaLayer):
            layer.hada_w1_a[adapter_name].mul_(factor)
        elif isinstance(layer, LoKrLayer):
            is_whole = adapter_name in layer.lokr_w1
            (layer.lokr_w1 if is_whole else layer.lokr_w1_a)[adapter_name].mul_(factor)
        elif adapter_name in layer.lora_magnitude_vector:
            _multiply_dora(layer, factor, adapter_name)
        else:
            layer.lora_B[adapter_name].weight.mul_(factor)


def _multiply_dora(layer: LoraLayer, factor: float, adapter_name: str) -> None:
    up, down = layer.lora_B[adapter_name].weight, layer.lora_A[adapter_name].weight
    magnitude = layer.lora_magnitude_vector[adapter_name].weight
    base = layer.get_base_layer().weight.to(up.device).double().flatten(1)
    product = up.double().flatten(1) @ down.double().flatten(1)
    change = layer.scaling[adapter_name] * product
    stretch = magnitude.double().flatten() / (base + change).norm(dim=1)
    kept = 1 - factor + factor * stretch
    rows = (factor * stretch / kept)[:, None]
    lengths = kept * (base + rows * change).norm(dim=1)
    up.copy_(up.double() * rows.reshape(-1, *[1] * (up.ndim - 1)))
    magnitude.copy_(lengths.reshape(magnitude.shape))
