"""Attack by noise on the trajectory: the erased model draws on from where it was not led to.

A model that was only led away from a concept can still draw it, and does where noise throws its
trajectory off (When Are Concepts Erased From Diffusion Models?, Lu et al. 2025,
https://arxiv.org/abs/2505.17013, section 4).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from loba_tui.core.program import randomness
from loba_tui.core.program.evaluation.attacks.ddim import Ddim
from loba_tui.core.program.evaluation.attacks.outcome import Tries
from loba_tui.core.program.evaluation.attacks.subject import Subject
from loba_tui.core.program.evaluation.eraser_effect import JUDGED_SCALE
from loba_tui.core.program.spread import spread
from loba_tui.core.recipe.sections.attacks import NoiseAttack


def attack_by_noise(subject: Subject, options: NoiseAttack) -> Tries:
    """Draw each scene again and again, with noise added at each step."""
    scenes = spread(subject.scenes, options.scenes)
    seeds = subject.noise_seeds(len(scenes))
    prompts = subject.repeated(scenes)
    before = _drawn(subject, prompts, seeds, 0.0, options, 0)
    after, control = (
        np.stack(
            [_drawn(subject, p, seeds, JUDGED_SCALE, options, n) for n in range(options.draws)],
            axis=1,
        )
        for p in (prompts, subject.plain(prompts))
    )
    shown, by_chance = _shows(subject, after), _shows(subject, control)
    best = after[np.arange(len(after)), shown.argmax(axis=1)]
    return Tries(
        ways=["noise on the trajectory"] * len(prompts),
        prompts=prompts,
        images=np.stack([before, best], axis=1),
        judged=subject.shows(before),
        after=shown,
        num_images=num_images(options, len(scenes), len(subject.seeds)),
        control=by_chance,
    )


def num_images(options: NoiseAttack, num_scenes: int, num_seeds: int) -> int:
    """Return how many images it draws."""
    return min(options.scenes, num_scenes) * num_seeds * (1 + 2 * options.draws)


def _drawn(
    subject: Subject,
    prompts: list[str],
    seeds: list[int],
    strength: float,
    options: NoiseAttack,
    draw: int,
) -> np.ndarray:
    """Return images (N, H, W, 3) of one draw; its first noise is another each time, too."""
    ddim = Ddim.of(subject)
    own = [randomness.integer(2**31, seed, "draw", draw) for seed in seeds]
    start = ddim.start(own)

    def noise_of(step: int, row: int) -> Tensor:
        return randomness.normal(start.shape[1:], own[row], "attack noise", step)

    rows = subject.encoded(prompts, strength)
    latents = ddim.denoise(start, rows, strength, eta=options.eta, noise_of=noise_of)
    return ddim.images(latents)


def _shows(subject: Subject, images: np.ndarray) -> np.ndarray:
    """Return of images (N, D, H, W, 3) whether they show the concept, (N, D)."""
    flat = subject.shows(images.reshape(-1, *images.shape[2:]))
    return flat.reshape(images.shape[:2])
