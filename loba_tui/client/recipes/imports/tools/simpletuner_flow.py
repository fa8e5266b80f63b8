"""SimpleTuner's flow-matching models: flavours, layers, and how timesteps are drawn."""

from __future__ import annotations

from typing import Any

from loba_tui.client.recipes.imports import common, families, flow
from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.families import FlowFamily
from loba_tui.client.recipes.imports.settings import Settings
from loba_tui.client.recipes.imports.tools.simpletuner_names import FLAVOURS, LORA_TARGETS

_USUAL_SHIFT = 3.0


def family_of(settings: Settings, family: FlowFamily | None) -> FlowFamily | None:
    """Return the family, where a flavour of it can be trained here.

    Raises:
        RecipeError: The flavour is of another family, such as FLUX.1 Kontext.
    """
    flavour = str(settings.origin("model_flavour")[1] or "")
    if family is not None and flavour:
        families.of_kind(f"{settings.text('model_family')}-{flavour}", "SimpleTuner")
    return family


def model_of(
    settings: Settings, draft: Draft, family: FlowFamily
) -> tuple[str | None, tuple[str, Any]]:
    """Return the model that a flavour stands for, and the key that says it."""
    flavour = (settings.text("model_flavour") or "").lower()
    model = FLAVOURS.get((family.name, flavour))
    if model is None:
        draft.left(*settings.origin("model_flavour"), "no model is known for it: set base_model.id")
    return model, settings.origin("model_flavour", "model_family")


def put_layers(settings: Settings, draft: Draft, family: FlowFamily) -> None:
    """Put the layers of a standard LoRA: attention of the image's side; FLUX.1 can be told."""
    target, origin = settings.text("flux_lora_target"), settings.origin("flux_lora_target")
    if target is None and family is families.FLUX:
        target, origin = "all", ("flux_lora_target", "not given: all")
    layers = LORA_TARGETS.get(target or "", ("self_attention",))
    if target is not None and target not in LORA_TARGETS:
        draft.left(*origin, "layers are chosen by groups: adapter.layers")
    note = "" if target else "theirs trains to_q, to_k, to_v and to_out"
    common.put_flow_layers(draft, family, layers, origin if target else None, note)


def put_flow_timesteps(settings: Settings, draft: Draft, family: FlowFamily) -> None:
    """Put how timesteps are drawn: the sigmoid of normal numbers, unless another way is on."""
    given, origin = settings.number("flow_schedule_shift"), settings.origin("flow_schedule_shift")
    by_size = settings.flag("flow_schedule_auto_shift")
    scale = settings.number("flow_sigmoid_scale")
    shift = _USUAL_SHIFT if given is None else given
    # A shift that is given counts before the size of pictures there.
    if by_size and shift <= 0:
        origin = settings.origin("flow_schedule_auto_shift")
        shift = flow.shift_of_size(draft, family.shifts)
    elif given is None:
        note = f"flow_schedule_shift is not given: {_USUAL_SHIFT:g}"
        draft.note("scheduler.timestep.name", note)
    shift = shift if shift > 0 else 1.0
    if settings.flag("flow_use_uniform_schedule"):
        key = "flow_use_uniform_schedule"
        flow.put_density(draft, "uniform", {"shift": shift}, settings.origin(key))
    elif settings.flag("flow_use_beta_schedule"):
        options: dict[str, float | None] = {
            "alpha": settings.number("flow_beta_schedule_alpha") or 2.0,
            "beta": settings.number("flow_beta_schedule_beta") or 2.0,
            "shift": shift,
        }
        key = "flow_use_beta_schedule"
        flow.put_density(draft, "beta", options, settings.origin(key))
    else:
        note = "their sigmoid of normal numbers"
        options = {"std": scale, "shift": shift}
        flow.put_density(draft, "logit_normal", options, origin, note)
    flow.tell_of_guidance(settings, draft, "flux_guidance_value", "flux_guidance_mode")
