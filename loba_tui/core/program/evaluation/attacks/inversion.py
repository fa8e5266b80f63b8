"""Attack by inversion: a picture of the concept is turned into noise and drawn again.

The noise that DDIM turns a picture into leads the erased model back to it, if the model still knows
the concept (When Are Concepts Erased From Diffusion Models?, Lu et al. 2025,
https://arxiv.org/abs/2505.17013, section 4). A little noise brings any picture back, whatever is
known: the control draws on by a prompt that does not name the concept.
"""

from __future__ import annotations

import numpy as np

from loba_tui.core.program.evaluation.attacks.ddim import Ddim
from loba_tui.core.program.evaluation.attacks.outcome import Tries
from loba_tui.core.program.evaluation.attacks.subject import Subject
from loba_tui.core.program.evaluation.eraser_effect import JUDGED_SCALE
from loba_tui.core.program.spread import spread
from loba_tui.core.recipe.sections.attacks import InversionAttack


def attack_by_inversion(subject: Subject, options: InversionAttack) -> Tries:
    """Invert pictures of the base model with the erased one, and draw on by it."""
    scenes = spread(subject.scenes, options.scenes)
    prompts = subject.repeated(scenes)
    plain = subject.plain(prompts)
    ddim = Ddim.of(subject)
    start = ddim.start(subject.noise_seeds(len(scenes)))
    clean = ddim.denoise(start, subject.encoded(prompts, 0.0), 0.0)
    first = first_step(options, len(ddim.timesteps))
    unnamed = subject.encoded(plain)
    noisy = ddim.invert(clean, unnamed, JUDGED_SCALE, first)
    named, by_chance = (
        ddim.images(ddim.denoise(noisy, rows, JUDGED_SCALE, first=first))
        for rows in (subject.encoded(prompts), unnamed)
    )
    before = ddim.images(clean)
    return Tries(
        ways=["inversion"] * len(prompts),
        prompts=prompts,
        images=np.stack([before, named], axis=1),
        judged=subject.shows(before),
        after=subject.shows(named)[:, None],
        num_images=3 * len(prompts),
        control=subject.shows(by_chance)[:, None],
    )


def first_step(options: InversionAttack, num_steps: int) -> int:
    """Return the step that is drawn on from."""
    return num_steps - max(1, round(options.depth * num_steps))


def num_rows(
    options: InversionAttack,
    num_scenes: int,
    num_seeds: int,
    *,
    num_steps: int,
    rows_per_image: int,
) -> int:
    """Return the UNet rows that it asks for."""
    inverted = num_steps - first_step(options, num_steps)
    each = num_steps * rows_per_image + inverted * (1 + 2 * rows_per_image)
    return min(options.scenes, num_scenes) * num_seeds * each
