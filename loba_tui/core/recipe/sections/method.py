"""The method of a recipe: which drop-in it is, and the concepts that it works on."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from loba_tui.core.recipe.sections.data import NonEmptyStr, Section


class Choice(BaseModel):
    """How a section picks a drop-in file: its `name`, and the options of its factory."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: NonEmptyStr

    @property
    def options(self) -> dict[str, Any]:
        """The options that the recipe gives for the drop-in, by keyword."""
        return dict(self.model_extra or {})


class Preserved(Choice):
    """A drop-in of `measures/` whose value must not change."""

    within: PositiveFloat | None = Field(
        None,
        description="how far a number may be from its value at scale 0; null: as the measure says,"
        " or a tenth of that value",
    )


class Concept(Section):
    """One thing to move, erase or keep, in prompts.

    `vary` multiplies a concept: each `{placeholder}` of the prompts takes every listed value, so
    one templated concept stands for all combinations.
    """

    target: str
    positive: str | None = None
    negative: str | None = None
    neutral: str | None = Field(None, description="null means the target prompt")
    guidance: PositiveFloat = Field(1.0, description="strength g of the wanted direction")
    preserve: tuple[str, ...] = ()
    vary: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default_factory=dict)

    def expand(self) -> list[Concept]:
        """Return one concept without placeholders for every combination of `vary`."""
        expanded = []
        for values in self._combinations():
            prompts = {
                field: prompt.format(**values)
                for field in ("target", "positive", "negative", "neutral")
                if (prompt := getattr(self, field)) is not None
            }
            preserve = tuple(dict.fromkeys(p.format(**values) for p in self.preserve))
            expanded.append(self.model_copy(update={**prompts, "preserve": preserve, "vary": {}}))
        return expanded

    def filled(self, prompt: str) -> list[str]:
        """Return a prompt with its placeholders filled in by every combination of `vary`."""
        return list(dict.fromkeys(prompt.format(**values) for values in self._combinations()))

    @property
    def label(self) -> str:
        """The target without its placeholders, where that leaves any of it."""
        return label_of(self.target) or self.expand()[0].target

    def _combinations(self) -> Iterator[dict[str, str]]:
        for combination in itertools.product(*self.vary.values()):
            yield dict(zip(self.vary, combination, strict=True))


def label_of(prompt: str) -> str:
    """Return a prompt without its placeholders, by which all that it stands for is told."""
    return " ".join(re.sub(r"\{\w+\}", " ", prompt).split())


class MethodSection(Choice):
    """Method of training: a drop-in of `methods/` and the concepts it works on."""

    concepts: tuple[Concept, ...] = ()
    preserve: tuple[str, ...] = Field(
        (), description="prompts that every concept preserves, with its placeholders"
    )
    watch: tuple[str, ...] = Field(
        (), description="prompts that nothing holds, of which is told what the edit does to them"
    )

    @cached_property
    def expanded_concepts(self) -> tuple[Concept, ...]:
        """All concepts with their placeholders filled in, in recipe order."""
        return tuple(concept for _, concept in self._expanded)

    @cached_property
    def expanded_from(self) -> tuple[int, ...]:
        """Which of `concepts` each of the expanded ones is from."""
        return tuple(index for index, _ in self._expanded)

    @cached_property
    def preserved_prompts(self) -> dict[str, tuple[str, ...]]:
        """All prompts that are preserved, by what they are called."""
        own = [(each, prompt) for each in self.concepts for prompt in each.preserve]
        return _by_label([*own, *itertools.product(self.concepts, self.preserve)])

    @cached_property
    def watched_prompts(self) -> dict[str, tuple[str, ...]]:
        """All prompts that are watched, by what they are called."""
        return _by_label(list(itertools.product(self.concepts, self.watch)))

    @cached_property
    def _expanded(self) -> list[tuple[int, Concept]]:
        return [
            (index, concept)
            for index, template in enumerate(self.concepts)
            for concept in template.model_copy(
                update={"preserve": (*template.preserve, *self.preserve)}
            ).expand()
        ]


def _by_label(templates: Sequence[tuple[Concept, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for concept, prompt in templates:
        found.setdefault(label_of(prompt) or prompt, {}).update(
            dict.fromkeys(concept.filled(prompt))
        )
    return {label: tuple(prompts) for label, prompts in found.items()}
