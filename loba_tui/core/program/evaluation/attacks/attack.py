"""Runs a recipe's attacks on an erasure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_layers.strength import RowScale
from loba_tui.core.program.evaluation.attacks import embedding, inversion, noise, words
from loba_tui.core.program.evaluation.attacks.outcome import (
    Attack,
    Attacks,
    Tries,
    examples_of,
    outcome_of,
)
from loba_tui.core.program.evaluation.attacks.subject import (
    RowCounter,
    Subject,
    attack_seeds,
    scenes_of,
)
from loba_tui.core.program.open_model import Embeddings
from loba_tui.core.program.sampling.images import Progress
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.attacks import AttacksSection
from loba_tui.core.recipe.sections.data import Section

_MOST_EXAMPLES = 3
"""Pairs of pictures that are shown of an attack."""

_Run = Callable[[Subject], Tries]


def attack_erasure(
    container: ModelContainer,
    scale: RowScale,
    recipe: Recipe,
    embeds: Embeddings,
    progress: Progress | None = None,
    *,
    plugins: Plugins,
) -> Attacks | None:
    """Try to bring back what the attached adapter has erased; None where no attack is asked for.

    Args:
        embeds: As `prove` takes them; other prompts are encoded, which brings the text encoders.
        progress: Told how many UNet rows are done, of how many at most.
    """
    if recipe.proof.attacks is None:
        return None
    total = most_rows(recipe)
    counter = RowCounter(container.denoiser)
    if progress is not None:
        counter.on_rows = lambda rows: progress(rows, total)
    subject = Subject(container, scale, recipe, embeds, plugins, counter)
    denoiser = container.denoiser
    was_training = denoiser.training
    denoiser.eval()  # an adapter's dropout is for training
    results: list[Attack] = []
    examples: dict[str, np.ndarray] = {}
    try:
        for name, options, run in _chosen(recipe.proof.attacks):
            tries, attack = _attacked(name, options, run, subject)
            results.append(attack)
            examples |= examples_of(attack, tries, _MOST_EXAMPLES)
    finally:
        denoiser.train(was_training)
        container.release_text_encoders()
    return Attacks(tuple(results), examples)


def most_rows(recipe: Recipe) -> int:
    """Return the UNet rows of a recipe's attacks at most; a backward pass counts as a row."""
    section = recipe.proof.attacks
    if section is None or not recipe.proof.enabled:
        return 0
    scenes, num_seeds = scenes_of(recipe), len(attack_seeds(recipe))
    num_scenes = len(scenes)
    settings = recipe.sample
    per_image = settings.steps * settings.rows_per_image
    rows = 0
    if section.words is not None:
        rows += words.most_images(section.words, num_scenes, num_seeds) * per_image
    if section.embedding is not None:
        rows += embedding.num_rows(section.embedding, scenes, num_seeds, rows_of_image=per_image)
    if section.noise is not None:
        rows += noise.num_images(section.noise, num_scenes, num_seeds) * per_image
    if section.inversion is not None:
        rows += inversion.num_rows(
            section.inversion,
            num_scenes,
            num_seeds,
            num_steps=settings.steps,
            rows_per_image=settings.rows_per_image,
        )
    return rows


def backward_rows(recipe: Recipe) -> int:
    """Return how many UNet rows are held at once for a backward pass of an attack."""
    section = recipe.proof.attacks
    if section is None or section.embedding is None:
        return 0
    return min(
        section.embedding.batch_size, embedding.num_searched(section.embedding, scenes_of(recipe))
    )


def _chosen(section: AttacksSection) -> Iterator[tuple[str, Section, _Run]]:
    """Yield the attacks that a recipe asks for, the cheapest to carry out by hand first."""
    if (by_words := section.words) is not None:
        yield "words", by_words, lambda subject: words.attack_by_words(subject, by_words)
    if (by_embedding := section.embedding) is not None:
        yield (
            "embedding",
            by_embedding,
            lambda subject: embedding.attack_by_embedding(subject, by_embedding),
        )
    if (by_noise := section.noise) is not None:
        yield "noise", by_noise, lambda subject: noise.attack_by_noise(subject, by_noise)
    if (by_inversion := section.inversion) is not None:
        yield (
            "inversion",
            by_inversion,
            lambda subject: inversion.attack_by_inversion(subject, by_inversion),
        )


def _attacked(name: str, options: Section, run: _Run, subject: Subject) -> tuple[Tries, Attack]:
    counter = subject.rows
    before = counter.forward, counter.backward
    with counter():
        tries = run(subject)
    attack = outcome_of(
        name,
        tries,
        options=options.model_dump(mode="json"),
        seeds=subject.seeds,
        rows=(counter.forward - before[0], counter.backward - before[1]),
    )
    return tries, attack
