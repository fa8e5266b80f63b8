from __future__ import annotations

from typing import Any

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.diff import differences, text_diff
from loba_tui.core.recipe.load import parse_recipe

BASE: dict[str, Any] = {
    "version": 1,
    "base_model": {"id": "builtin:shapes-xl"},
    "method": {"name": "text_slider", "concepts": [{"target": "a", "positive": "b"}]},
}
CONCEPT = {"target": "a", "positive": "b", "negative": "c"}


def recipe(**sections: Any) -> Any:
    method = {"name": "text_slider", "concepts": [CONCEPT]}
    return parse_recipe({**BASE, "method": method, **sections}, plugins=SHIPPED)


def test_what_a_default_says_is_no_difference() -> None:
    assert differences(recipe(), recipe(optimizer={"name": "adamw", "lr": 2e-4})) == []


def test_every_key_is_told_with_both_sides() -> None:
    other = recipe(
        optimizer={"name": "lion", "lr": 1e-4, "beta1": 0.5},
        method={"name": "text_slider", "concepts": [{**CONCEPT, "target": "\x1b[31mx"}]},
        sample={"scales": [-1, 0, 1]},
    )
    found = differences(recipe(), other)
    assert [each.line for each in found] == [
        'method.concepts.0.target: "a" -> "\\u001b[31mx"',
        'optimizer.name: "adamw" -> "lion"',
        "optimizer.lr: 0.0002 -> 0.0001",
        "optimizer.beta1: (not given) -> 0.5",
        "sample.scales: [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0] -> [-1.0, 0.0, 1.0]",
    ]
    assert found[3].record() == {"key": "optimizer.beta1", "right": 0.5}
    assert found[1].record() == {"key": "optimizer.name", "left": "adamw", "right": "lion"}


def test_another_number_of_concepts_is_one_difference() -> None:
    two = recipe(method={"name": "text_slider", "concepts": [CONCEPT, CONCEPT]})
    assert [each.key for each in differences(recipe(), two)] == ["method.concepts"]


def test_a_text_diff_is_plain_text_without_a_head() -> None:
    assert text_diff("a\nb\n", "a\nb\n") == []
    assert text_diff("a\nb\n", "a\n\x1b]0;x\x07c\n") == ["@@ -1,2 +1,2 @@", " a", "-b", "+c"]
