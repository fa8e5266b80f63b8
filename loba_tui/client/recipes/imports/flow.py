"""How tools draw timesteps of flow-matching models, in the terms of `scheduler.timestep`.

Timesteps are shifted by t' = s·t / (1 + (s − 1)·t) everywhere (Esser et al. 2024, equation 23,
https://arxiv.org/abs/2403.03206), and those of larger pictures more: the logarithm of s is on a
line through two points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from loba_tui.client.recipes.imports.common import Origin
from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.settings import Settings, as_number
from loba_tui.core.recipe.schema import TrainSection

_TOKEN = 16
"""Pixels a side of what one token is, in all families."""
_MOST_LOGARITHM = 50.0
"""Keeps a size that no picture has from overflowing."""
Points = tuple[tuple[int, float], tuple[int, float]]


def put_density(
    draft: Draft,
    name: str,
    options: Mapping[str, float | None],
    origin: Origin | None,
    note: str = "",
) -> None:
    """Put how timesteps are drawn, with the options that say something."""
    draft.put("scheduler.timestep.name", name, origin, note)
    for key, value in options.items():
        if value is not None and value != _USUAL.get(key):
            draft.put(f"scheduler.timestep.{key}", value, origin)


_USUAL = {"mean": 0.0, "std": 1.0, "shift": 1.0}
"""Options that a recipe need not say."""


def shift_of_size(draft: Draft, points: Points) -> float:
    """Return the shift for pictures of the recipe's resolution, and say how it was worked out.

    Args:
        points: Two numbers of tokens, and the logarithm of the shift at each.
    """
    resolution: int = draft.values.get("train.resolution") or TrainSection().resolution or 1024
    tokens = (resolution // _TOKEN) ** 2
    (few, low), (many, high) = points
    logarithm = low + (high - low) * (tokens - few) / (many - few)
    shift = round(math.exp(min(logarithm, _MOST_LOGARITHM)), 3)
    draft.note(
        "scheduler.timestep.name",
        f"a shift of {shift:g} for {resolution} pixels; theirs goes by the size of each picture",
    )
    return shift


def put_scheme(
    settings: Settings, draft: Draft, shift: float, *, downwards: bool, weighs: bool = True
) -> None:
    """Put `weighting_scheme`, as diffusers' scripts and kohya's have it.

    Args:
        downwards: It draws an index into timesteps that go from noise to image.
        weighs: Those that weigh the loss do so.
    """
    scheme, origin = settings.text("weighting_scheme"), settings.origin("weighting_scheme")
    mean, std = settings.number("logit_mean"), settings.number("logit_std")
    scale = settings.number("mode_scale")
    if scheme == "logit_normal":
        mean = -mean if mean and downwards else mean
        note = "theirs counts from noise to image, so their mean is negated" if mean else ""
        options = {"mean": mean, "std": std, "shift": shift}
        put_density(draft, "logit_normal", options, origin, note if downwards else "")
    elif scheme == "mode":
        put_density(draft, "mode", {"scale": scale, "shift": shift}, origin)
    elif scheme == "cosmap" and shift == 1 and weighs:
        note = "theirs weighs the loss by it, which comes to the same in the mean"
        put_density(draft, "cosmap", {}, origin, note)
    else:
        put_density(draft, "uniform", {"shift": shift}, origin)
        if scheme not in (None, "none", "uniform"):
            draft.left(*origin, WEIGHTED if weighs else "it weighs nothing there either")
    reason = f"weighting_scheme is {scheme or 'not given'}"
    settings.leave(["logit_mean", "logit_std", "mode_scale"], reason)


def tell_of_loss_scheme(settings: Settings, draft: Draft) -> None:
    """Tell of `weighting_scheme` where it weighs the loss, and does not draw timesteps."""
    scheme = settings.text("weighting_scheme")
    if scheme in ("cosmap", "sigma_sqrt"):
        draft.left(*settings.origin("weighting_scheme"), WEIGHTED)
    elif scheme is not None:
        reason = "timestep_sampling draws timesteps there, not weighting_scheme"
        draft.left(*settings.origin("weighting_scheme"), reason)
    settings.leave(["logit_mean", "logit_std", "mode_scale"], "timestep_sampling is not sigma")


WEIGHTED = "timesteps have no such weight here; scheduler.timestep says how often each is trained"
GUIDANCE = "a model that is told a guidance scale is told 1 in training here"


def tell_of_guidance(settings: Settings, draft: Draft, *keys: str) -> None:
    """Tell of the guidance scale that a distilled model is given in training."""
    for key in keys:
        value: Any = settings.raw(key)
        if value is not None and as_number(value) != 1:
            draft.left(*settings.origin(key), GUIDANCE)
