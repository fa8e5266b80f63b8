"""Methods that teach the adapter a concept: in one prompt it learns what the base says of others.

    L = MSE(ε_m(x_t, student prompt), sg[y]) + Σ p · MSE(ε_m(x_t, r), sg ε₀(x_t, r))

An objective says which prompts the frozen base is asked for (its roles), how the target y is made
of what it answers, and which strengths m of the adapter are trained; everything else is here. x_t
are of the concept's own sampling trajectories, and r is what is to be held: a preserve prompt or an
anchor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loba_tui.core.associate.device_copies import numbers, rows_of, sent
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.program.method import MethodParts, StepOutput
from loba_tui.core.program.objectives.preserve import Held, PreservedPrompts, PreserveOptions
from loba_tui.core.program.trajectories.base import Draw
from loba_tui.core.program.trajectories.options import TrajectoryOptions
from loba_tui.core.program.trajectories.predictions import guided
from loba_tui.core.recipe.sections.method import Concept

Roles = Mapping[str, str | None]
"""The prompts that the base is asked for, by role; None is the unconditional prompt."""

_TARGET, _NEUTRAL, _EMPTY = "target", "neutral", "empty"


@dataclass(frozen=True, kw_only=True)
class ConceptOptions(TrajectoryOptions, PreserveOptions):
    """Options that every method of this kind has."""


@dataclass(frozen=True)
class ConceptObjective:
    """Loss against what the base model predicts for a concept's prompts.

    Attributes:
        name: Of its figure, `<name>_loss`.
        roles: Returns the prompts that the base is asked for about a concept.
        student: Returns the prompt whose prediction is trained.
        target: Returns y (B, C, H, W) from the base's answers by role and m·g (B, 1, 1, 1), g being
            the concept's guidance.
        strengths: m; the rows of the global batch take them in turn.
        order: Roles in the order in which the base is asked for all rows. Empty asks row by row,
            and for a prompt that several roles of a row share once. How rows are batched decides
            the last bits of what the base says.
    """

    name: str
    roles: Callable[[Concept], Roles]
    student: Callable[[Concept], str]
    target: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    strengths: Sequence[float] = (1.0,)
    order: Sequence[str] = ()


class ConceptMethod:
    """Trains a `ConceptObjective`."""

    def __init__(
        self,
        parts: MethodParts,
        objective: ConceptObjective,
        options: ConceptOptions,
        *,
        also_held: Sequence[Held] = (),
        rollout_scale: float = 0.0,
    ) -> None:
        """Join an objective with its trajectories.

        Args:
            parts: What the method works with.
            objective: What it teaches.
            options: From the recipe.
            also_held: What is held besides the preserve prompts.
            rollout_scale: Strength of the adapter during rollouts.
        """
        self._parts = parts
        self._objective = objective
        self._preserve = PreservedPrompts(parts, options)
        self._held: list[Held] = [self._preserve, *also_held]
        self._plan = parts.rollout_plan(options, adapter_scale=rollout_scale)
        self._trajectories = options.over(self._plan)
        # What moves the latents on is then asked of the base in the same call as the rest.
        self._base_moves_latents = self._trajectories.moves and rollout_scale == 0

    def change_preserve_weight(self, weight: float) -> None:
        """Take another weight of the preserve term."""
        self._preserve.change_weight(weight)

    def forget_bad(self) -> None:
        """Drop latents that are not finite."""
        self._trajectories.forget_bad()

    def state(self) -> dict[str, Tensor]:
        """Return the state of the trajectories."""
        return self._trajectories.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the state of the trajectories back."""
        self._trajectories.load_state(state)

    def step(self, index: int, progress: float) -> StepOutput:
        """Return the objective's loss plus the weighted terms of what is held."""
        parts, objective = self._parts, self._objective
        draw = self._trajectories.draw(index, progress)
        teacher = self._trajectories.teachers(draw, lambda rows: self._teacher(rows, index))
        if self._trajectories.moves:
            self._trajectories.advance(draw, index, self._guided(draw, teacher))

        concepts = self._concepts_of(draw)
        strengths = [objective.strengths[row % len(objective.strengths)] for row in draw.rows]
        held = [(term, *term.pick(draw, index)) for term in self._held if term.weight]
        num_rows = len(concepts)
        rows = [*range(num_rows), *(row for _, at, _ in held for row in at)]
        prompts = parts.select([objective.student(concept) for concept in concepts])
        predicted, *predicted_held = parts.predict_student(
            torch.tensor([strengths[row] for row in rows]),
            rows_of(draw.inputs, rows),
            rows_of(draw.timesteps, rows),
            PromptEmbeds.cat([prompts, *(each for *_, embeds in held for each in embeds)]),
        ).split([num_rows, *(len(at) for _, at, _ in held)])

        guidance = [m * concept.guidance for m, concept in zip(strengths, concepts, strict=True)]
        target = objective.target(teacher, numbers(guidance, predicted).view(-1, 1, 1, 1))
        t = parts.normalised(draw.timesteps)
        losses = parts.loss(predicted, target, t).mean(dim=(1, 2, 3))
        loss = (losses * draw.weights).mean()
        metrics = {f"{objective.name}_loss": loss.detach()}
        for (term, at, _), ours in zip(held, predicted_held, strict=True):
            # Without rows this is zero, so that every process reports the same figures.
            theirs = rows_of(teacher[term.name], at)
            losses = parts.loss(ours, theirs, rows_of(t, at)).mean(dim=(1, 2, 3))
            # Divided by the expected count, not by this process's: so that processes add up to
            # what one process with the whole batch computes.
            term_loss = (losses * rows_of(draw.weights, at)).sum() / (term.share * num_rows)
            metrics[f"{term.name}_loss"] = term_loss.detach()
            loss = loss + term.weight * term_loss
        return StepOutput(loss=loss, metrics=metrics)

    def _concepts_of(self, draw: Draw) -> list[Concept]:
        return [self._parts.concepts[number] for number in draw.concepts]

    def _teacher(self, draw: Draw, index: int) -> dict[str, Tensor]:
        """Return the base's predictions by role, all from one batched call.

        Those of what is held are zero in rows that have none.
        """
        held = [term for term in self._held if self._is_asked(term, draw)]
        questions = self._questions(draw)
        names = dict.fromkeys([*(q.role for q in questions), *(term.name for term in held)])
        for term in held:
            picked = zip(*term.pick(draw, index), strict=True)
            questions += [_Question(term.name, row, embeds, term) for row, embeds in picked]
        order = self._objective.order
        if order:
            questions.sort(key=lambda question: order.index(question.role))
        asked = {(question.row, question.shared): question for question in questions}
        rows = [row for row, _ in asked]
        predicted = self._parts.predict_base(
            rows_of(draw.inputs, rows),
            rows_of(draw.timesteps, rows),
            PromptEmbeds.cat([question.embeds for question in asked.values()]),
        )
        places = {key: place for place, key in enumerate(asked)}
        teacher = {name: torch.zeros_like(predicted[: len(draw.rows)]) for name in names}
        for name, answers in teacher.items():
            own = [question for question in questions if question.role == name]
            at = [places[question.row, question.shared] for question in own]
            own_rows = sent(torch.tensor([q.row for q in own], dtype=torch.int64), answers.device)
            answers.index_copy_(0, own_rows, rows_of(predicted, at))
        return teacher

    def _questions(self, draw: Draw) -> list[_Question]:
        """Return what the base is asked of the concepts, row by row."""
        parts, objective = self._parts, self._objective
        concepts = self._concepts_of(draw)
        questions = []
        for row, concept in enumerate(concepts):
            roles = dict(objective.roles(concept))
            if self._base_moves_latents:
                # Where no concept names a neutral prompt, it is the target, which is asked anyway.
                if any(each.neutral is not None for each in concepts):
                    roles[_TARGET] = concept.target
                roles[_EMPTY] = None
            for role, prompt in roles.items():
                embeds = parts.empty if prompt is None else parts.embeds[prompt]
                shared = role if objective.order else (prompt,)
                questions.append(_Question(role, row, embeds, shared))
        return questions

    def _is_asked(self, term: Held, draw: Draw) -> bool:
        """Say whether the base is asked for a term; for samples that are kept, once for all.

        Their preserve weight can be raised from zero later.
        """
        is_kept = bool(draw.samples) and term is self._preserve and self._preserve.has_any
        return term.weight > 0 or is_kept

    def _guided(self, draw: Draw, teacher: Mapping[str, Tensor]) -> Tensor:
        """Return the guided prediction that advances the drawn latents."""
        if self._base_moves_latents:
            conditional = teacher[_TARGET if _TARGET in teacher else _NEUTRAL]
            return guided(teacher[_EMPTY], conditional, self._plan.guidance_scale)
        prompts = self._parts.select([concept.target for concept in self._concepts_of(draw)])
        return self._plan.guided(draw.inputs, draw.timesteps, prompts)


@dataclass(frozen=True)
class _Question:
    """A prompt that the base is asked for in one row.

    Attributes:
        shared: Questions of a row in which this is the same share one answer.
    """

    role: str
    row: int
    embeds: PromptEmbeds
    shared: object
