"""Text sliders: one adapter moves one concept up and down, taught by the base model's own words.

Concept Sliders, Gandikota et al. 2023, https://arxiv.org/abs/2311.12092, with two differences: both
signs are trained, where the reference leaves the negative side to extrapolation, and preserve
prompts are held in place by a term of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.option_types import NonZeroFloat, UnitFloat
from loba_tui.core.program.closed_form.slider import start_from_instant
from loba_tui.core.program.method import Method, MethodParts, StepOutput
from loba_tui.core.program.objectives.preserve import PreserveRows
from loba_tui.core.program.trajectories.bank import BankSize
from loba_tui.core.program.trajectories.base import Draw

REQUIRES = ("target", "positive", "negative")


def get_method(
    parts: MethodParts,
    *,
    trajectories: Literal["rolling", "bank", "restart"] = "rolling",
    rollout_steps: PositiveInt = 20,
    rollout_guidance: PositiveFloat = 3.0,
    rollout_scale: float = 0.0,
    slots: PositiveInt | None = None,
    bank_images: PositiveInt | None = None,
    bank_samples: NonNegativeInt | None = None,
    scales: tuple[NonZeroFloat, ...] = (-1.0, 1.0),
    preserve_weight: NonNegativeFloat = 1.0,
    preserve_share: UnitFloat = 0.25,
    rescale_target: bool = False,
    warm_start: Literal["instant"] | None = None,
) -> Method:
    """Return the text slider.

    Args:
        parts: What the method works with.
        trajectories: "rolling" keeps a pool of latents in flight; "bank" makes noisy latents and
            their teacher predictions once; "restart" is the reference, a fresh rollout every step.
        rollout_steps: Sampling steps N of a whole rollout.
        rollout_guidance: Classifier-free guidance of rollouts.
        rollout_scale: Strength of the adapter during rollouts: the reference has 1, and 0 needs no
            extra forwards for "rolling".
        slots: Latents in flight for "rolling"; null takes three per row of the global batch.
        bank_images: Images that "bank" is made of; null takes three per row of the global batch.
        bank_samples: Noisy latents that "bank" keeps; null takes 24 per row of the global batch,
            and 0 noises its images afresh for every step.
        scales: Strengths m that are trained, each towards neutral + m·g·(positive − negative).
        preserve_weight: Weight of the preserve term.
        preserve_share: Share of a batch's rows that also train a preserve prompt.
        rescale_target: Scale the target to the norm of the neutral prediction.
        warm_start: "instant" begins with the instant slider, cut to the adapter's rank, in the
            layers that read the prompt; null begins with the base model.
    """
    return TextSlider(
        parts,
        trajectories=trajectories,
        rollout_steps=rollout_steps,
        rollout_guidance=rollout_guidance,
        rollout_scale=rollout_scale,
        slots=slots,
        bank=BankSize.of(
            parts.batch_size * parts.num_processes,
            num_images=bank_images,
            num_samples=bank_samples,
        ),
        scales=scales,
        preserve_weight=preserve_weight,
        preserve_share=preserve_share,
        rescale_target=rescale_target,
        warm_start=warm_start,
    )


class TextSlider:
    """Trains ε_m(x_t, target) towards sg[ε₀(neutral) + m·g·(ε₀(positive) − ε₀(negative))]."""

    def __init__(
        self,
        parts: MethodParts,
        *,
        trajectories: Literal["rolling", "bank", "restart"],
        rollout_steps: int,
        rollout_guidance: float,
        rollout_scale: float,
        slots: int | None,
        bank: BankSize,
        scales: tuple[float, ...],
        preserve_weight: float,
        preserve_share: float,
        rescale_target: bool,
        warm_start: Literal["instant"] | None,
    ) -> None:
        self._parts = parts
        self._scales = scales
        self._rollout_guidance = rollout_guidance
        self._rollout_scale = rollout_scale
        self._preserve = PreserveRows(parts.concepts, preserve_share, parts.seed)
        self.change_preserve_weight(preserve_weight)
        self._rescale_target = rescale_target
        self._warm_start = warm_start
        self._trajectories = parts.trajectories(
            trajectories,
            num_steps=rollout_steps,
            guidance_scale=rollout_guidance,
            num_slots=slots,
            bank=bank,
            adapter_on=(lambda: parts.scale(rollout_scale)) if rollout_scale else None,
        )

    def start_warm(self) -> None:
        """Set the adapter's first weights, if the recipe asks for others than the base model's."""
        if self._warm_start == "instant":
            parts = self._parts
            start_from_instant(parts.container, parts.embeds, parts.concepts)

    def change_preserve_weight(self, weight: float) -> None:
        """Take another weight; without preserve prompts there is nothing to weigh."""
        self._preserve_weight = weight if self._preserve.has_any else 0.0

    def state(self) -> dict[str, Tensor]:
        """Return the state of the trajectories."""
        return self._trajectories.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the state of the trajectories back."""
        self._trajectories.load_state(state)

    def step(self, index: int, progress: float) -> StepOutput:
        """Return the slider loss plus the weighted preserve loss of one micro-step."""
        parts = self._parts
        draw = self._trajectories.draw(index, progress)
        signs = [self._scales[row % len(self._scales)] for row in draw.rows]
        teacher = self._trajectories.teachers(draw, lambda rows: self._teacher(rows, index))
        kept_rows, kept_prompts = self._preserve_rows(draw, index)
        if not self._preserve_weight:
            kept_rows, kept_prompts = [], []
        if self._trajectories.moves:
            self._trajectories.advance(draw, index, self._guided(draw, teacher))

        concepts = [parts.concepts[concept] for concept in draw.concepts]
        prompts = parts.select([concept.target for concept in concepts] + kept_prompts)
        rows = [*range(len(signs)), *kept_rows]
        # The multipliers stay set: gradient checkpointing runs this forward again in backward.
        parts.scale.set(torch.tensor([signs[row] for row in rows]))
        student = parts.container.predict(
            draw.inputs[rows],
            draw.timesteps[rows],
            prompts,
            denoiser=parts.student,
        )
        parts.counter.rows += 2 * len(rows)

        num_rows = len(signs)
        strength = torch.tensor(
            [sign * concept.guidance for sign, concept in zip(signs, concepts, strict=True)],
            device=student.device,
        ).view(-1, 1, 1, 1)
        direction = teacher["positive"] - teacher["negative"]
        target = teacher["neutral"] + strength * direction
        if self._rescale_target:
            target = target * (_norm(teacher["neutral"]) / _norm(target).clamp_min(1e-8))
        t = parts.normalised(draw.timesteps)
        losses = parts.loss_at(student[:num_rows].float(), target, t).mean(dim=(1, 2, 3))
        slider_loss = (losses * draw.weights).mean()
        metrics = {"slider_loss": slider_loss.detach()}
        loss = slider_loss
        if self._preserve_weight:
            # Without rows this is zero, so that every process reports the same figures.
            kept = parts.loss_at(
                student[num_rows:].float(), teacher["preserve"][kept_rows], t[kept_rows]
            )
            # Divided by the expected count, not by this process's: so that processes add up to
            # what one process with the whole batch computes.
            expected = self._preserve.share * num_rows
            preserve_loss = (kept.mean(dim=(1, 2, 3)) * draw.weights[kept_rows]).sum() / expected
            metrics["preserve_loss"] = preserve_loss.detach()
            loss = loss + self._preserve_weight * preserve_loss
        return StepOutput(loss=loss, metrics=metrics)

    def _preserve_rows(self, draw: Draw, index: int) -> tuple[list[int], list[str]]:
        """Return which local rows train a preserve prompt too, and which prompt each.

        Samples that are kept have theirs predicted once, whatever the weight is now: it can change.
        """
        is_asked = self._preserve.has_any and (bool(draw.samples) or self._preserve_weight > 0)
        return self._preserve.pick(draw, index) if is_asked else ([], [])

    @torch.no_grad()
    def _teacher(self, draw: Draw, index: int) -> dict[str, Tensor]:
        """Return the base model's predictions by role, all from one batched call.

        Those of preserve prompts are zero in rows that have none.
        """
        parts = self._parts
        kept_rows, kept_prompts = self._preserve_rows(draw, index)
        concepts = [parts.concepts[concept] for concept in draw.concepts]
        roles = {
            "positive": [str(concept.positive) for concept in concepts],
            "negative": [str(concept.negative) for concept in concepts],
            "neutral": [concept.neutral or concept.target for concept in concepts],
        }
        reuses_rollout = self._trajectories.moves and self._rollout_scale == 0
        if reuses_rollout and any(concept.neutral for concept in concepts):
            roles["target"] = [concept.target for concept in concepts]
        num_rows = len(concepts)
        rows = list(range(num_rows)) * len(roles) + kept_rows
        sizes = [num_rows] * len(roles) + [len(kept_rows)]
        names = [*roles, "preserve"]
        batches = [parts.select(prompts) for prompts in roles.values()]
        if kept_prompts:
            batches.append(parts.select(kept_prompts))
        if reuses_rollout:
            batches.append(parts.empty.select([0] * num_rows))
            rows, sizes, names = rows + list(range(num_rows)), [*sizes, num_rows], [*names, "empty"]
        with parts.scale.base():
            predictions = parts.container.predict(
                draw.inputs[rows],
                draw.timesteps[rows],
                PromptEmbeds.cat(batches),
            )
        parts.counter.rows += len(rows)
        teacher = dict(zip(names, predictions.float().split(sizes), strict=True))
        preserve = torch.zeros_like(teacher["neutral"])
        preserve[kept_rows] = teacher["preserve"]
        return {**teacher, "preserve": preserve}

    def _guided(self, draw: Draw, teacher: Mapping[str, Tensor]) -> Tensor:
        """Return the guided prediction that advances the drawn latents."""
        if self._rollout_scale == 0:
            target = teacher.get("target", teacher["neutral"])
            guided: Tensor = teacher["empty"] + self._rollout_guidance * (target - teacher["empty"])
            return guided
        parts = self._parts
        targets = parts.select([parts.concepts[concept].target for concept in draw.concepts])
        num_rows = len(draw.concepts)
        embeds = PromptEmbeds.cat([parts.empty.select([0] * num_rows), targets])
        with torch.no_grad(), parts.scale(self._rollout_scale):
            empty, conditional = parts.container.predict(
                draw.inputs.repeat(2, 1, 1, 1),
                draw.timesteps.repeat(2),
                embeds,
            ).chunk(2)
        parts.counter.rows += 2 * num_rows
        return empty + self._rollout_guidance * (conditional - empty)


def _norm(prediction: Tensor) -> Tensor:
    """Return the L2 norm of each row of (B, C, H, W) as (B, 1, 1, 1)."""
    return prediction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
