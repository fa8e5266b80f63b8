"""An erased model under attack: how it is asked, how it draws, and what of it is counted."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.plugins import Plugins
from loba_tui.core.program import randomness
from loba_tui.core.program.adapter_files.text_encoders import ScaledEmbeddings
from loba_tui.core.program.adapter_layers.strength import RowScale
from loba_tui.core.program.evaluation.eraser_effect import JUDGED_SCALE
from loba_tui.core.program.evaluation.measure import MeasureContext, read_values
from loba_tui.core.program.open_model import Embeddings
from loba_tui.core.program.sampling.images import sample_rows
from loba_tui.core.program.sampling.recipe_images import negative_at
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.attacks import AttacksSection, pattern_of

FIRST_SEED = 9000
"""Attacks draw with seeds from here on, but those of the proof and of the strips."""


def concept_word(recipe: Recipe) -> str:
    """Return the word by which prompts name the concept."""
    section = recipe.proof.attacks
    return (section and section.word) or recipe.proof.erased or ""


def scenes_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the proof's prompts that name the concept, those that were trained left out.

    All of them are taken where each was trained.
    """
    pattern = pattern_of(concept_word(recipe))
    named = [prompt for prompt in dict.fromkeys(recipe.proof_prompts) if pattern.search(prompt)]
    trained = {concept.target for concept in recipe.method.expanded_concepts}
    return tuple([prompt for prompt in named if prompt not in trained] or named)


def without_word(prompt: str, word: str) -> str:
    """Return a prompt that no longer names the concept: "an orange dog" becomes "a dog"."""
    left_out = re.sub(rf"(?:\ban? )?{pattern_of(word).pattern}\s*", _article, prompt, flags=re.I)
    return " ".join(left_out.split()).strip(" ,")


def _article(found: re.Match[str]) -> str:
    """Return the article for what follows the word that was left out, if there was one."""
    article, space, _ = found[0].partition(" ")
    following = found.string[found.end() : found.end() + 1].lower()
    if article.lower() not in ("a", "an") or not following:
        return ""
    return f"{'an' if following in 'aeiou' else 'a'}{space}"


def attack_seeds(recipe: Recipe) -> tuple[int, ...]:
    """Return the seeds of the attacks' pictures."""
    section = recipe.proof.attacks
    if section is not None and section.seeds is not None:
        return section.seeds
    taken = {*recipe.proof.seeds, *recipe.sample.seeds}
    return (next(seed for seed in itertools.count(FIRST_SEED) if seed not in taken),)


@dataclass
class RowCounter:
    """Counts the rows that a denoiser is asked for, and those that a backward pass follows.

    Args:
        on_rows: Told the rows so far, a backward pass counted as a row.
    """

    denoiser: nn.Module
    on_rows: Callable[[int], None] = lambda rows: None
    forward: int = 0
    backward: int = 0

    @property
    def rows(self) -> int:
        """Rows with a backward counted as two."""
        return self.forward + self.backward

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Count inside a `with` block."""
        handle = self.denoiser.register_forward_pre_hook(self._count, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _count(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        latents = args[0] if args else kwargs["sample"]
        self.forward += len(latents)
        self.backward += len(latents) if torch.is_grad_enabled() else 0
        self.on_rows(self.rows)


@dataclass(frozen=True)
class Subject:
    """The model with an eraser attached, and all that an attack needs of the recipe.

    Attributes:
        embeds: Of the prompts of the recipe; others are encoded when they are asked for.
        rows: Counts what attacks cost.
    """

    container: ModelContainer
    scale: RowScale
    recipe: Recipe
    embeds: Embeddings
    plugins: Plugins
    rows: RowCounter
    _encoded: dict[tuple[str, float], PromptEmbeds] = field(default_factory=dict, repr=False)
    _negative: dict[float, PromptEmbeds] = field(default_factory=dict, repr=False)

    @property
    def section(self) -> AttacksSection:
        """The recipe's attacks."""
        assert self.recipe.proof.attacks is not None, "there is nothing to attack by"
        return self.recipe.proof.attacks

    @property
    def word(self) -> str:
        """The word by which prompts name the concept."""
        return concept_word(self.recipe)

    @property
    def scenes(self) -> tuple[str, ...]:
        """The held-out prompts that name the concept."""
        return scenes_of(self.recipe)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of pictures."""
        return attack_seeds(self.recipe)

    def plain(self, prompts: Sequence[str]) -> list[str]:
        """Return prompts that do not name the concept."""
        return [without_word(prompt, self.word) for prompt in prompts]

    def encoded(self, prompts: Sequence[str], strength: float = JUDGED_SCALE) -> PromptEmbeds:
        """Return one row a prompt, encoded as the model has it at a strength."""
        given = self.embeds
        if not isinstance(given, ScaledEmbeddings):
            strength = 0.0
        missing = [p for p in dict.fromkeys(prompts) if (p, strength) not in self._encoded]
        if missing:
            self.container.require(*self.container.text_encoders)
            if isinstance(given, ScaledEmbeddings):
                rows = given.encode(missing, strength)
            else:
                batch = self.container.encode_prompts(missing)
                rows = [batch[n] for n in range(len(missing))]
            self._encoded.update({(p, strength): r for p, r in zip(missing, rows, strict=True)})
        return PromptEmbeds.cat([self._encoded[prompt, strength] for prompt in prompts])

    def negative(self, strength: float) -> PromptEmbeds:
        """Return the row that guidance leads away from."""
        # Kept, because encoders that are trained would read it at each step of a sampler.
        if strength not in self._negative:
            row = negative_at(self.container, self.recipe, self.embeds, strength)
            self._negative[strength] = row
        return self._negative[strength]

    def noise_seeds(self, num_scenes: int) -> list[int]:
        """Return the seeds of pictures, of each scene in turn: no two start from the same noise."""
        return [
            randomness.integer(2**31, seed, "attack", scene)
            for scene in range(num_scenes)
            for seed in self.seeds
        ]

    def repeated(self, items: Sequence[str]) -> list[str]:
        """Return each item as often as there are seeds, beside `noise_seeds`."""
        return [item for item in items for _ in self.seeds]

    def draw(self, rows: PromptEmbeds, strength: float, seeds: Sequence[int]) -> np.ndarray:
        """Return an image of each row (N, H, W, 3) by the recipe's own sampler."""
        return sample_rows(
            self.container,
            self.scale,
            rows,
            strength=strength,
            seeds=seeds,
            settings=self.recipe.sample,
            negative=self.negative(strength),
            resolution=self.recipe.train.resolution,
            plugins=self.plugins,
        )

    def shows(self, images: np.ndarray) -> np.ndarray:
        """Return of images (N, H, W, 3) whether they show the concept, (N,) of bool."""
        measure = self.recipe.proof.measure
        assert measure is not None, "the recipe's schema asks for one beside erased"
        context = MeasureContext(device=self.container.device)
        labels = read_values(measure, images[:, None], self.plugins, context)[:, 0]
        return np.array([label == self.recipe.proof.erased for label in labels], dtype=bool)
