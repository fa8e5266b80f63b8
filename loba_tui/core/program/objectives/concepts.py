"""What the trained erasers have in common: one prompt is taught what others predict.

    L = MSE(ε₁(x_t, student prompt), sg[y]) + p · MSE(ε₁(x_t, r), sg ε₀(x_t, r))
        + a · MSE(ε₁(x_t, anchor), sg ε₀(x_t, anchor))

A method says which prompts the frozen base is asked for (its roles) and how the target y is made of
what it answers; everything else is here. x_t are of the concept's own sampling trajectories, r is a
preserve prompt, and an anchor a random embedding (SPM, https://arxiv.org/abs/2312.16145).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.program.method import MethodParts, StepOutput
from loba_tui.core.program.objectives.preserve import PreserveRows, SpreadRows
from loba_tui.core.program.objectives.spm_anchors import random_anchor
from loba_tui.core.program.trajectories.bank import BankSize
from loba_tui.core.program.trajectories.base import Draw
from loba_tui.core.recipe.schema import Concept

Roles = Mapping[str, str | None]
"""The prompts that the base is asked for, by role; None is the unconditional prompt."""

_TARGET, _EMPTY, _PRESERVE, _ANCHOR = "target", "empty", "preserve", "anchor"


@dataclass(frozen=True)
class EraserOptions:
    """Options that every trained eraser has.

    Attributes:
        trajectories: "rolling" keeps a pool of latents in flight; "bank" makes noisy latents and
            teacher predictions once; "restart" is a fresh rollout every step.
        rollout_steps: Sampling steps N of a whole rollout.
        rollout_guidance: Classifier-free guidance of rollouts.
        slots: Latents in flight for "rolling"; None takes three per row of the global batch.
        bank_images: Images of "bank"; None takes three per row of the global batch.
        bank_samples: Noisy latents of "bank"; None takes 24 per row of the global batch.
        preserve_weight: Weight p of the preserve term.
        preserve_share: Share of a batch's rows that also train a preserve prompt.
        anchor_weight: Weight a of the anchor term; 0 has no anchors.
        anchor_share: Share of a batch's rows that also train an anchor.
    """

    trajectories: Literal["rolling", "bank", "restart"]
    rollout_steps: int
    rollout_guidance: float
    slots: int | None
    bank_images: int | None
    bank_samples: int | None
    preserve_weight: float
    preserve_share: float
    anchor_weight: float
    anchor_share: float


@dataclass(frozen=True)
class Lesson:
    """What a method teaches.

    Attributes:
        roles: Returns the prompts that the base is asked for about a concept.
        student: Returns the prompt whose prediction is trained.
        target: Returns y (B, C, H, W) from the base's answers by role and guidance g (B, 1, 1, 1).
    """

    roles: Callable[[Concept], Roles]
    student: Callable[[Concept], str]
    target: Callable[[Mapping[str, Tensor], Tensor], Tensor]


class Eraser:
    """A method that teaches the adapter at strength 1; -1 and others are left to the user."""

    def __init__(self, parts: MethodParts, lesson: Lesson, options: EraserOptions) -> None:
        self._parts = parts
        self._lesson = lesson
        self._options = options
        self._preserve = PreserveRows(parts.concepts, options.preserve_share, parts.seed)
        self._anchors = SpreadRows(options.anchor_share if options.anchor_weight else 0.0)
        self.change_preserve_weight(options.preserve_weight)
        self._trajectories = parts.trajectories(
            options.trajectories,
            num_steps=options.rollout_steps,
            guidance_scale=options.rollout_guidance,
            num_slots=options.slots,
            bank=BankSize.of(
                parts.batch_size * parts.num_processes,
                num_images=options.bank_images,
                num_samples=options.bank_samples,
            ),
        )

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
        """Return the erasing loss plus the weighted other terms of one micro-step."""
        parts = self._parts
        draw = self._trajectories.draw(index, progress)
        teacher = self._trajectories.teachers(draw, lambda rows: self._teacher(rows, index))
        if self._trajectories.moves:
            self._trajectories.advance(draw, index, self._guided(teacher))

        concepts = [parts.concepts[concept] for concept in draw.concepts]
        kept_rows, kept_prompts = self._kept(draw, index) if self._preserve_weight else ([], [])
        anchor_rows, anchors = self._anchors_of(draw, index)
        num_rows = len(concepts)
        rows = [*range(num_rows), *kept_rows, *anchor_rows]
        # The strength stays set: gradient checkpointing runs this forward again in backward.
        parts.scale.set(1.0)
        student = parts.container.predict(
            draw.inputs[rows],
            draw.timesteps[rows],
            PromptEmbeds.cat(
                [
                    parts.select([self._lesson.student(concept) for concept in concepts]),
                    *([parts.select(kept_prompts)] if kept_prompts else []),
                    *anchors,
                ]
            ),
            denoiser=parts.student,
        ).float()
        parts.counter.rows += 2 * len(rows)

        guidance = student.new_tensor([concept.guidance for concept in concepts])
        target = self._lesson.target(teacher, guidance.view(-1, 1, 1, 1))
        t = parts.normalised(draw.timesteps)
        own, kept, anchored = student.split([num_rows, len(kept_rows), len(anchor_rows)])
        losses = parts.loss_at(own, target, t).mean(dim=(1, 2, 3))
        loss = (losses * draw.weights).mean()
        metrics = {"erase_loss": loss.detach()}
        for name, weight, share, predicted, at in (
            (_PRESERVE, self._preserve_weight, self._preserve.share, kept, kept_rows),
            (_ANCHOR, self._options.anchor_weight, self._anchors.share, anchored, anchor_rows),
        ):
            if weight:
                held = parts.loss_at(predicted, teacher[name][at], t[at]).mean(dim=(1, 2, 3))
                # Divided by the expected count, not by this process's: so that processes add up
                # to what one process with the whole batch computes.
                term = (held * draw.weights[at]).sum() / (share * num_rows)
                metrics[f"{name}_loss"] = term.detach()
                loss = loss + weight * term
        return StepOutput(loss=loss, metrics=metrics)

    def _kept(self, draw: Draw, index: int) -> tuple[list[int], list[str]]:
        return self._preserve.pick(draw, index) if self._preserve.has_any else ([], [])

    def _anchors_of(self, draw: Draw, index: int) -> tuple[list[int], list[PromptEmbeds]]:
        parts = self._parts
        rows, anchors = [], []
        for local, key in self._anchors.pick(draw, index):
            target = parts.embeds[parts.concepts[draw.concepts[local]].target]
            rows.append(local)
            anchors.append(random_anchor(target, parts.seed, *key))
        return rows, anchors

    @torch.no_grad()
    def _teacher(self, draw: Draw, index: int) -> dict[str, Tensor]:
        """Return the base's predictions by role, each prompt of a row asked for once.

        Those of preserve prompts and anchors are zero in rows that have none.
        """
        parts = self._parts
        asked: dict[tuple[int, str | None], int] = {}
        places: dict[str, list[int]] = {}
        for row, number in enumerate(draw.concepts):
            concept = parts.concepts[number]
            roles = dict(self._lesson.roles(concept))
            if self._trajectories.moves:  # what moves the latents on is asked for anyway
                roles |= {_TARGET: concept.target, _EMPTY: None}
            for role, prompt in roles.items():
                place = asked.setdefault((row, prompt), len(asked))
                places.setdefault(role, []).append(place)
        embeds = [parts.empty if prompt is None else parts.embeds[prompt] for _, prompt in asked]
        rows = [row for row, _ in asked]
        extra: dict[str, tuple[list[int], list[PromptEmbeds]]] = {}
        if draw.samples or self._preserve_weight:  # kept samples are asked about once for all
            kept_rows, prompts = self._kept(draw, index)
            extra[_PRESERVE] = kept_rows, [parts.embeds[prompt] for prompt in prompts]
        extra[_ANCHOR] = self._anchors_of(draw, index)
        for more_rows, more in extra.values():
            rows, embeds = rows + more_rows, embeds + more
        with parts.scale.base():
            predicted = parts.container.predict(
                draw.inputs[rows],
                draw.timesteps[rows],
                PromptEmbeds.cat(embeds),
            ).float()
        parts.counter.rows += len(rows)
        teacher = {role: predicted[at] for role, at in places.items()}
        start = len(asked)
        for name, (more_rows, _) in extra.items():
            teacher[name] = torch.zeros_like(teacher[next(iter(places))])
            teacher[name][more_rows] = predicted[start : start + len(more_rows)]
            start += len(more_rows)
        return teacher

    def _guided(self, teacher: Mapping[str, Tensor]) -> Tensor:
        """Return the guided prediction that advances the drawn latents."""
        empty = teacher[_EMPTY]
        guided: Tensor = empty + self._options.rollout_guidance * (teacher[_TARGET] - empty)
        return guided
