"""Probe of an adapter's change of the denoiser's predictions, on latents that are held out.

With e_m the prediction at multiplier m, e_0 the base's, the adapter's change per unit of scale and
the wanted direction are

    De_m = (e_m(target) - e_0(target)) / |m|        d = e_0(towards) - e_0(away)

What sliders and erasers are measured by is made of these two, and of

    leakage = |De(preserve)| / |De(target)|
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.program.adapter_layers.strength import RowScale
from loba_tui.core.program.trajectories.held_out import BATCH_SIZE, HeldOut

# A sound slider of builtin:shapes-xl stays below a length of .8; at 400 times the learning rate it
# is 8 to 12.
DEAD_LENGTH = 0.02
COLLAPSED_LENGTH = 3.0


@dataclass(frozen=True)
class ProbePrompts:
    """Text embeddings whose predictions are compared.

    Attributes:
        target: One row for each prompt that the latents were rolled out with; so are the next two.
        towards: Where the adapter is to move it.
        away: Where from; None is from the target itself.
        preserve: Prompts that must not move, any number of rows; None where there are none.
        at: Returns `target` and `preserve` as text encoders with the adapter encode them at a
            strength; None where it changes no text encoder.
    """

    target: PromptEmbeds
    towards: PromptEmbeds
    away: PromptEmbeds | None = None
    preserve: PromptEmbeds | None = None
    at: Callable[[float], tuple[PromptEmbeds, PromptEmbeds | None]] | None = None


class EfficacyProbe:
    """The base model's predictions on held-out latents, to compare an adapter with repeatedly.

    The latents are rolled out with the prompts' `target`.

    Attributes:
        direction: (R, C·H·W) the wanted direction d.
        num_predicted_rows: UNet rows predicted so far, the rollout's left out.
    """

    @torch.no_grad()
    def __init__(
        self,
        container: ModelContainer,
        scale: RowScale,
        held_out: HeldOut,
        prompts: ProbePrompts,
        *,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self._container, self._scale, self._held_out = container, scale, held_out
        self._batch_size = batch_size
        self.num_predicted_rows = 0
        self._prompts = prompts
        self._target = prompts.target.select(held_out.rows)
        self._kept: PromptEmbeds | None = None
        with scale.base():
            self._base = self._predict(self._target)
            self.direction = self._predict(prompts.towards.select(held_out.rows))
            if prompts.away is None:
                self.direction -= self._base
            else:
                self.direction -= self._predict(prompts.away.select(held_out.rows))
            preserve = prompts.preserve
            if preserve is not None and len(preserve):
                self._kept = self._repeated(preserve)
                self._base_kept = self._predict(self._kept)

    @property
    def num_rows(self) -> int:
        """Pairs of latents and timesteps that are looked at."""
        return len(self._held_out.rows)

    @torch.no_grad()
    def change(self, multiplier: float) -> Tensor:
        """Return the adapter's change (R, C·H·W) of the target's predictions per unit of scale."""
        target = self._target
        if self._prompts.at is not None:
            target = self._prompts.at(multiplier)[0].select(self._held_out.rows)
        with self._scale(multiplier):
            return (self._predict(target) - self._base) / abs(multiplier)

    @torch.no_grad()
    def leakage(self, multiplier: float, change: Tensor) -> float | None:
        """Return the share of a change that prompts to preserve have too, None without any."""
        if self._kept is None:
            return None
        kept = self._kept
        if self._prompts.at is not None:
            preserve = self._prompts.at(multiplier)[1]
            assert preserve is not None, "there is as much to preserve at every strength"
            kept = self._repeated(preserve)
        with self._scale(multiplier):
            moved = self._predict(kept) - self._base_kept
        return ratio(length(moved) / abs(multiplier), length(change))

    def _repeated(self, preserve: PromptEmbeds) -> PromptEmbeds:
        """Return what is preserved again and again, a row for each that is looked at."""
        return preserve.select([row % len(preserve) for row in range(self.num_rows)])

    def _predict(self, embeds: PromptEmbeds) -> Tensor:
        """Return (R, C·H·W) predictions in float64."""
        self.num_predicted_rows += len(embeds)
        return self._held_out.predict(self._container, embeds, batch_size=self._batch_size)


def verdict_of_length(relative_length: float) -> Literal["dead", "collapsed"] | None:
    """Return what the length of the change over that of the direction says alone, if anything."""
    if not math.isfinite(relative_length) or relative_length > COLLAPSED_LENGTH:
        return "collapsed"
    return "dead" if relative_length < DEAD_LENGTH else None


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the mean over rows (R, N); a row of zeros counts as 0."""
    return float(torch.nn.functional.cosine_similarity(a, b, dim=1, eps=1e-12).mean())


def along(change: Tensor, direction: Tensor) -> float:
    """Return <change, direction> / |direction|^2 over all rows together.

    Together, because at low noise |direction| of single rows is next to nothing.
    """
    return ratio(float((change * direction).sum()), float((direction * direction).sum()))


def length(rows: Tensor) -> float:
    """Return the root mean square over rows (R, N) of their lengths."""
    return float(rows.square().sum(1).mean().sqrt())


def ratio(numerator: float, denominator: float) -> float:
    """Return the quotient, 0 for 0 / 0."""
    if denominator == 0:
        return 0.0 if numerator == 0 else math.inf
    return numerator / denominator
