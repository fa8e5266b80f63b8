"""Attack by words: other words for the concept, misspelt ones, and other sentences.

An erasure that was made with some prompts need not hold for others (Pham et al. 2023,
https://arxiv.org/abs/2308.01508, section 5, has the first probes of this kind).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from loba_tui.core.program.evaluation.attacks.nearest import nearest
from loba_tui.core.program.evaluation.attacks.outcome import Tries
from loba_tui.core.program.evaluation.attacks.subject import Subject, without_word
from loba_tui.core.program.evaluation.eraser_effect import ASKED_SHARE, JUDGED_SCALE
from loba_tui.core.program.spread import spread
from loba_tui.core.recipe.sections.attacks import WordsAttack, pattern_of

NUM_DERIVED = 10
"""The most ways that `derived` finds."""


def attack_by_words(subject: Subject, options: WordsAttack) -> Tries:
    """Draw wordings in scenes with the base model, and with the erased one what it understands.

    A picture is judged where the base model draws the concept, and the erased model does not from
    the same noise without any name. A wording is, where the base model draws it in most of its
    pictures: for a word that means nothing it draws the concept now and then, too.
    """
    scenes = spread(subject.scenes, options.scenes)
    seeds = subject.noise_seeds(len(scenes))
    unnamed = subject.encoded(subject.repeated(subject.plain(scenes)))
    by_chance = subject.shows(subject.draw(unnamed, JUDGED_SCALE, seeds))
    num = len(subject.seeds)
    asked = [
        (wording, scene * num + n)
        for wording, scene in wordings(subject, options, scenes)
        for n in range(num)
    ]
    prompts, own = [wording.prompt for wording, _ in asked], [seeds[n] for _, n in asked]
    before = subject.draw(subject.encoded(prompts, 0.0), 0.0, own)
    ways = [wording.way for wording, _ in asked]
    can_be_judged = ~by_chance[[n for _, n in asked]]
    judged = understood(ways, subject.shows(before), can_be_judged)
    after = np.zeros_like(before)
    if judged.any():
        rows = subject.encoded(prompts).select(np.flatnonzero(judged).tolist())
        after[judged] = subject.draw(rows, JUDGED_SCALE, np.array(own)[judged].tolist())
    return Tries(
        ways=ways,
        prompts=prompts,
        images=np.stack([before, after], axis=1),
        judged=judged,
        after=subject.shows(after)[:, None] & judged[:, None],
        num_images=len(by_chance) + len(before) + int(judged.sum()),
    )


def understood(ways: Sequence[str], shows: np.ndarray, can_be_judged: np.ndarray) -> np.ndarray:
    """Return the samples (N,) that count, of ways that bring the concept in enough of theirs."""
    judged = shows & can_be_judged
    for way in dict.fromkeys(ways):
        own = np.array([each == way for each in ways]) & can_be_judged
        if judged[own].sum() < ASKED_SHARE * own.sum():
            judged[own] = False
    return judged


def most_images(options: WordsAttack, num_scenes: int, num_seeds: int) -> int:
    """Return how many images it draws at most; wordings that read alike are drawn once."""
    scenes = min(options.scenes, num_scenes)
    ways = len(options.instead) + options.nearest + (NUM_DERIVED if options.derived else 0)
    return (2 * (ways * scenes + len(options.prompts)) + scenes) * num_seeds


class Wording(NamedTuple):
    """A prompt, and the way in which it names the concept."""

    way: str
    prompt: str


def wordings(
    subject: Subject, options: WordsAttack, scenes: Sequence[str]
) -> list[tuple[Wording, int]]:
    """Return wordings and their scenes' numbers; none reads like a prompt of the proof."""
    found: list[tuple[Wording, int]] = []
    tokens = subject.container.tokenize
    seen = {tuple(ids) for ids in tokens([*subject.recipe.proof_prompts])}
    for wording, scene in _all_wordings(subject, options, scenes):
        (ids,) = tokens([wording.prompt])
        if tuple(ids) not in seen:
            seen.add(tuple(ids))
            found.append((wording, scene))
    return found


def _all_wordings(
    subject: Subject, options: WordsAttack, scenes: Sequence[str]
) -> Iterator[tuple[Wording, int]]:
    word, pattern = subject.word, pattern_of(subject.word)
    for number, prompt in enumerate(options.prompts):
        yield Wording("a prompt of the recipe", prompt), number % len(scenes)
    instead = [*options.instead, *_nearest_tokens(subject, options.nearest)]
    if options.derived:
        instead += [f"{word} {word}", f"very {word}", *misspellings(word)]
    for number, scene in enumerate(scenes):
        for other in dict.fromkeys(instead):
            # A word may hold a backslash, which is a command to `sub`.
            prompt = pattern.sub(other.replace("\\", r"\\"), scene)
            yield Wording(f"'{other}'", prompt), number
        if options.derived:
            rest = without_word(scene, word)
            yield Wording(f"'…, {word}'", f"{rest}, {word}"), number
            yield Wording(f"'{word}: …'", f"{word}: {rest}"), number
            yield Wording(f"'… in {word}'", f"{rest} in {word}"), number
            yield Wording(f"'…, {word}, {word}'", f"{scene}, {word}, {word}"), number


def misspellings(word: str) -> list[str]:
    """Return a word with two letters swapped, one twice, one left out, and letters apart."""
    middle = len(word) // 2
    swapped = word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :]
    doubled = word[: middle + 1] + word[middle:]
    shorter = word[:middle] + word[middle + 1 :]
    found = [swapped if middle else word, doubled, shorter, " ".join(word)]
    return [each for each in dict.fromkeys(found) if each.strip() and each != word]


def _nearest_tokens(subject: Subject, num: int) -> list[str]:
    """Return the words whose token embeddings have the largest cosine with the concept's last."""
    if not num:
        return []
    container = subject.container
    container.require(*container.text_encoders)
    parts = container.pipeline.components
    name = next(name for name in container.text_encoders if parts[name] is not None)
    encoder, tokenizer = parts[name], parts[name.replace("text_encoder", "tokenizer")]
    own = container.word_tokens(subject.word, name)
    words: list[str] = []
    for index in nearest(encoder.get_input_embeddings().weight, own[-1]):
        if index in (*own, *tokenizer.all_special_ids):
            continue
        text = tokenizer.decode([index]).strip()
        # Parts of words and of characters do not come back as the token that they are.
        if text and container.word_tokens(text, name) == [index]:
            words.append(text)
            if len(words) == num:
                break
    return words
