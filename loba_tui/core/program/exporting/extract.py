"""A LoRA from the difference of two denoisers: of every linear and convolutional layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from loba_tui.core.adapter_keys.names import DENOISERS
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_files.formats import LoraLayer
from loba_tui.core.program.adapter_files.losses import Loss
from loba_tui.core.program.adapter_files.low_rank import nearest_layer
from loba_tui.core.program.exporting.checkpoints import Key, Weights


@dataclass(frozen=True)
class Extracted:
    """The LoRA layers of a difference.

    Attributes:
        losses: Of each layer, in their order.
        left_out: What differs and is in no layer, each a sentence.
    """

    layers: dict[str, LoraLayer]
    losses: tuple[Loss, ...]
    left_out: tuple[str, ...]


@torch.no_grad()
def extract(
    tuned: Weights, base: Weights, rank: int, progress: Callable[[int, int], None]
) -> Extracted:
    """Return the LoRA of a rank that is nearest to `tuned` − `base`.

    Raises:
        RecipeError: They are of different shapes, or do not differ.
    """
    keys = [key for key in base.stored if key in tuned.stored]
    lacking = [
        key
        for key in base.stored
        if key[0] in DENOISERS and base.is_matrix(key) and key not in tuned.stored
    ]
    if lacking:
        raise RecipeError(
            f"{tuned.path} and {base.path} are not of one architecture: the first has no"
            f" {lacking[0][1]}.",
            "Name the model that the first was tuned from.",
        )
    layers, losses, others = {}, [], {"text encoders": 0, "norms and biases": 0}
    for done, key in enumerate(keys):
        progress(done, len(keys))
        delta = _difference(tuned, base, key)
        if delta is None:
            continue
        component, module, part = key
        if component not in DENOISERS:
            others["text encoders"] += 1
        elif part == "bias" or delta.ndim not in (2, 4):
            others["norms and biases"] += 1
        else:
            layers[module], loss = nearest_layer(module, delta, rank)
            losses.append(loss)
    if not layers:
        raise RecipeError(f"The denoisers of {tuned.path} and {base.path} do not differ.")
    told = (f"{n} tensors of {what} differ too" for what, n in others.items() if n)
    return Extracted(layers, tuple(losses), tuple(told))


def _difference(tuned: Weights, base: Weights, key: Key) -> torch.Tensor | None:
    """Return a layer's difference in float64 over the base's shape; None where there is none."""
    before, after = base.read(key).double(), tuned.read(key).double()
    if before.numel() != after.numel() or before.shape[:2] != after.shape[:2]:
        raise RecipeError(
            f"{key[1]} is {list(after.shape)} in {tuned.path}, and {list(before.shape)} in"
            f" {base.path}.",
            "Name the model that the first was tuned from.",
        )
    delta = after.reshape(before.shape) - before
    if not bool(torch.isfinite(delta).all()):
        raise RecipeError(f"{key[1]} of {tuned.path} or {base.path} is not finite.")
    return delta if bool(delta.any()) else None
