"""No text, however broken, makes anything but a located problem or a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import check_recipe, dump_recipe, load_recipe
from loba_tui.core.recipe.migrate.text import migrate_text
from loba_tui.core.recipe.problems import ProblemsFound
from loba_tui.core.recipe.shipped import folder

SLIDER = (folder() / "slider_unet.yaml").read_text()
SMALL = """\
version: 1
base_model: {id: x}
method: {name: text_slider, concepts: [{target: a, positive: b, negative: c}]}
"""
LINES = SLIDER.splitlines(keepends=True)
WORDS = """
: - [ ] { } &a *a !!int | > ' " # null 0 -1 .nan .inf 1e999 {x} <<: ? --- %YAML true ~ 0x 1_0
version name method concepts vary prompts [[]] {} [] [null] "\\ud800"
"""
FRAGMENTS = st.sampled_from(
    [*WORDS.split(), "", "\n", "\t", "- ", "? ", "9" * 5000, "\ufeff", "\x00", "\x85", "\U0010ffff"]
)
SETTINGS = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def mutated_recipes(draw: st.DrawFn) -> str:
    """The shipped slider with a few lines dropped, moved, or with something put into them."""
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        action = draw(st.sampled_from(["drop", "double", "insert", "replace", "value", "indent"]))
        if action == "drop":
            del lines[at]
        elif action == "double":
            lines.insert(at, lines[at])
        elif action == "indent":
            lines[at] = "  " + lines[at]
        elif action == "value":
            key = lines[at].split(":")[0]
            lines[at] = f"{key}: {draw(FRAGMENTS)}\n"
        else:
            column = draw(st.integers(0, len(lines[at])))
            end = column if action == "insert" else draw(st.integers(column, len(lines[at])))
            lines[at] = lines[at][:column] + draw(FRAGMENTS) + lines[at][end:]
    return "".join(lines)


def check(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    problems = check_recipe(path, plugins=SHIPPED)
    for problem in problems:
        assert str(problem).isprintable()
        assert problem.line > 0
    if not problems:
        recipe = load_recipe(path, plugins=SHIPPED)
        assert isinstance(recipe.method.expanded_concepts, tuple)
        path.write_text(dump_recipe(recipe), encoding="utf-8")
        assert load_recipe(path, plugins=SHIPPED) == recipe


@SETTINGS
@given(text=mutated_recipes())
def test_a_mutated_recipe_is_a_recipe_or_a_list_of_problems(tmp_path: Path, text: str) -> None:
    check(tmp_path / "r.yaml", text)


@SETTINGS
@given(text=st.text(alphabet=st.sampled_from("ab:- \n\t[]{}&*!|>'\"#%@,0?<~\x1b"), max_size=60))
def test_random_yaml_like_text_is_a_list_of_problems(tmp_path: Path, text: str) -> None:
    check(tmp_path / "r.yaml", text)


@SETTINGS
@given(text=st.text(alphabet=st.sampled_from("ab:- \n[]{}&*!'\"#,01.e"), max_size=40))
def test_an_override_never_breaks_the_loader(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(SMALL)
    overrides = [text, f"train.steps={text}", f"method.concepts.0.target={text}"]
    assert all(
        str(problem).isprintable() for problem in check_recipe(path, overrides, plugins=SHIPPED)
    )


@SETTINGS
@given(
    text=st.lists(
        st.tuples(
            st.sampled_from(
                ["lr", "target", "preserve", "out_dir", "pretrained_model", "zzz", "#"]
            ),
            FRAGMENTS,
        ),
        max_size=5,
    ).map(lambda pairs: "".join(f"{key}: {value}\n" for key, value in pairs))
)
def test_migrating_is_a_text_or_a_list_of_problems(text: str) -> None:
    try:
        migrate_text(text, "old.yaml")
    except ProblemsFound as error:
        told = error.problems
    else:
        return
    assert all(problem.file == "old.yaml" and problem.message for problem in told)


@pytest.mark.parametrize("character", ["[", "{", "- ", "? ", "a: ", "&a ", "'", "!", "#\n", "a\n"])
def test_a_quarter_megabyte_of_anything_is_answered_in_seconds(
    tmp_path: Path, character: str
) -> None:
    check(tmp_path / "r.yaml", (character * 262_144)[:262_144])
