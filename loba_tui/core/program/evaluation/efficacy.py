"""What an adapter does to the denoiser's predictions, measured without drawing an image.

With d = e0(positive) - e0(negative) the wanted direction and De_m = e_m(target) - e0(target) the
change that the adapter makes at multiplier m, on latents and timesteps it was not trained on:

    alignment = cos(De_m, sign(m) d)            strength  = <De_m, d> / (m |d|^2)
    symmetry  = cos(De_+, -De_-)                leakage   = |De(preserve)| / |De(target)|

A few batches of the UNet tell a dead, a weak, a working and a collapsed slider apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from loba_tui.core.associate.containers.base import ModelContainer, PromptEmbeds
from loba_tui.core.program import randomness
from loba_tui.core.program.adapter_layers.strength import RowScale

Verdict = Literal["dead", "weak", "working", "reversed", "collapsed"]

# Chosen on size sliders of builtin:shapes-xl, where a sound run has alignment .81 and symmetry 1.0
# after two steps and keeps them above .8 and .9; at 40 times the learning rate both fall to .5, at
# 400 times alignment is 0 and the length 8 to 12 where a sound run stays below .8.
# Area at +-2 moves by 5 % at strength .03, 14 % at .08, 34 % at .16 and 75 % at .55.
DEAD_LENGTH = 0.02
WEAK_STRENGTH = 0.1
WEAK_ALIGNMENT = 0.6
WEAK_SYMMETRY = 0.7
COLLAPSED_COSINE = 0.4
IDLE_SYMMETRY_LENGTH = 0.1
COLLAPSED_LENGTH = 3.0

ROLLOUT_GUIDANCE = 3.0


@dataclass(frozen=True)
class HeldOut:
    """Noisy latents of base rollouts, as the denoiser takes them.

    Attributes:
        inputs: (R, C, H, W).
        timesteps: (R,) the label of each row's noise level.
        rows: Which prompt each row was rolled out with, length R.
        num_unet_rows: What the rollout cost.
    """

    inputs: Tensor
    timesteps: Tensor
    rows: list[int]
    num_unet_rows: int


@dataclass(frozen=True)
class Efficacy:
    """Figures of the module's formulas; "up" is the positive side, cosines are means over rows.

    Attributes:
        alignment_up: Cosine with the wanted direction.
        alignment_down: Cosine with its opposite.
        strength_up: Length along the wanted direction per unit of scale; 1 moves the target
            prompt's prediction as far as positive and negative prompts lie apart.
        strength_down: The same on the negative side.
        relative_length: Length of the change, in any direction, per unit of scale.
        symmetry_cosine: 1 where both sides are exact opposites.
        symmetry_length: The shorter side's length over the longer's.
        leakage: None where the recipe names nothing to preserve.
        verdict: What these amount to.
        num_rows: Pairs of latents and timesteps that were looked at.
        num_unet_rows: Cost in UNet rows so far, without the rollout's.
    """

    alignment_up: float
    alignment_down: float
    strength_up: float
    strength_down: float
    relative_length: float
    symmetry_cosine: float
    symmetry_length: float
    leakage: float | None
    verdict: Verdict
    num_rows: int
    num_unet_rows: int

    def sentence(self) -> str:
        """Say it in one sentence for the report."""
        leakage = "" if self.leakage is None else f", leakage {self.leakage:.2f}"
        return (
            f"Without images: {self.verdict}; alignment {self.alignment_up:.2f} up and "
            f"{self.alignment_down:.2f} down, strength {self.strength_up:.2f} and "
            f"{self.strength_down:.2f}, symmetry {self.symmetry_cosine:.2f}{leakage}."
        )


@torch.no_grad()
def roll_out(
    container: ModelContainer,
    scale: RowScale,
    prompts: PromptEmbeds,
    *,
    make_scheduler: Callable[[], Any],
    seed: int,
    num_steps: int = 8,
    keep: Sequence[int] = (1, 3, 5, 7),
    resolution: int | None = None,
) -> HeldOut:
    """Roll prompts out with the base model, and keep the latents at some of the steps.

    Args:
        container: The model.
        scale: Of the adapter, which is off here.
        prompts: One row a prompt; each is rolled out once.
        make_scheduler: Returns a fresh diffusers scheduler, one that adds no noise (DDIM, Euler).
        seed: Of the initial noise, used with a key of its own.
        num_steps: Length of the sampling grid.
        keep: Positions on that grid; nothing is computed past the last one.
        resolution: Pixels; None takes the model's own.
    """
    scheduler = make_scheduler()
    scheduler.set_timesteps(num_steps)
    num_prompts = len(prompts)
    shape = (num_prompts, *container.latent_shape(resolution))
    latents = randomness.normal(shape, seed, "efficacy").to(container.device)
    latents = latents * float(scheduler.init_noise_sigma)
    both = PromptEmbeds.cat([container.empty_embeds().select([0] * num_prompts), prompts])
    inputs, labels, num_unet_rows = [], [], 0
    with scale.base():
        for position, timestep in enumerate(scheduler.timesteps[: max(keep) + 1]):
            model_input = scheduler.scale_model_input(latents, timestep)
            if position in keep:
                inputs.append(model_input)
                labels.append(timestep.to(latents.device).repeat(num_prompts))
            if position == max(keep):
                break
            label = timestep.to(latents.device).repeat(2 * num_prompts)
            empty, conditional = container.predict(
                torch.cat([model_input, model_input]), label, both
            ).chunk(2)
            num_unet_rows += 2 * num_prompts
            noise_pred = empty + ROLLOUT_GUIDANCE * (conditional - empty)
            latents = scheduler.step(noise_pred, timestep, latents, return_dict=False)[0]
    return HeldOut(
        inputs=torch.cat(inputs),
        timesteps=torch.cat(labels),
        rows=list(range(num_prompts)) * len(inputs),
        num_unet_rows=num_unet_rows,
    )


def efficacy(
    container: ModelContainer,
    scale: RowScale,
    held_out: HeldOut,
    *,
    target: PromptEmbeds,
    positive: PromptEmbeds,
    negative: PromptEmbeds,
    preserve: PromptEmbeds | None = None,
    multiplier: float = 1.0,
    batch_size: int = 16,
) -> Efficacy:
    """Compare the adapter's change of the prediction with the wanted one.

    Args:
        container: The model, with the adapter attached.
        scale: Strength of that adapter.
        held_out: From `roll_out` with the same prompts as `target`.
        target: One row for each prompt of the rollout; the next two likewise.
        positive: Where the slider is to go.
        negative: Where it comes from.
        preserve: Prompts that must not move, any number of rows.
        multiplier: Both signs of it are looked at.
        batch_size: UNet rows at once.
    """
    return Yardstick(
        container,
        scale,
        held_out,
        target=target,
        positive=positive,
        negative=negative,
        preserve=preserve,
        batch_size=batch_size,
    ).measure(multiplier)


class Yardstick:
    """What the base model predicts on held-out latents, to hold an adapter against repeatedly."""

    @torch.no_grad()
    def __init__(
        self,
        container: ModelContainer,
        scale: RowScale,
        held_out: HeldOut,
        *,
        target: PromptEmbeds,
        positive: PromptEmbeds,
        negative: PromptEmbeds,
        preserve: PromptEmbeds | None = None,
        batch_size: int = 16,
    ) -> None:
        """Predict with the base model; the arguments are those of `efficacy`."""
        self._scale = scale
        self._num_rollout_rows = held_out.num_unet_rows
        self._meter = meter = Predictions(container, held_out, batch_size)
        self._target = target.select(held_out.rows)
        self._kept: PromptEmbeds | None = None
        with scale.base():
            self._base = meter(self._target)
            self._direction = meter(positive.select(held_out.rows))
            self._direction -= meter(negative.select(held_out.rows))
            if preserve is not None and len(preserve):
                rows = [row % len(preserve) for row in range(len(held_out.rows))]
                self._kept = preserve.select(rows)
                self._base_kept = meter(self._kept)

    @property
    def num_unet_rows(self) -> int:
        """UNet rows that it has cost so far, the rollout's among them."""
        return self._num_rollout_rows + self._meter.num_unet_rows

    @torch.no_grad()
    def measure(self, multiplier: float = 1.0) -> Efficacy:
        """Return the figures of the adapter as it is now."""
        meter, direction = self._meter, self._direction
        with self._scale(multiplier):
            up = (meter(self._target) - self._base) / multiplier
        with self._scale(-multiplier):
            down = (meter(self._target) - self._base) / multiplier
        leakage = None
        if self._kept is not None:
            with self._scale(multiplier):
                moved = meter(self._kept) - self._base_kept
            leakage = ratio(length(moved) / multiplier, length(up))

        lengths = length(up), length(down)
        judged = {
            "alignment_up": cosine(up, direction),
            "alignment_down": cosine(down, -direction),
            "strength_up": along(up, direction),
            "strength_down": along(down, -direction),
            "relative_length": ratio(sum(lengths) / 2, length(direction)),
            "symmetry_cosine": cosine(up, -down),
            "symmetry_length": ratio(min(lengths), max(lengths)),
        }
        return Efficacy(
            **judged,
            leakage=leakage,
            verdict=judge(**judged),
            num_rows=len(up),
            num_unet_rows=meter.num_unet_rows,
        )


def judge(
    *,
    alignment_up: float,
    alignment_down: float,
    strength_up: float,
    strength_down: float,
    relative_length: float,
    symmetry_cosine: float,
    symmetry_length: float,
) -> Verdict:
    """Return the verdict; the weaker side decides, because a slider has to work both ways."""
    alignment = min(alignment_up, alignment_down)
    strength = min(strength_up, strength_down)
    if not math.isfinite(relative_length) or relative_length > COLLAPSED_LENGTH:
        return "collapsed"
    if relative_length < DEAD_LENGTH:
        return "dead"
    if max(alignment_up, alignment_down) < -WEAK_ALIGNMENT:
        return "reversed"
    one_side_idle = symmetry_length < IDLE_SYMMETRY_LENGTH
    if min(alignment, symmetry_cosine) < COLLAPSED_COSINE and not one_side_idle:
        return "collapsed"
    sound = alignment >= WEAK_ALIGNMENT and symmetry_cosine >= WEAK_SYMMETRY
    return "working" if sound and strength >= WEAK_STRENGTH else "weak"


class Predictions:
    """Predicts for all held-out rows in batches, and counts what that costs."""

    def __init__(
        self,
        container: ModelContainer,
        held_out: HeldOut,
        batch_size: int,
    ) -> None:
        self._container = container
        self._held_out = held_out
        self._batch_size = batch_size
        self.num_unet_rows = 0

    def __call__(self, embeds: PromptEmbeds) -> Tensor:
        """Return (R, C·H·W) predictions in float64."""
        parts = []
        for start in range(0, len(embeds), self._batch_size):
            rows = slice(start, start + self._batch_size)
            inputs = self._held_out.inputs[rows]
            predicted = self._container.predict(
                inputs, self._held_out.timesteps[rows], embeds[rows]
            )
            parts.append(predicted.double().cpu())
            self.num_unet_rows += len(inputs)
        return torch.cat(parts).flatten(1)


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
