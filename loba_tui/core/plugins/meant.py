"""Guesses at the value that was meant: the names of other tools, numbers and truth values as text.

A guess is offered ("Did you mean locon?"); nothing is ever taken for another value.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from loba_tui.core.option_types import choices
from loba_tui.core.text import nearest, quote

OTHER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        # adapters
        "lierla": "lora",
        "c3lier": "locon",
        "lycoris": "locon",
        "rslora": "lora",
        "diagoft": "oft",
        "boft": "oft",
        # optimizers
        "adam8bit": "adamw_8bit",
        "pagedadamw": "adamw",
        "pagedadamw8bit": "adamw_8bit",
        "bnbadamw8bit": "adamw_8bit",
        "pagedlion8bit": "lion",
        "dadaptation": "prodigy",
        "dadaptadam": "prodigy",
        "schedulefree": "schedule_free_adamw",
        "sgdnesterov": "sgd",
        # learning-rate schedules
        "constantwithwarmup": "linear_warmup",
        "warmup": "linear_warmup",
        "cosineannealing": "cosine",
        "cosinewithhardrestarts": "cosine_restarts",
        "cosineannealingwarmrestarts": "cosine_restarts",
        "wsd": "warmup_stable_decay",
        # noise schedulers
        "lms": "k_lms",
        "eulera": "euler_ancestral",
        "dpmsolver": "dpmpp_2m",
        "dpm++2m": "dpmpp_2m",
        "dpm++2mkarras": "dpmpp_2m",
        "dpm++sde": "dpmpp_sde",
        "flowmatch": "flow_match_euler",
        # losses and their weightings
        "l2": "mse",
        "mae": "l1",
        "snr": "min_snr",
        "snrgamma": "min_snr",
        # methods
        "lora": "lora_finetune",
        "dreambooth": "lora_finetune",
        "slider": "text_slider",
        "conceptslider": "text_slider",
        "visualslider": "image_slider",
        "erase": "leco",
        # layers
        "xattn": "cross_attention",
        "attn2": "cross_attention",
        "attn1": "self_attention",
        "selfattn": "self_attention",
        # dtypes and devices
        "fp16": "float16",
        "half": "float16",
        "bf16": "bfloat16",
        "fp32": "float32",
        "no": "float32",
        "gpu": "cuda",
    }
)
"""Names that other tools have, without capitals and separators, and the name here.

Only names that resemble nothing here, or another thing; `nearest` finds the others.
"""

_MINUS = dict.fromkeys(map(ord, "\N{MINUS SIGN}\N{EN DASH}\N{EM DASH}\N{HYPHEN}"), "-")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_MOST_DIGITS = 30
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")


def meant_name(word: str, known: Iterable[str]) -> str | None:
    """Return the known name that a word most likely meant, or None."""
    known = list(known)
    other = OTHER_NAMES.get(re.sub(r"[\s._-]", "", word.lower()))
    return other if other in known else nearest(word, known)


def meant_value(value: Any, expected: Any) -> str | None:
    """Return what a value that is not of the expected type most likely meant, as YAML, or None."""
    if isinstance(value, str):
        name = meant_name(value, choices(expected))
        if name is not None:
            return name
    for candidate, shown in _readings(value):
        try:
            TypeAdapter(expected).validate_python(candidate, strict=True)
        except ValidationError:
            continue
        return shown
    return None


def _readings(value: Any) -> Iterator[tuple[bool | int | float, str]]:
    """Yield the values that a text, or a number with an empty fraction, could stand for."""
    if isinstance(value, float) and value.is_integer():
        yield int(value), str(int(value))
    if not isinstance(value, str) or len(value) > _MOST_DIGITS:
        return
    # Full-width digits become digits; dashes that stand for a minus become one.
    text = unicodedata.normalize("NFKC", value).translate(_MINUS).strip().replace("_", "")
    if text.lower() in (*_TRUE, *_FALSE):
        yield text.lower() in _TRUE, quote(text.lower() in _TRUE)
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    if _NUMBER.fullmatch(text):
        number = float(text)
        if number.is_integer():
            yield int(number), str(int(number))
        yield number, text
