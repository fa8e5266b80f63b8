"""A straight fall of the learning rate, after an optional warm-up.

The schedule of BERT (Devlin et al. 2018, https://arxiv.org/abs/1810.04805).
"""

from __future__ import annotations

from typing import Any

from loba_tui.core.program.training.warm_up import Factor, WarmUpAndFall, over_progress


def get_scheduler(optimizer: Any, num_steps: int, *, options: WarmUpAndFall) -> Factor:
    """Return the learning-rate factor by step: linear warm-up, then a line to `final_factor`."""
    fall = 1 - options.final_factor
    return over_progress(num_steps, options.warmup_steps, lambda progress: 1 - fall * progress)
