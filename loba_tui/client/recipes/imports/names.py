"""Names that other tools have for what a recipe calls otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Named(NamedTuple):
    """A drop-in's name here, options that make it the same, and what differs."""

    name: str
    options: Mapping[str, object] = MappingProxyType({})
    note: str = ""


_PLAIN = "the same steps in 32 bits; moments are kept in full"
_ADAFACTOR = (
    "a step here is relative to each tensor's own size, so rates are larger: 5.0e-3 is usual"
)
_DADAPT = "Prodigy is the successor of D-Adaptation; its learning rate stays at 1"

OPTIMIZERS: Mapping[str, Named] = MappingProxyType(
    {
        "adam": Named("adamw", {"weight_decay": 0.0}, "Adam is AdamW without weight decay"),
        "adam8bit": Named("adamw_8bit", {"weight_decay": 0.0}, "Adam is AdamW without decay"),
        "adam8": Named("adamw_8bit", {"weight_decay": 0.0}, "Adam is AdamW without decay"),
        "adamw": Named("adamw"),
        "optimiadamw": Named("adamw", {}, _PLAIN),
        "adamwbf16": Named("adamw", {}, "the adapter's weights are held in 32 bits here"),
        "pagedadamw": Named("adamw", {}, "there is no paging here"),
        "pagedadamw32bit": Named("adamw", {}, "there is no paging here"),
        "adamw8bit": Named("adamw_8bit"),
        "adamw8": Named("adamw_8bit"),
        "bnbadamw8bit": Named("adamw_8bit"),
        "pagedadamw8bit": Named("adamw_8bit", {}, "there is no paging here"),
        "adafactor": Named("adafactor", {}, _ADAFACTOR),
        "came": Named("came"),
        "came8bit": Named("came", {}, _PLAIN),
        "lamb": Named("lamb"),
        "lamb8bit": Named("lamb", {}, _PLAIN),
        "lion": Named("lion"),
        "optimilion": Named("lion", {}, _PLAIN),
        "lion8bit": Named("lion", {}, _PLAIN),
        "pagedlion8bit": Named("lion", {}, _PLAIN),
        "nadam": Named("nadam"),
        "novograd": Named("novograd"),
        "prodigy": Named("prodigy"),
        "prodigy8bit": Named("prodigy", {}, _PLAIN),
        "dadaptation": Named("prodigy", {}, _DADAPT),
        "dadaptadam": Named("prodigy", {}, _DADAPT),
        "dadaptadampreprint": Named("prodigy", {}, _DADAPT),
        "radam": Named("radam"),
        "optimiradam": Named("radam", {}, _PLAIN),
        "adamwschedulefree": Named("schedule_free_adamw"),
        "schedulefreeadamw": Named("schedule_free_adamw"),
        "sgd": Named("sgd", {"momentum": 0.0, "nesterov": False}),
        "optimisgd": Named("sgd", {"momentum": 0.0, "nesterov": False}),
        "sgdnesterov": Named("sgd", {"nesterov": True}),
        "sgdnesterov8bit": Named("sgd", {"nesterov": True}, _PLAIN),
    }
)
"""By their name without capitals, dots, dashes and underscores."""

SCHEDULES: Mapping[str, Named] = MappingProxyType(
    {
        "constant": Named("constant"),
        "constantwithwarmup": Named("linear_warmup"),
        "linear": Named("linear"),
        "cosine": Named("cosine"),
        "cosinewithminlr": Named("cosine"),
        "cosineannealing": Named("cosine"),
        "cosinewithrestarts": Named("cosine_restarts"),
        "cosinewithhardrestarts": Named("cosine_restarts"),
        "cosineannealingwarmrestarts": Named("cosine_restarts"),
        "polynomial": Named("polynomial", {"power": 1.0}),
        "rex": Named("rex"),
        "inversesqrt": Named("inverse_sqrt"),
        "warmupstabledecay": Named("warmup_stable_decay"),
        "onecycle": Named("one_cycle"),
        "exponential": Named("exponential"),
    }
)

NOISE_SCHEDULERS: Mapping[str, str] = MappingProxyType(
    {
        "ddim": "ddim",
        "ddpm": "ddpm",
        "lms": "k_lms",
        "klms": "k_lms",
        "euler": "euler",
        "keuler": "euler",
        "eulera": "euler_ancestral",
        "keulera": "euler_ancestral",
        "eulerancestral": "euler_ancestral",
        "heun": "heun",
        "dpmsolver++": "dpmpp_2m",
        "dpmsolver": "dpmpp_2m",
        "dpm++2m": "dpmpp_2m",
        "dpm++": "dpmpp_2m",
        "dpm++2mkarras": "dpmpp_2m",
        "dpm++sde": "dpmpp_sde",
        "pndm": "pndm",
        "unipc": "unipc",
        "lcm": "lcm",
    }
)

DTYPES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("fp16", "float16", "half", "f16"), "float16"),
        **dict.fromkeys(("bf16", "bfloat16"), "bfloat16"),
        **dict.fromkeys(("no", "fp32", "float32", "float", "f32", "tfloat32"), "float32"),
    }
)

TRANSFORMER = ("cross_attention", "self_attention", "feed_forward", "projection")
"""Layers of a Transformer2DModel, which kohya and others put LoRA on."""


def folded(name: str) -> str:
    """Return a name without capitals and separators, as the tables have it."""
    return re.sub(r"[\s._-]", "", name.strip().lower())
