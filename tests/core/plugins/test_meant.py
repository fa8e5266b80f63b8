"""A mistake that other tools make usual is met with the name or the value that is right here."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from loba_tui.core.option_types import NonZeroFloat
from loba_tui.core.plugins import KINDS, SHIPPED
from loba_tui.core.plugins.meant import OTHER_NAMES, meant_name, meant_value
from loba_tui.core.recipe.schema import BaseModelSection


@pytest.mark.parametrize(
    ("kind", "theirs", "ours"),
    [
        ("adapters", "c3lier", "locon"),
        ("adapters", "lierla", "lora"),
        ("adapters", "LoCon", "locon"),
        ("adapters", "lycoris", "locon"),
        ("adapters", "LoRa", "lora"),
        ("optimizers", "AdamW8bit", "adamw_8bit"),
        ("optimizers", "PagedAdamW8bit", "adamw_8bit"),
        ("optimizers", "DAdaptAdam", "prodigy"),
        ("optimizers", "Prodigy", "prodigy"),
        ("optimizers", "AdaFactor", "adafactor"),
        ("optimizers", "SGDNesterov", "sgd"),
        ("model", "cosine_with_restarts", "cosine_restarts"),
        ("model", "constant_with_warmup", "linear_warmup"),
        ("noise", "Euler a", "euler_ancestral"),
        ("noise", "DPM++ 2M Karras", "dpmpp_2m"),
        ("losses", "l2", "mse"),
        ("weightings", "min_snr_gamma", "min_snr"),
        ("methods", "lora", "lora_finetune"),
        ("methods", "Slider", "text_slider"),
    ],
)
def test_a_name_of_another_tool_leads_to_the_one_here(kind: str, theirs: str, ours: str) -> None:
    (problem,) = SHIPPED.check_options(kind, theirs, {})
    assert problem.suggestion == ours
    assert ours in SHIPPED.names(kind)


def test_every_name_that_is_offered_is_one_of_here() -> None:
    known = {name for kind in KINDS for name in SHIPPED.names(kind)}
    known |= {"cross_attention", "self_attention", "float16", "bfloat16", "float32", "cuda"}
    assert set(OTHER_NAMES.values()) <= known
    assert not set(OTHER_NAMES) & known - {"lora", "slider"}


def test_a_name_like_none_leads_nowhere() -> None:
    assert meant_name("zzz", SHIPPED.names("adapters")) is None
    assert meant_name("c3lier", ("adamw", "sgd")) is None


@pytest.mark.parametrize(
    ("value", "expected", "meant"),
    [
        ("1e-4", float, "1e-4"),
        ("1e\N{EN DASH}4", float, "1e-4"),
        ("\N{MINUS SIGN}2", float, "-2"),
        ("0,0001", float, "0.0001"),
        ("500", int, "500"),
        ("1_000", int, "1000"),
        ("\N{FULLWIDTH DIGIT TWO}", int, "2"),
        (1000.0, int, "1000"),
        ("False", bool, "false"),
        ("yes", bool, "true"),
        ("0", NonZeroFloat, None),
        ("1.5", int, None),
        ("many", int, None),
        ("yes", int, None),
        ("nan", float, None),
        ("9" * 5000, int, None),
        (None, int, None),
        ([1], int, None),
        ("fp16", BaseModelSection.model_fields["dtype"].annotation, "float16"),
        ("xattn", list[Literal["cross_attention", "self_attention"]], "cross_attention"),
    ],
)
def test_a_value_that_is_nearly_one_is_offered_as_it_should_be(
    value: Any, expected: Any, meant: str | None
) -> None:
    assert meant_value(value, expected) == meant
