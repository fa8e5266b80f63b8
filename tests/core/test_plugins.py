from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loba_tui.core.errors import RecipeError
from loba_tui.core.option_types import AnnotationError, describe_type, evaluate
from loba_tui.core.plugins import KINDS, check_options, describe, load, names

SHIPPED = [(kind, name) for kind in KINDS for name in names(kind)]

DROP_IN = '''
"""A drop-in for tests."""

import no_such_module_anywhere
from typing import Literal

Way = Literal["up", "down"]
REQUIRES = ("target",)
DEFAULT_RATE = 0.5


def get_loss(given, *, delta: PositiveFloat, way: Way = "up", rate: UnitFloat = DEFAULT_RATE,
             scales: tuple[NonZeroFloat, ...] = (1.0,), sizes: tuple[int, int] | None = None,
             table: dict[str, int] = {}, note: str = "", flag: bool = False, strange: Thing = 1):
    """Return nothing.

    Args:
        given: What the program supplies.
        delta: Where the line
            bends.
    """
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "losses").mkdir()
    (tmp_path / "losses" / "bent.py").write_text(DROP_IN)
    return tmp_path


def problems(folder: Path, **given: Any) -> list[tuple[tuple[str | int, ...], str, str | None]]:
    found = check_options("losses", "bent", {"delta": 1, **given}, search_path=[folder])
    return [(problem.key_path, problem.message, problem.suggestion) for problem in found]


def test_a_drop_in_is_described_without_being_imported(folder: Path) -> None:
    plugin = describe("losses", "bent", search_path=[folder])
    assert plugin.doc == "A drop-in for tests."
    assert "given" not in plugin.options
    assert plugin.constants["REQUIRES"] == ("target",)
    assert plugin.options["delta"].required
    assert plugin.options["delta"].help == "Where the line bends."
    assert plugin.options["rate"].default == 0.5
    assert plugin.options["way"].expected == "one of up, down"


def test_names_list_the_search_path_and_never_replace_a_shipped_drop_in(folder: Path) -> None:
    (folder / "losses" / "mse.py").write_text("raise SystemExit")
    (folder / "losses" / "_private.py").write_text("")
    (folder / "losses" / "not-a-name.py").write_text("")
    listed = names("losses", search_path=[folder])
    assert "bent" in listed
    assert "_private" not in listed
    assert "not-a-name" not in listed
    assert folder not in describe("losses", "mse", search_path=[folder]).path.parents


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, []),
        ({"delta": 2, "sizes": [1, 2], "table": {"a": 1}, "flag": True}, []),
        ({"delta": "2e-4"}, [(("delta",), "expected a number greater than 0, got '2e-4'", None)]),
        ({"delta": True}, [(("delta",), "expected a number greater than 0, got true", None)]),
        ({"delta": 0}, [(("delta",), "expected a number greater than 0, got 0", None)]),
        (
            {"delta": float("nan")},
            [(("delta",), "expected a number greater than 0, got nan", None)],
        ),
        ({"detla": 1}, [(("detla",), "not an option of bent", "delta")]),
        ({"way": "upp"}, [(("way",), "expected one of up, down, got 'upp'", "up")]),
        ({"rate": 1.5}, [(("rate",), "expected a number from 0 to 1, got 1.5", None)]),
        (
            {"scales": [1, 0, "x"]},
            [
                (("scales", 1), "expected a number other than 0, got 0", None),
                (("scales", 2), "expected a number other than 0, got 'x'", None),
            ],
        ),
        (
            {"scales": []},
            [
                (
                    ("scales",),
                    "expected a list, each item a number other than 0, got an empty list",
                    None,
                )
            ],
        ),
        (
            {"sizes": [1, True]},
            [(("sizes", 1), "expected a whole number, got true", None)],
        ),
        ({"flag": 1}, [(("flag",), "expected true or false, got 1", None)]),
        ({"note": 1}, [(("note",), "expected text, got 1", None)]),
        ({"table": {"a": 1.5}}, [(("table", "a"), "expected a whole number, got 1.5", None)]),
        ({"strange": 2}, [(("strange",), "cannot be set from a recipe: its type is Thing", None)]),
    ],
)
def test_options_are_checked_against_the_signature(
    folder: Path, given: dict[str, Any], expected: list[Any]
) -> None:
    assert problems(folder, **given) == expected


def test_a_missing_required_option_is_a_problem(folder: Path) -> None:
    found = check_options("losses", "bent", {}, search_path=[folder])
    assert [(p.key_path, p.message) for p in found] == [
        (("delta",), "bent needs this option: a number greater than 0")
    ]


def test_an_unknown_drop_in_names_the_nearest() -> None:
    (problem,) = check_options("optimizers", "adamww", {"anything": 1})
    assert (problem.key_path, problem.suggestion) == (("name",), "adamw")


@pytest.mark.parametrize("name", ["../losses/mse", "os", "mse.py", "", "losses.mse", "/etc/passwd"])
def test_a_name_never_leads_out_of_the_folder(name: str) -> None:
    with pytest.raises(RecipeError, match="there is no loss called"):
        load("losses", name)


@pytest.mark.parametrize("text", ["def get_loss(:", "x = 1", "\0", "async def get_loss(): ..."])
def test_a_file_that_is_no_drop_in_is_a_problem_and_not_an_exception(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "losses").mkdir()
    (tmp_path / "losses" / "broken.py").write_text(text)
    (problem,) = check_options("losses", "broken", {}, search_path=[tmp_path])
    assert "broken.py" in problem.message


def test_a_drop_in_of_the_search_path_loads(tmp_path: Path) -> None:
    (tmp_path / "losses").mkdir()
    (tmp_path / "losses" / "plain.py").write_text("def get_loss(*, a: int = 1):\n    return a")
    assert load("losses", "plain", search_path=[tmp_path])(a=3) == 3


@pytest.mark.parametrize(
    "annotation",
    ["__import__('os')", "os.PathLike", "Literal[print()]", "list[Thing]", "int if 1 else 2"],
)
def test_annotations_outside_the_whitelist_are_not_evaluated(annotation: str) -> None:
    with pytest.raises((AnnotationError, ValueError)):
        evaluate(ast.parse(annotation, mode="eval").body)


def test_an_alias_that_names_itself_is_refused() -> None:
    loop = ast.parse("A", mode="eval").body
    with pytest.raises(AnnotationError):
        evaluate(loop, {"A": loop})


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ("PositiveInt | None", "a whole number greater than 0 or null"),
        ("Sequence[Literal['a', 'b']]", "a list, each item one of a, b"),
        ("NonNegativeFloat", "a number of at least 0"),
        ("tuple[float, float]", "a list of 2 (a number, a number)"),
        ("dict[str, int]", "a section of keys"),
    ],
)
def test_types_are_said_in_plain_words(annotation: str, words: str) -> None:
    assert describe_type(evaluate(ast.parse(annotation, mode="eval").body)) == words


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_every_shipped_drop_in_can_be_set_from_a_recipe(kind: str, name: str) -> None:
    plugin = describe(kind, name)
    assert plugin.doc
    for option in plugin.options.values():
        assert option.type is not None, f"{name}.{option.name}: {option.annotation}"
        if not option.required:
            assert check_options(kind, name, {option.name: option.default}) == []


def test_listing_and_describing_loads_no_torch() -> None:
    code = (
        "import sys; from loba_tui.core import plugins\n"
        "[plugins.describe(k, n) for k in plugins.KINDS for n in plugins.names(k)]\n"
        "assert not {'torch', 'diffusers', 'peft', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
