"""Steps that the importers of several tools share: each puts one kind of setting into a draft."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from loba_tui.client.recipes.imports import families, names
from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.families import FlowFamily
from loba_tui.client.recipes.imports.settings import Settings, as_number
from loba_tui.client.recipes.imports.sources import ForeignFile
from loba_tui.core.errors import RecipeError
from loba_tui.core.text import clean

Origin = tuple[str, Any]

NO_TRACKER = "no tracker is used here; a run's figures are in its folder"
NO_UPLOAD = "uploading is a command of its own: loba push"
OUT_DIR = "a run's folder is named when it is started: loba run RECIPE --out-dir DIR"
NO_DROPOUT = "adapters have no dropout here"
MACHINE = "how the program runs is up to the machine here"

_ONE_FILE = (
    "a transformer in one file is not read here: base_model.id takes the diffusers folder or hub id"
    " of a {family}"
)
_FLOW_REASONS = {
    "vae": "a {family} has the VAE of its folder here",
    "prediction_type": "a {family} predicts the flow's velocity",
    "zero_snr": "of diffusion models; a {family} begins at pure noise anyway",
}

_TYPES = {
    **dict.fromkeys(
        (
            "train.steps",
            "train.batch_size",
            "train.gradient_accumulation",
            "train.seed",
            "sample.every",
            "sample.seeds",
            "sample.steps",
            "save.every",
            "method.rollout_steps",
            "adapter.conv_rank",
            "data.captions.keep",
            "data.buckets.step",
        ),
        "whole",
    ),
    **dict.fromkeys(
        (
            "base_model.gradient_checkpointing",
            "adapter.decompose_both",
            "data.buckets.enabled",
            "data.captions.shuffle",
            "data.flip",
        ),
        "flag",
    ),
    **dict.fromkeys(
        (
            "sample.negative_prompt",
            "data.captions.separator",
            "data.captions.missing",
            "loss.schedule",
        ),
        "text",
    ),
}
_SIZE = re.compile(r"\s*(\d{2,5})\s*[x×,]\s*(\d{2,5})\s*")
_SAFE_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def refuse_kind(kind: str, tool: str) -> None:
    """Raise RecipeError for a configuration that trains something else than an adapter."""
    raise RecipeError(
        f"This configuration of {tool} trains {clean(kind, limit=60)}; here adapters are trained.",
        "Name one for LoRA, LoCon, LoHa, LoKr, DoRA or OFT.",
    )


def put_model(
    draft: Draft,
    model: str | None,
    origin: Origin,
    family: FlowFamily | None = None,
    *,
    hint: str = "",
    is_file: bool = False,
) -> None:
    """Put the base model, in whatever form it lies.

    Args:
        family: The flow-matching family that the configuration names; the hub's name of a model
            says one too.
        hint: Words that tell which model of the family it is, where that is in one file.
        is_file: It is in one file, whatever its name.
    """
    of_hub = families.of_repository(model or "", draft.tool)
    family = family or of_hub
    if family is not None:
        begin_flow(draft, family)
        if model and (is_file or _is_one_file(model)):
            draft.left(*origin, _ONE_FILE.format(family=family.name))
            note = f"theirs is {clean(model, limit=80)}: a {family.name} is not read from one file"
            draft.put("base_model.id", families.hub_id(family, f"{model} {hint}"), None, note)
            return
        if not model:
            note = f"theirs names none: a {family.name} of the hub"
            draft.put("base_model.id", families.hub_id(family, hint), None, note)
            return
    if model:
        draft.put("base_model.id", model, origin)


def begin_flow(draft: Draft, family: FlowFamily) -> None:
    """Put what recipes of a flow-matching family say: both schedulers step a flow."""
    draft.family = family
    for section in ("scheduler", "sample"):
        draft.put(f"{section}.noise.name", "flow_match_euler")


def _is_one_file(model: str) -> bool:
    return model.lower().endswith((".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".bin"))


def put_model_key(draft: Draft, key: str, value: Any, origin: Origin) -> None:
    """Put a key of `base_model` that a tool may leave empty or off."""
    if value in (None, False, ""):
        return
    if draft.family is not None:
        draft.left(*origin, _FLOW_REASONS[key].format(family=draft.family.name))
    else:
        draft.put(f"base_model.{key}", value, origin)


def carry(settings: Settings, draft: Draft, table: Mapping[str, str]) -> None:
    """Put settings whose values mean the same here.

    Args:
        table: Our key for each of theirs; the schema says what type its value has.
    """
    for theirs, ours in table.items():
        read = {"whole": settings.whole, "flag": settings.flag, "text": settings.text}.get(
            _TYPES.get(ours, "number"), settings.number
        )
        value: Any = read(theirs)
        if value is not None and value != "":
            draft.put(ours, [value] if ours == "sample.seeds" else value, settings.origin(theirs))


def put_kept(draft: Draft, settings: Settings, key: str) -> None:
    """Put how many checkpoints are kept, which are two at least."""
    kept = settings.whole(key)
    if kept:
        note = "" if kept >= 2 else "two are kept at least"
        draft.put("save.keep", max(2, kept), settings.origin(key), note)


def put_factor(draft: Draft, settings: Settings, key: str) -> None:
    """Put LoKr's factor; -1 is its own choice, as none is here."""
    factor = settings.whole(key)
    if factor is not None and factor > 0:
        draft.put("adapter.factor", factor, settings.origin(key))


def put_first_weights(draft: Draft, settings: Settings, key: str) -> None:
    """Put the adapter file that training begins with."""
    draft.put("adapter.init_from", settings.text(key) or None, settings.origin(key))


def put_dtype(draft: Draft, value: str | None, origin: Origin) -> None:
    """Put the precision that the frozen model is held in."""
    if value is None:
        return
    known = names.DTYPES.get(names.folded(value))
    if known is None:
        draft.left(*origin, "base_model.dtype is auto, float32, bfloat16 or float16")
        return
    note = "the frozen model is held in it; the adapter is trained in 32 bits"
    draft.put("base_model.dtype", known, origin, "" if known == "float32" else note)


def put_name(draft: Draft, value: str | None, origin: Origin) -> None:
    """Put the run's name, with what no name can have turned into dashes."""
    if not value:
        return
    name = _SAFE_NAME.sub("-", value).strip("-._")[:64].strip("-._")
    if not name:
        draft.left(*origin, "a run's name is made of letters, digits, dots and dashes")
    elif name == value:
        draft.put("name", name, origin)
    else:
        draft.put("name", name, origin, f"theirs is {clean(value, limit=60)!r}")


def put_rank(
    draft: Draft, rank: int | None, alpha: float | None, origins: Sequence[Origin], usual: str
) -> None:
    """Put rank and alpha; an alpha of 0 or none is the tool's own default.

    Args:
        usual: The default: "rank" or "1".
    """
    draft.put("adapter.rank", rank, origins[0])
    if alpha is not None and alpha != 0:
        draft.put("adapter.alpha", alpha, origins[1])
        return
    stands_for = rank if usual == "rank" or alpha == 0 else 1.0
    if stands_for is not None:
        note = "not given: the rank, so a factor of 1" if usual == "rank" else "not given: 1"
        if alpha == 0:
            note = "0 stands for the rank, so a factor of 1"
        draft.put("adapter.alpha", float(stands_for), origins[1], note)


def put_resolution(draft: Draft, value: Any, origin: Origin) -> None:
    """Put the training resolution; a width and a height become the square of their area."""
    sides = sides_of(value)
    if not sides:
        if value is not None:
            draft.left(*origin, "expected pixels, or a width and a height")
        return
    pixels, note = sides[0], ""
    if sides[0] != sides[-1]:
        pixels = max(64, round(math.sqrt(sides[0] * sides[-1]) / 64) * 64)
        note = f"the square of about the area of {sides[0]}×{sides[-1]}; images keep their shape"
    draft.put("train.resolution", pixels, origin, note)


def sides_of(value: Any) -> list[int]:
    """Return the one or two sides that a size is written by; nothing where it is none."""
    if isinstance(value, str):
        matched = _SIZE.fullmatch(value)
        value = list(matched.groups()) if matched else [value]
    parts = value if isinstance(value, list) else [value]
    sides = [as_number(part) for part in parts[:2]]
    whole = [int(side) for side in sides if side is not None and 1 <= side < 100_000]
    return whole if len(whole) == len(parts[:2]) and len(parts) <= 2 else []


def put_layers(draft: Draft, layers: Iterable[str], origin: Origin | None, note: str = "") -> None:
    """Put the groups of layers that get an update, in the order of the recipe's schema."""
    order = [*names.TRANSFORMER, "modulation", "convolution"]
    draft.put("adapter.layers", sorted(layers, key=order.index), origin, note)


def put_flow_layers(
    draft: Draft, family: FlowFamily, layers: Iterable[str], origin: Origin | None, note: str = ""
) -> None:
    """Put groups of layers of a flow-matching family, and its adapter without convolutions."""
    known = {*family.layers, "modulation", "projection"}
    put_layers(draft, known.intersection(layers), origin, note)
    if draft.values.get("adapter.name") == "locon":
        draft.put("adapter.name", "lora")
        draft.note("adapter.name", f"a {family.name} has no convolutions to train")
    for key in ("adapter.conv_rank", "adapter.conv_alpha"):
        draft.drop(key, f"a {family.name} has no convolutions to train")


def main_file(
    files: Sequence[ForeignFile],
    is_main: Callable[[ForeignFile], bool],
    *,
    others: str,
    example: str,
) -> ForeignFile:
    """Return the file that names the model.

    Args:
        others: Words for what the files are where none of them does.
        example: The files of a command that has all that is needed.

    Raises:
        RecipeError: None of them does.
    """
    found = next(filter(is_main, files), None)
    if found is None:
        raise RecipeError(
            f"These are {others}; the model stands in another file.",
            f"Name it too: loba recipe import {example}",
        )
    return found


def put_text_encoders(
    draft: Draft, rates: Mapping[str, float | None], origin: tuple[str, Any], *, num_encoders: int
) -> None:
    """Have text encoders trained too, where the adapter's kind has a place for that.

    Args:
        rates: Learning rate of each that is trained, None being the UNet's.
        num_encoders: How many the model has.
    """
    if not rates:
        return
    if draft.family is not None:
        draft.left(*origin, f"the denoiser alone is trained of a {draft.family.name}")
        return
    kind = draft.values.get("adapter.name", "lora")
    if kind not in ("lora", "locon", "dora"):
        draft.left(*origin, f"a {kind} here is of the UNet alone: adapter.text_encoders")
        return
    section, rate = "adapter.text_encoders", next(iter(rates.values()))
    draft.put(f"{section}.layers", ["attention", "mlp"], origin)
    draft.put(f"{section}.lr", rate)
    if len(rates) < num_encoders:
        draft.put(f"{section}.components", list(rates))
    if len(set(rates.values())) > 1:
        draft.note(f"{section}.layers", "theirs has a rate for each encoder; this is the first")
