from __future__ import annotations

import difflib
from typing import Any

import pytest

from loba_tui.core.recipe.edit import set_key
from loba_tui.core.recipe.load import parse_text
from loba_tui.core.recipe.problems import ProblemsFound
from loba_tui.core.recipe.shipped import folder

SLIDER = (folder() / "slider.yaml").read_text()


def changed_lines(before: str, after: str) -> list[str]:
    """Return the lines that a diff takes away or adds, without its head."""
    diff = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in diff if line[0] in "+-" and line[:3] not in ("+++", "---")]


@pytest.mark.parametrize(
    ("path", "value", "added"),
    [
        (("train", "steps"), 81, ["+  steps: 81"]),
        (("method", "concepts", 0, "guidance"), 2.0, ["+      guidance: 2.0"]),
        (
            ("method", "concepts", 0, "vary", "color"),
            ["red", "pink"],
            ["+        color: [red, pink]"],
        ),
        (("proof", "measure", "name"), "sharpness", ["+  measure: {name: sharpness}"]),
        (("save", "every"), 5, ["+save:", "+  every: 5"]),
        (("optimizer", "eps"), 1e-6, ["+  eps: 1e-06"]),
    ],
)
def test_setting_a_key_changes_that_line_alone(
    path: tuple[str | int, ...], value: Any, added: list[str]
) -> None:
    edited = set_key(SLIDER, path, value)
    lines = changed_lines(SLIDER, edited)
    assert [line for line in lines if line.startswith("+")] == added
    assert len([line for line in lines if line.startswith("-")]) <= 1
    parse_text(edited, "edited")


@pytest.mark.parametrize("path", [("name", "x"), ("method", "concepts", 9), ("method", 0)])
def test_a_path_that_leads_nowhere_is_a_problem(path: tuple[str | int, ...]) -> None:
    with pytest.raises(ProblemsFound, match="there is no such section or item"):
        set_key(SLIDER, path, 1)


def test_text_that_is_not_yaml_is_a_problem() -> None:
    with pytest.raises(ProblemsFound, match="not valid YAML"):
        set_key("a: [", ("a",), 1)
