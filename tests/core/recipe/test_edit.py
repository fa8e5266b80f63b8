from __future__ import annotations

import difflib
from typing import Any

import pytest

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.edit import delete_key, set_key
from loba_tui.core.recipe.load import parse_text
from loba_tui.core.recipe.problems import ProblemsFound
from loba_tui.core.recipe.shipped import folder
from loba_tui.core.recipe.yaml_tree import read_tree

SLIDER = (folder() / "slider_unet.yaml").read_text()


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
        (("save", "every"), 5, ["+", "+save:", "+  every: 5"]),
        (("optimizer", "eps"), 1e-6, ["+  eps: 1e-06"]),
        (
            ("base_model", "device"),
            "cuda:122",
            ['+  device: "cuda:122"          # cuda:122 insists on CUDA 12.2 or newer'],
        ),
        (("scheduler", "model", "name"), "cosine", ["+  model:", "+    name: cosine"]),
        (("sample", "negative_prompt"), "a, b: {c}", ['+  negative_prompt: "a, b: {c}"']),
    ],
)
def test_setting_a_key_changes_that_line_alone(
    path: tuple[str | int, ...], value: Any, added: list[str]
) -> None:
    edited = set_key(SLIDER, path, value)
    lines = changed_lines(SLIDER, edited)
    assert [line for line in lines if line.startswith("+")] == added
    assert len([line for line in lines if line.startswith("-")]) <= 1
    parse_text(edited, "edited", plugins=SHIPPED)


@pytest.mark.parametrize("path", [("name", "x"), ("method", "concepts", 9), ("method", 0)])
def test_a_path_that_leads_nowhere_is_a_problem(path: tuple[str | int, ...]) -> None:
    with pytest.raises(ProblemsFound, match="there is no such section or item"):
        set_key(SLIDER, path, 1)


def test_text_that_is_not_yaml_is_a_problem() -> None:
    with pytest.raises(ProblemsFound, match="not valid YAML"):
        set_key("a: [", ("a",), 1)


def test_deleting_a_key_takes_its_lines_and_no_comment_of_another() -> None:
    edited = delete_key(SLIDER, ("train", "seed"))
    assert changed_lines(SLIDER, edited) == ["-  seed: 0"]
    edited = delete_key(SLIDER, ("sample", "prompts"))
    assert len(changed_lines(SLIDER, edited)) == 5
    assert "sample:\n  scales:" in edited
    # The comment behind a section belongs to the section after it.
    edited = delete_key(SLIDER, ("sample",))
    assert "# The proof is measured on prompts that were not trained" in edited
    assert "sample:" not in edited


@pytest.mark.parametrize(
    ("text", "path", "left"),
    [
        ("a: {b: 1, c: 2} # why\nd: 3\n", ("a", "b"), "a: {c: 2}       # why\nd: 3\n"),
        ("a: {b: 1}\nd: 3\n", ("a", "b"), "d: 3\n"),
        ("a:\n  b:\n    c: 1\n# of d\nd: 3\n", ("a", "b", "c"), "# of d\nd: 3\n"),
        ("a: |\n  long\n  text\nd: 3\n", ("a",), "d: 3\n"),
        ("a: [1,\n  2]\nd: 3\n", ("a",), "d: 3\n"),
        ("a:\n- x: 1\n  y: 2\n\n# d\nd: 3\n", ("a",), "\n# d\nd: 3\n"),
        ("a:\nd: 3\n", ("a",), "d: 3\n"),
        ("a: 1\n", ("b", "c"), "a: 1\n"),
        ("a: 1\n", ("a", "c"), "a: 1\n"),
    ],
)
def test_a_key_goes_whatever_its_value_is_written_as(
    text: str, path: tuple[str, ...], left: str
) -> None:
    assert delete_key(text, path) == left


def test_keys_are_added_where_the_section_ends_and_not_behind_its_blank_line() -> None:
    once = set_key(SLIDER, ("scheduler", "model", "name"), "cosine")
    twice = set_key(once, ("scheduler", "model", "warmup_steps"), 5)
    added = "  model:\n    name: cosine\n    warmup_steps: 5\n\ntrain:"
    assert f"  noise: {{name: euler_ancestral}}\n{added}" in twice
    assert delete_key(twice, ("scheduler", "model")) == SLIDER


def test_a_value_is_written_as_it_was_typed() -> None:
    edited = set_key(SLIDER, ("optimizer", "lr"), 3e-4, spelled="3.0e-4")
    assert changed_lines(SLIDER, edited) == ["-  lr: 5.0e-4", "+  lr: 3.0e-4"]


@pytest.mark.parametrize(
    "value", [None, True, 3, 0.5, "x", "null", "1", "a: b", "", [1, "a, b"], "é"]
)
@pytest.mark.parametrize("path", [("a",), ("f", "x"), ("f", "new"), ("new",), ("b", "new"), ("e",)])
@pytest.mark.parametrize("anchor", ["", "k: &x 1\n"])
def test_what_is_set_is_what_is_read(value: Any, path: tuple[str, ...], anchor: str) -> None:
    text = f"{anchor}a: 'x' # c\nb:\n  c: |\n    t\n# d\nf: {{x: 1}}\ne:"
    edited = set_key(text, path, value)
    tree = read_tree(edited, "edited")[0].plain()
    for step in path:
        tree = tree[step]
    assert tree == value
    assert "# d" in edited
    assert "# c" in edited
