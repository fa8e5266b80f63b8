"""Attack by embedding: a search for what the erased model calls the concept now.

A vector is moved by gradient until the erased model's predictions with it are those that the base
model makes for the concept (Circumventing Concept Erasure Methods, Pham et al. 2023,
https://arxiv.org/abs/2308.01508; UnlearnDiffAtk, Zhang et al. 2023,
https://arxiv.org/abs/2310.11868), on noisy latents x_t of the base model's own rollouts:

    min over v   Σ |ε₁(x_t, h(v)) − ε₀(x_t, c)|² / Σ |ε₀(x_t, c) − ε₀(x_t, c₀)|²

c names the concept and c₀ does not. 0 brings it back fully; 1 is no nearer than not to name it.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program import randomness
from loba_tui.core.program.evaluation.attacks.outcome import Tries
from loba_tui.core.program.evaluation.attacks.places import Place, StatesPlace, TokenPlace
from loba_tui.core.program.evaluation.attacks.subject import Subject
from loba_tui.core.program.evaluation.eraser_effect import JUDGED_SCALE
from loba_tui.core.program.spread import spread
from loba_tui.core.program.trajectories.held_out import HeldOut, roll_out
from loba_tui.core.program.trajectories.noise_schedulers import noiseless_sampler
from loba_tui.core.recipe.sections.attacks import EmbeddingAttack

ROLLOUT_STEPS, KEPT = 8, (1, 3, 5, 6)
"""Steps of a rollout, and those whose latents are kept; none is made past the last one."""


def attack_by_embedding(subject: Subject, options: EmbeddingAttack) -> Tries:
    """Search from each start, and draw with what came nearest.

    A token is searched for in other scenes than it is tried in. States belong to one prompt and are
    searched for with its own, on latents of other noise.
    """
    searched, drawn = scenes_apart(subject.scenes, options)
    matched = Matched.of(subject, searched)
    is_token = options.space == "token"
    place: Place = TokenPlace(subject) if is_token else StatesPlace(subject, searched)
    prompts, seeds = subject.repeated(drawn), subject.noise_seeds(len(drawn))
    with closing(place):
        found = [_search(subject, options, matched, place, n) for n in range(options.starts)]
        best = min(found, key=lambda each: each.mismatch)
        with torch.no_grad():
            rows = place.rows(best.vectors, prompts)
    before = subject.draw(subject.encoded(prompts, 0.0), 0.0, seeds)
    after = subject.draw(rows, JUDGED_SCALE, seeds)
    unnamed = subject.encoded(subject.plain(prompts))
    by_chance = subject.shows(subject.draw(unnamed, JUDGED_SCALE, seeds))
    return Tries(
        ways=[f"a searched {'embedding' if is_token else 'state'}"] * len(prompts),
        prompts=prompts,
        images=np.stack([before, after], axis=1),
        judged=subject.shows(before) & ~by_chance,
        after=subject.shows(after)[:, None],
        num_images=3 * len(prompts),
        searched={"mismatch": best.mismatch, "mismatch_of_word": found[0].mismatch_before},
    )


def scenes_apart(scenes: tuple[str, ...], options: EmbeddingAttack) -> tuple[list[str], list[str]]:
    """Return the scenes that are searched in, and those that are drawn."""
    if options.space == "states" or len(scenes) == 1:
        drawn = spread(scenes, options.scenes)
        return drawn, drawn
    return spread(scenes[1::2], options.scenes), spread(scenes[::2], options.scenes)


def num_searched(options: EmbeddingAttack, scenes: tuple[str, ...]) -> int:
    """Return the noisy latents that a search is made on."""
    return len(KEPT) * len(scenes_apart(scenes, options)[0])


def num_rows(
    options: EmbeddingAttack, scenes: tuple[str, ...], num_seeds: int, *, rows_of_image: int
) -> int:
    """Return the UNet rows that it asks for; a backward pass counts as a row."""
    searched, drawn = scenes_apart(scenes, options)
    kept = num_searched(options, scenes)
    rollout = 2 * max(KEPT) * len(searched)
    search = options.starts * (2 * options.steps * min(options.batch_size, kept) + 2 * kept)
    return rollout + 2 * kept + search + 3 * len(drawn) * num_seeds * rows_of_image


@dataclass(frozen=True)
class Matched:
    """The base model's predictions for the concept, to be met by the erased one.

    Attributes:
        prompts: The scenes; `held_out.rows` says whose each row is.
        wanted: ε₀(x_t, c), (R, C, H, W).
        size: Σ |ε₀(x_t, c) − ε₀(x_t, c₀)|² over all rows, as a mean over rows.
    """

    prompts: list[str]
    held_out: HeldOut
    wanted: Tensor
    size: float

    @classmethod
    @torch.no_grad()
    def of(cls, subject: Subject, prompts: list[str]) -> Matched:
        """Roll the scenes out with the base model, with noise that nothing is drawn with."""
        config = subject.container.scheduler_config
        make = SHIPPED.load("noise", noiseless_sampler(config))
        named = subject.encoded(prompts, 0.0)
        held_out = roll_out(
            subject.container,
            subject.scale,
            named,
            make_scheduler=lambda: make(config),
            seed=randomness.integer(2**31, subject.seeds[0], "attack search"),
            num_steps=ROLLOUT_STEPS,
            keep=KEPT,
            resolution=subject.recipe.train.resolution,
        )
        plain = subject.encoded(subject.plain(prompts), 0.0)
        with subject.scale.base():
            wanted, other = (
                held_out.predict(subject.container, rows.select(held_out.rows))
                for rows in (named, plain)
            )
        size = float((wanted - other).square().sum(dim=1).mean())
        like = held_out.inputs
        return cls(prompts, held_out, wanted.reshape(like.shape).to(like), max(size, 1e-12))

    def mismatch(self, subject: Subject, rows: list[int], embeds: PromptEmbeds) -> Tensor:
        """Return the mean over rows of what is minimised."""
        held_out = self.held_out
        with subject.scale(JUDGED_SCALE):
            predicted = subject.container.predict(
                held_out.inputs[rows], held_out.timesteps[rows], embeds
            )
        error = (predicted.float() - self.wanted[rows].float()).square()
        return error.flatten(1).sum(dim=1).mean() / self.size


class Found(NamedTuple):
    """The vectors that a search has come to, and its mismatch at the end and before."""

    vectors: list[Tensor]
    mismatch: float
    mismatch_before: float


def _search(
    subject: Subject, options: EmbeddingAttack, matched: Matched, place: Place, start: int
) -> Found:
    """Search from one start.

    Adam with a rate in units of the vectors' own size, which differs from encoder to encoder.
    """
    seed = subject.seeds[0]
    vectors = place.start(randomness.generator(seed, "attack search", start), start)
    sizes = [float(vector.square().mean().sqrt()) for vector in vectors]
    moves = [torch.zeros_like(vector).requires_grad_() for vector in vectors]
    optimizer = torch.optim.Adam(moves, lr=options.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    owners = matched.held_out.rows
    num_rows = min(options.batch_size, len(owners))

    def vectors_now() -> list[Tensor]:
        return [v + size * m for v, size, m in zip(vectors, sizes, moves, strict=True)]

    def mismatch_of_all() -> float:
        with torch.no_grad():
            embeds = place.rows(vectors_now(), matched.prompts)
            batches = torch.arange(len(owners)).split(num_rows)
            found = [
                len(batch)
                * float(
                    matched.mismatch(
                        subject, batch.tolist(), embeds.select([owners[n] for n in batch.tolist()])
                    )
                )
                for batch in batches
            ]
        return sum(found) / len(owners)

    before = mismatch_of_all()
    for step in range(options.steps):
        generator = randomness.generator(seed, "attack search", start, step)
        rows = torch.randperm(len(owners), generator=generator)[:num_rows].tolist()
        used = list(dict.fromkeys(owners[row] for row in rows))
        with torch.enable_grad():
            embeds = place.rows(vectors_now(), [matched.prompts[n] for n in used])
            chosen = embeds.select([used.index(owners[row]) for row in rows])
            loss = matched.mismatch(subject, rows, chosen)
            for move, grad in zip(moves, torch.autograd.grad(loss, moves), strict=True):
                move.grad = grad
        optimizer.step()
        schedule.step()
    return Found([vector.detach() for vector in vectors_now()], mismatch_of_all(), before)
