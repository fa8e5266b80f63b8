"""Options that a factory takes as one frozen dataclass are read as if they were parameters."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from loba_tui.core.plugins import Plugins
from loba_tui.core.plugins.user import UserPlugins

IN_CLASSES = '''
"""A loss whose options are a dataclass with bases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import PositiveFloat

Way = Literal["up", "down"]
DEFAULT_RATE = 0.5


class Plain:
    ignored: int = 0


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Options of several.

    Attributes:
        rate: How fast.
        way: Where to.
    """

    rate: PositiveFloat = DEFAULT_RATE
    way: Way = "up"


@dataclass(frozen=True, kw_only=True)
class Own(Shared, Plain):
    """Options of this one.

    Attributes:
        delta: Where the line
            bends.
        way: Where else to.
    """

    unit: ClassVar[str] = "m"
    way: Way = "down"
    delta: PositiveFloat


def get_loss(*, factor: float = 1.0, options: Own):
    """Return a loss.

    Args:
        factor: Multiplies it.
        options: See there.
    """
    return lambda given, wanted: (factor, options)
'''

AS_PARAMETERS = '''
"""The same as parameters."""

from typing import Literal

Way = Literal["up", "down"]


def get_loss(*, factor: float = 1.0, delta: PositiveFloat, rate: PositiveFloat = 0.5,
             way: Way = "down"):
    """Return a loss.

    Args:
        factor: Multiplies it.
        delta: Where the line bends.
        rate: How fast.
        way: Where else to.
    """
'''


@pytest.fixture
def mine(tmp_path: Path) -> Plugins:
    folder = tmp_path / "loba" / "plugins"
    (folder / "losses").mkdir(parents=True, mode=0o700)
    return Plugins(UserPlugins(folder, folder.parent / "trusted.json"))


def put(mine: Plugins, name: str, text: str) -> None:
    assert mine.user.folder is not None
    path = mine.user.folder / "losses" / f"{name}.py"
    path.write_text(text)
    path.chmod(0o600)
    mine.user.trust(mine.user.read("losses", name))


def test_fields_are_options_exactly_as_parameters_are(mine: Plugins) -> None:
    put(mine, "classes", IN_CLASSES)
    put(mine, "parameters", AS_PARAMETERS)
    found, wanted = (mine.describe("losses", name).options for name in ("classes", "parameters"))
    assert list(found.items()) == list(wanted.items())


def test_the_factory_is_given_an_object_made_of_the_fields(mine: Plugins) -> None:
    put(mine, "classes", IN_CLASSES)
    make = mine.load("losses", "classes")
    factor, options = make(factor=2.0, delta=3.0, way="up")(0, 0)
    assert (factor, options.delta, options.way, options.rate) == (2.0, 3.0, "up", 0.5)
    shown = inspect.signature(make).parameters
    assert set(shown) == set(mine.describe("losses", "classes").options)


def test_what_is_wrong_with_a_field_is_said_as_of_a_parameter(mine: Plugins) -> None:
    put(mine, "classes", IN_CLASSES)
    found = mine.check_options("losses", "classes", {"way": "dawn", "rat": 1})
    assert [(problem.key_path, problem.suggestion) for problem in found] == [
        (("delta",), None),
        (("way",), "down"),
        (("rat",), "rate"),
    ]


def test_a_base_is_read_from_the_package_without_importing_it(mine: Plugins) -> None:
    put(
        mine,
        "inherits",
        '"""Shares an option."""\n'
        "from dataclasses import dataclass\n"
        "from loba_tui.core.plugins.options import Option as Shared\n"
        "from no_such_package import Other\n"
        "@dataclass(frozen=True)\n"
        "class Own(Shared, Other):\n"
        "    delta: float = 0.5\n"
        "def get_loss(*, options: Own): ...\n",
    )
    plugin = mine.describe("losses", "inherits")
    assert list(plugin.options) == [
        "delta",
        "name",
        "annotation",
        "default",
        "required",
        "type",
        "help",
    ]
    assert plugin.options["help"].help.startswith("What the docstring says")


@pytest.mark.parametrize(
    "text",
    [
        "class A(B): ...\nclass B(A): ...\ndef get_loss(*, options: A): ...\n",
        "class A: ...\ndef get_loss(*, options: A): ...\n",
        "from os import A\ndef get_loss(*, options: A): ...\n",
        "from loba_tui.core.no_such import A\ndef get_loss(*, options: A): ...\n",
    ],
    ids=["a circle", "no dataclass", "of another package", "of no module"],
)
def test_another_class_makes_it_a_parameter_that_recipes_cannot_give(
    mine: Plugins, text: str
) -> None:
    put(mine, "odd", text)
    plugin = mine.describe("losses", "odd")
    assert list(plugin.options) == ["options"]
    (problem,) = mine.check_options("losses", "odd", {"options": 1})
    assert "cannot be set from a recipe" in problem.message
