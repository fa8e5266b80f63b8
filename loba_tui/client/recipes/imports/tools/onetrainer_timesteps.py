"""OneTrainer's `timestep_distribution`, which its numbers bend and its shift moves."""

from __future__ import annotations

from loba_tui.client.recipes.imports import families, flow
from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.settings import Settings

REASONS = {
    "guidance_scale": flow.GUIDANCE,
    "quantization": "models are not quantized here",
    "offload_fraction": "base_model.offload: model keeps the model in main memory",
}
"""Of settings of a transformer that are not carried over."""
_NAMES = {
    "UNIFORM": "uniform",
    "LOGIT_NORMAL": "logit_normal",
    "HEAVY_TAIL": "mode",
    "BETA": "beta",
    "COS_MAP": "cosmap",
    "SIGMOID": "sigmoid",
}


def put_timesteps(settings: Settings, draft: Draft) -> None:
    """Put how timesteps are drawn."""
    kind = settings.text("timestep_distribution") or "UNIFORM"
    origin = settings.origin("timestep_distribution")
    weight = settings.number("noising_weight") or 0.0
    bias = settings.number("noising_bias") or 0.0
    shift = _shift(settings, draft)
    known: dict[str, dict[str, float | None]] = {
        "LOGIT_NORMAL": {"mean": bias, "std": weight + 1},
        "HEAVY_TAIL": {"scale": weight},
        "BETA": {"alpha": max(1e-4, weight), "beta": max(1e-4, bias)},
        "SIGMOID": {"midpoint": bias + 0.5, "steepness": weight},
    }
    options = known.get(kind, {})
    if kind not in _NAMES:
        draft.left(*origin, "scheduler.timestep has densities of its own: loba plugins ls")
    elif kind != "UNIFORM" or shift != 1:
        if kind != "SIGMOID":
            options["shift"] = shift
        elif shift != 1:
            draft.left(*settings.origin("timestep_shift"), "the sigmoid here has no shift")
        flow.put_density(draft, _NAMES[kind], options, origin)
    low, high = settings.number("min_noising_strength"), settings.number("max_noising_strength")
    if kind == "UNIFORM" and (low or high not in (None, 1.0)):
        draft.put("scheduler.timestep.low", low, settings.origin("min_noising_strength"))
        draft.put("scheduler.timestep.high", high, settings.origin("max_noising_strength"))
    elif low or high not in (None, 1.0):
        keys = ("min_noising_strength", "max_noising_strength")
        for key in keys:
            draft.left(*settings.origin(key), "scheduler.timestep: uniform alone has a range")


def _shift(settings: Settings, draft: Draft) -> float:
    given, by_size = settings.number("timestep_shift"), settings.flag("dynamic_timestep_shifting")
    # Theirs has none by the size of pictures for SD 3 and for UNets.
    if by_size and draft.family not in (None, families.SD_3):
        return flow.shift_of_size(draft, draft.family.shifts)
    return 1.0 if given is None else given
