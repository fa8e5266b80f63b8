"""Turn a fresh LoRA's A to what the first step's gradient asks of its layers.

The gradient of B A is taken with respect to A, where B is 0: none of it. With a random B and A = 0
the layers are those of the base too, and dL/dA = Bᵀ G is a sketch of the rows of G, the gradient
with respect to the layer's weight (Halko et al. 2011, https://arxiv.org/abs/0909.4061). A becomes
an orthonormal basis of these rows, as long as the random ones whose place it takes, and B is 0
again. LoRA-GA (Wang et al. 2024, https://arxiv.org/abs/2407.05000) has singular vectors of G itself
for A and for B, and takes their product off the base's weights; here the run begins with the base.
It costs the UNet rows of one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from loba_tui.core.errors import RecipeError
from loba_tui.core.program import randomness
from loba_tui.core.program.adapter_layers.kinds import tuner_layers


class GradientStart:
    """Finds the rows of A for the layers of a denoiser's adapter whose B is 0.

    Layers that were given an update already, by a file or by a warm start, are left as they are, as
    are those that do not train.

    Raises:
        RecipeError: The adapter is no plain LoRA.
    """

    def __init__(self, denoiser: nn.Module, seed: int) -> None:
        self._layers = dict(tuner_layers(denoiser, "default"))
        self._seed = seed
        for name, layer in self._layers.items():
            if not isinstance(layer, LoraLayer) or layer.lora_magnitude_vector:
                raise RecipeError(
                    f"adapter.init: only a LoRA or LoCon can begin along a gradient; {name} is"
                    " adapted otherwise",
                    "Leave adapter.init out.",
                )

    @torch.no_grad()
    def __call__(self, backward: Callable[[], object]) -> None:
        """Set A and leave B at 0; `backward` adds up the gradients of a step that is not made."""
        fresh = list(self._fresh())
        begun = [down.clone() for _, down, _ in fresh]
        for name, down, up in fresh:
            down.zero_()
            up.copy_(randomness.normal(tuple(up.shape), self._seed, "gradient start", name))
        try:
            with torch.enable_grad():
                backward()
            begun = [
                _rows_along(down.grad, random)
                for (_, down, _), random in zip(fresh, begun, strict=True)
            ]
        finally:
            for (_, down, up), rows in zip(fresh, begun, strict=True):
                down.copy_(rows)
                up.zero_()

    def _fresh(self) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
        """Yield name, A and B of layers."""
        for name, layer in self._layers.items():
            down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            if down.requires_grad and up.requires_grad and not bool(up.any()):
                yield name, down, up


def _rows_along(gradient: Tensor | None, random: Tensor) -> Tensor:
    """Return rows for A (r, …) that span a gradient's, of the length of random ones.

    The random ones stay where there is no gradient, and beyond what rows can be orthogonal.
    """
    if gradient is None or not bool(gradient.isfinite().all()) or not bool(gradient.any()):
        return random
    basis, _ = torch.linalg.qr(gradient.flatten(1).double().cpu().T)
    rows = random.flatten(1).clone()
    num_rows = basis.shape[1]
    length = rows.double().norm(dim=1).mean().cpu()
    rows[:num_rows] = (length * basis.T).to(rows)
    return rows.view_as(random)
