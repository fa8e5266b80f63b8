"""The recipe's `proof.attacks` section: attempts to bring an erased concept back."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, model_validator

from loba_tui.core.recipe.sections.data import NonEmptyStr, Section

Few = Annotated[int, Field(ge=1, le=64)]
Prompts = Annotated[int, Field(ge=1, le=256)]


def pattern_of(word: str) -> re.Pattern[str]:
    """Return what finds a word in a prompt, whatever its case."""
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


class WordsAttack(Section):
    """Asks by other words, spellings and sentences."""

    instead: tuple[NonEmptyStr, ...] = Field(
        (), description="put in place of the word: synonyms, descriptions, other languages"
    )
    prompts: tuple[NonEmptyStr, ...] = Field((), description="whole prompts to be tried besides")
    derived: bool = Field(
        True, description="try misspellings, repeats, other places and sentences of the word"
    )
    nearest: Annotated[int, Field(ge=0, le=64)] = Field(
        4, description="tokens nearest to the word's in the text encoder, to be tried"
    )
    scenes: Prompts = Field(4, description="prompts that each wording is tried in, at most")


class EmbeddingAttack(Section):
    """Searches, by gradient through the erased denoiser, for what the concept is called now."""

    space: Literal["token", "states"] = Field(
        "token",
        description="token: an embedding in the word's place, read by the text encoders;"
        " states: what the denoiser reads, for each prompt",
    )
    steps: Annotated[int, Field(ge=1, le=2000)] = Field(
        40, description="gradient steps of each start"
    )
    batch_size: Prompts = Field(8, description="noisy latents of a step")
    starts: Few = Field(2, description="searches from different starts; the best is taken")
    lr: Annotated[float, Field(gt=0, le=10)] = Field(
        0.1, description="rate of Adam, as a share of an embedding's size"
    )
    scenes: Prompts = Field(8, description="prompts that are drawn with what was found")


class NoiseAttack(Section):
    """Adds noise to the trajectory, again and again."""

    draws: Few = Field(3, description="tries of each prompt; one that shows it is enough")
    eta: Annotated[float, Field(gt=0, le=2)] = Field(
        1.3, description="noise added at each step; 1 is as much as DDPM adds"
    )
    scenes: Prompts = Field(8, description="prompts that are drawn")


class InversionAttack(Section):
    """Turns pictures of the concept into noise by DDIM, and draws on from there."""

    depth: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="how far pictures are turned into noise; 1 is all the way"
    )
    scenes: Prompts = Field(8, description="pictures of the base model, at most")


class AttacksSection(Section):
    """Which attacks an erasure has to withstand; one that is null is left out."""

    word: NonEmptyStr | None = Field(
        None, description="the concept's word in the proof's prompts; null takes proof.erased"
    )
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = Field(
        None, description="of the pictures; null: one that nothing else was drawn with"
    )
    words: WordsAttack | None = None
    embedding: EmbeddingAttack | None = None
    noise: NoiseAttack | None = None
    inversion: InversionAttack | None = None

    @model_validator(mode="after")
    def _attacks_somehow(self) -> AttacksSection:
        if not any((self.words, self.embedding, self.noise, self.inversion)):
            raise ValueError("attacks needs one of words, embedding, noise and inversion")
        return self
