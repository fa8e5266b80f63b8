from __future__ import annotations

import pytest

from loba_tui.client.runs.resolve import split_strength
from loba_tui.core.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size@1.5", ("size", 1.5)),
        ("size@-1", ("size", -1.0)),
        ("size", ("size", 1.0)),
        ("runs/me@home/adapter.safetensors", ("runs/me@home/adapter.safetensors", 1.0)),
        ("runs/me@home@2", ("runs/me@home", 2.0)),
    ],
)
def test_the_strength_is_what_follows_the_last_at(text: str, expected: tuple[str, float]) -> None:
    assert split_strength(text, "--adapter") == expected


@pytest.mark.parametrize("text", ["size@21", "size@-1e9", "@1", "size@inf", "size@nan"])
def test_a_strength_out_of_range_is_said_so(text: str) -> None:
    with pytest.raises(RecipeError, match="strength"):
        split_strength(text, "--adapter")
