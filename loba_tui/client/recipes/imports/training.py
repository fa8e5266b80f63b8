"""Steps that importers share for how is trained: optimizer, schedules, noise, loss and length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from loba_tui.client.recipes.imports import names
from loba_tui.client.recipes.imports.common import Origin
from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.settings import Settings, as_number
from loba_tui.core.recipe.schema import TrainSection

NO_SNR = "it weighs by the noise schedule of a diffusion model"
_LOSSES = {
    "l2": "mse",
    "mse": "mse",
    "l1": "l1",
    "mae": "l1",
    "huber": "huber",
    "smooth_l1": "smooth_l1",
}


def put_rate(draft: Draft, settings: Settings, unet_key: str, key: str) -> None:
    """Put the learning rate: the UNet's own where there is one."""
    unet, rate = settings.number(unet_key), settings.number(key)
    if unet:
        note = f"of the UNet; their common rate is {rate:g}" if rate not in (None, unet) else ""
        draft.put("optimizer.lr", unet, settings.origin(unet_key), note)
    else:
        draft.put("optimizer.lr", rate, settings.origin(key))


def put_batch(draft: Draft, settings: Settings, key: str) -> None:
    """Put the batch size, which is 1 for all these tools unless it is given."""
    batch = settings.whole(key)
    note = "" if batch is not None else "not given: 1"
    draft.put("train.batch_size", batch or 1, settings.origin(key), note)


def put_loss(draft: Draft, settings: Settings, key: str) -> None:
    """Put the loss."""
    kind = settings.text(key)
    if kind is not None and kind not in _LOSSES:
        draft.left(*settings.origin(key), "losses are mse, l1, huber and smooth_l1")
    draft.put("loss.name", _LOSSES.get(kind or ""), settings.origin(key))


def put_optimizer(
    draft: Draft, name: str | None, options: Mapping[str, Any], origin: Origin
) -> None:
    """Put the optimizer by its name here, with those of its options that have one."""
    if name is None:
        return
    # torch.optim.AdamW and bitsandbytes.optim.AdamW8bit are meant by their last part.
    known = names.OPTIMIZERS.get(names.folded(name.rsplit(".", 1)[-1]))
    if known is None:
        draft.left(*origin, "no such optimizer here; adamw stands in. loba plugins ls has all")
        return
    draft.put("optimizer.name", known.name, origin, known.note)
    for key, value in {**known.options, **options}.items():
        draft.put(f"optimizer.{key}", value, (f"{origin[0]}: {key}", value))


def optimizer_options(given: Mapping[str, Any], draft: Draft, prefix: str) -> dict[str, Any]:
    """Return an optimizer's options under their names here; what has none is told of."""
    renamed = {
        "d_coef": "step_factor",
        "d0": "first_step",
        "use_bias_correction": "bias_correction",
        "decay_rate": "beta2_decay",
    }
    found: dict[str, Any] = {}
    for key, value in given.items():
        value = _literal(value)
        if key == "betas":
            parts = value if isinstance(value, list) else str(value).strip("()[] ").split(",")
            found |= {f"beta{index}": as_number(part) for index, part in enumerate(parts, 1)}
        elif isinstance(value, dict | list | str) or value is None:
            if value not in (None, "", {}, []):
                draft.left(f"{prefix}{key}", value, "not an option of optimizers here")
        else:
            found[renamed.get(key, key)] = value
    return found


def _literal(value: Any) -> Any:
    """Return what `key=value` arguments mean: a number, a truth value, or the text."""
    if not isinstance(value, str):
        return value
    if value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    number = as_number(value)
    return value if number is None else number


def key_values(words: Any) -> dict[str, str]:
    """Return the `key=value` words of kohya's `network_args` and `optimizer_args`."""
    if isinstance(words, dict):
        return {str(key): str(value) for key, value in words.items()}
    listed = words if isinstance(words, list) else str(words or "").split()
    pairs = (str(word).partition("=") for word in listed)
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def put_schedule(
    draft: Draft, name: str | None, options: Mapping[str, Any], origin: Origin
) -> None:
    """Put the schedule of the learning rate."""
    if name is None:
        return
    known = names.SCHEDULES.get(names.folded(name))
    if known is None:
        draft.left(*origin, "no such schedule here; the rate stays constant")
        return
    draft.put("scheduler.model.name", known.name, origin, known.note)
    for key, value in {**known.options, **options}.items():
        draft.put(f"scheduler.model.{key}", value, (f"{origin[0]}: {key}", value))


def put_warmup(draft: Draft, amount: float | None, origin: Origin) -> None:
    """Put warm-up steps; less than 1 is a share of all steps."""
    if not amount:
        return
    if 0 < amount < 1:
        steps = draft.values.get("train.steps")
        if steps is None:
            draft.left(*origin, "a share of all steps, and their number is not known")
            return
        note = f"{amount:g} of {steps} steps"
        draft.put("scheduler.model.warmup_steps", math.ceil(amount * steps), origin, note)
    else:
        draft.put("scheduler.model.warmup_steps", int(amount), origin)
    if draft.values.get("scheduler.model.name") in (None, "constant"):
        draft.put("scheduler.model.name", "linear_warmup", None, "constant after a warm-up")


def put_noise_scheduler(draft: Draft, name: str | None, origin: Origin, key: str) -> None:
    """Put a noise scheduler: `scheduler.noise` for rollouts, `sample.noise` for pictures."""
    if name is None:
        return
    is_flow = "flow" in name.lower()
    if draft.family is not None:
        if not is_flow and names.folded(name) not in ("euler", "keuler"):
            reason = f"a {draft.family.name} is stepped by flow_match_euler alone"
            draft.left(*origin, reason)
        return
    known = names.NOISE_SCHEDULERS.get(names.folded(name))
    if is_flow:
        put_rectified(draft, origin)
    elif known is None:
        draft.left(*origin, "no such noise scheduler here: loba plugins ls")
    else:
        draft.put(f"{key}.name", known, origin)


def put_rectified(draft: Draft, origin: Origin) -> None:
    """Put that a UNet was trained for flow matching, and the schedulers that step such a one."""
    note = "a UNet that flow matching was trained into; one for diffusion is drawn as noise so"
    draft.put("base_model.prediction_type", "flow", origin, note)
    for section in ("scheduler", "sample"):
        draft.put(f"{section}.noise.name", "flow_match_euler", origin)


def put_noise(settings: Settings, draft: Draft, keys: Mapping[str, str]) -> None:
    """Put changes of noise whose strength is one number, by the tool's key: offset, perturbation.

    Args:
        keys: Their key for each drop-in.
    """
    option = {"offset": "strength", "perturbation": "gamma"}
    for drop_in, key in keys.items():
        strength = settings.number(key)
        if strength:
            origin = settings.origin(key)
            draft.add("noise", {"name": drop_in, option[drop_in]: strength}, origin)


def put_min_snr(draft: Draft, settings: Settings, *keys: str) -> None:
    """Put min-SNR weighting."""
    gamma = settings.number(*keys)
    if gamma and draft.family is not None:
        draft.left(*settings.origin(*keys), NO_SNR)
    elif gamma:
        value = {"name": "min_snr", "gamma": gamma}
        draft.put("loss.weighting", value, settings.origin(*keys))


def put_steps_of_epochs(
    draft: Draft,
    epochs: float,
    samples: int | None,
    origin: Origin,
    *,
    doubled: bool = False,
) -> int | None:
    """Put the steps that epochs come to, where the images could be counted.

    Args:
        samples: Images times repeats; None where the folders are not here to count.
        doubled: Each image has a prior image beside it.

    Returns:
        Steps of an epoch.
    """
    batch = draft.values.get("train.batch_size") or 1
    accumulation = draft.values.get("train.gradient_accumulation") or 1
    if not samples or not isinstance(batch, int) or not isinstance(accumulation, int):
        reason = (
            "the images are not here to count: set train.steps to epochs × images ÷ batch; until"
            f" then it is {TrainSection().steps}"
        )
        draft.left(*origin, reason)
        return None
    if batch < 1 or accumulation < 1:
        return None
    samples *= 2 if doubled else 1
    per_epoch = math.ceil(samples / batch / accumulation)
    note = f"{epochs:g} epochs × {samples} samples ÷ {batch} a batch"
    note += f" ÷ {accumulation} accumulated" if accumulation > 1 else ""
    note += " (with a prior image for each)" if doubled else ""
    draft.put("train.steps", max(1, math.ceil(epochs * per_epoch)), origin, note)
    return per_epoch
