"""ai-toolkit's `timestep_type` of flow-matching models."""

from __future__ import annotations

from loba_tui.client.recipes.imports import families, flow
from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.families import FlowFamily
from loba_tui.client.recipes.imports.settings import Settings

_SHIFTS = ("shift", "flux_shift", "lumina2_shift")
_STATIC_SHIFT = 3.0
"""Of schedulers that do not go by the size of pictures, which Z-Image's and SD 3's do not."""


def put_flow_timesteps(
    train: Settings, draft: Draft, family: FlowFamily, *, is_slider: bool
) -> None:
    """Put how timesteps are drawn: by the type, from a grid that is drawn from evenly."""
    side = train.text("content_or_style")
    kind, origin = train.text("timestep_type"), train.origin("timestep_type")
    for key in ("linear_timesteps", "linear_timesteps2"):
        if train.flag(key):
            kind, origin = "linear", train.origin(key)
            draft.left(*origin, flow.WEIGHTED)
    if side in ("content", "style"):
        end = "noise, where content is" if side == "content" else "the image, where style is"
        reason = f"scheduler.timestep: linear leans towards {end}, by your slope"
        draft.left(*train.origin("content_or_style"), reason)
    if kind == "sigmoid" or (kind is None and not is_slider):
        note = "their sigmoid" if kind else "not given: sigmoid, which is logit_normal here"
        flow.put_density(draft, "logit_normal", {}, origin, note)
    elif kind in ("linear", "weighted"):
        flow.put_density(draft, "uniform", {}, origin, f"their {kind}")
        if kind == "weighted":
            draft.left(*origin, flow.WEIGHTED)
    elif kind in _SHIFTS:
        is_static = family in (families.Z_IMAGE, families.SD_3)
        shift = _STATIC_SHIFT if is_static else flow.shift_of_size(draft, family.shifts)
        flow.put_density(draft, "uniform", {"shift": shift}, origin)
    elif kind is not None:
        draft.left(*origin, "scheduler.timestep has densities of its own: loba plugins ls")
    if not is_slider:
        _put_range(train, draft)
    flow.tell_of_guidance(train, draft, "guidance_embedding_scale")
    train.leave(["bypass_guidance_embedding", "do_guidance_loss"], flow.GUIDANCE)


def _put_range(train: Settings, draft: Draft) -> None:
    """Put which timesteps are trained: of a flow, theirs are counted from noise to image."""
    options = {key for key in draft.values if key.startswith("scheduler.timestep.")}
    is_even = options <= {"scheduler.timestep.name"} and (
        draft.values.get("scheduler.timestep.name", "uniform") == "uniform"
    )
    for key, option, usual in (
        ("min_denoising_steps", "high", 0),
        ("max_denoising_steps", "low", 1000),
    ):
        step, origin = train.whole(key), train.origin(key)
        if step is None or step in (usual, 999):
            continue
        if is_even:
            note = f"{step} of 1000, counted from noise there"
            draft.put(f"scheduler.timestep.{option}", round(1 - step / 1000, 3), origin, note)
        else:
            draft.left(*origin, "scheduler.timestep: uniform alone has a range, where unshifted")
