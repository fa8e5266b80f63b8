"""Drop-in files: list and describe them by their syntax alone, check options, load one by name.

A drop-in is one Python file with one factory. The factory's keyword-only parameters are the options
that a recipe can give; positional parameters are what the program supplies.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from loba_tui.core.errors import ExitCode, LobaError, RecipeError, RefusedError
from loba_tui.core.option_types import describe_type, type_at
from loba_tui.core.plugins.loading import load_factory, taking_options
from loba_tui.core.plugins.meant import meant_name, meant_value
from loba_tui.core.plugins.options import Option
from loba_tui.core.plugins.syntax import KINDS, Plugin, parse
from loba_tui.core.plugins.user import UserPlugins, is_plugin_name
from loba_tui.core.text import clean, nearest, offer, quote

__all__ = [
    "KINDS",
    "SHIPPED",
    "Option",
    "OptionProblem",
    "Plugin",
    "Plugins",
    "existing_path",
    "parse",
]


_NOT_FOR_STRANGERS = "a plugin of yours; a recipe from elsewhere gets shipped drop-ins only"
_PROGRAM = Path(__file__).parents[1] / "program"


@dataclass(frozen=True)
class OptionProblem:
    """Something wrong with a choice of drop-in; `key_path` is relative to the choice's section.

    Attributes:
        refused: It is a matter of safety: a plugin that is not enabled.
    """

    key_path: tuple[str | int, ...]
    message: str
    suggestion: str | None = None
    refused: bool = False


@dataclass(frozen=True)
class Plugins:
    """The drop-ins that a recipe can choose from: the shipped ones and the user's own.

    Attributes:
        user: The user's own; a shipped name cannot be replaced from there.
        takes_users: False for a recipe from elsewhere, which gets shipped drop-ins only.
    """

    user: UserPlugins
    takes_users: bool = True

    @classmethod
    def of_user(cls, environ: Mapping[str, str]) -> Plugins:
        """Return the shipped drop-ins and those in the user's plugin folder."""
        return cls(UserPlugins.of_user(environ))

    def for_strangers(self) -> Plugins:
        """Return these for a recipe from elsewhere: the user's own are refused, trusted or not."""
        return replace(self, takes_users=False)

    def names(self, kind: str) -> list[str]:
        """Return the drop-ins of a kind (a key of `KINDS`) by name, sorted."""
        return sorted(self._files(kind))

    def is_shipped(self, kind: str, name: str) -> bool:
        """Say whether a drop-in comes with the package."""
        return name in _shipped_files(kind)

    def describe(self, kind: str, name: str) -> Plugin:
        """Read a drop-in's docstring, options and literal constants from its syntax tree.

        Raises:
            RecipeError: There is no such drop-in, or the file does not define its factory.
        """
        path = self._find(kind, name)
        if self.is_shipped(kind, name):
            return parse(kind, name, path, path.read_bytes())
        return parse(kind, name, path, self.user.read(kind, name).content, origin="user")

    def load(self, kind: str, name: str) -> Callable[..., Any]:
        """Import a drop-in and return its factory, which takes every option by its own name.

        This is where torch may be loaded.

        Raises:
            RecipeError: There is no such drop-in, or a plugin does not run.
            RefusedError: A plugin is not trusted as it is now.
        """
        path = self._find(kind, name)
        if not self.is_shipped(kind, name):
            if not self.takes_users:
                raise RefusedError(f"{kind}/{clean(name)}: {_NOT_FOR_STRANGERS}")
            file = self.user.read(kind, name)
            self.user.require_trust(file)
            factory = load_factory(file, KINDS[kind].factory)
            plugin = parse(kind, name, path, file.content, origin="user")
            return taking_options(factory, plugin.options_class)
        plugin = self.describe(kind, name)
        folder = KINDS[kind].folder.replace("/", ".")
        module = importlib.import_module(f"loba_tui.core.program.{folder}.{name}")
        return taking_options(getattr(module, plugin.factory), plugin.options_class)

    def check_options(self, kind: str, name: str, given: Mapping[str, Any]) -> list[OptionProblem]:
        """Return everything wrong with choosing `name` and giving it these options."""
        known = self.names(kind)
        if name not in known:
            near = meant_name(name, known)
            listed = "" if near else f"; there is {', '.join(known)}"
            message = f"there is no {KINDS[kind].noun} called {quote(name)}{listed}"
            return [OptionProblem(("name",), message, near)]
        if not self.takes_users and not self.is_shipped(kind, name):
            return [OptionProblem(("name",), _NOT_FOR_STRANGERS, refused=True)]
        try:
            plugin = self.describe(kind, name)
            shipped = plugin.origin == "shipped"
            refusal = "" if shipped else self.user.refusal(self.user.read(kind, name))
        except LobaError as error:
            is_refused = error.exit_code == ExitCode.REFUSED
            return [OptionProblem(("name",), error.message, refused=is_refused)]
        refused = [OptionProblem(("name",), refusal, refused=True)] if refusal else []
        return refused + _option_problems(plugin, given)

    def _files(self, kind: str) -> dict[str, Path]:
        return {**self.user.files(kind), **_shipped_files(kind)}

    def _find(self, kind: str, name: str) -> Path:
        files = self._files(kind)
        if name not in files:
            raise RecipeError(
                f"there is no {KINDS[kind].noun} called {quote(name)}",
                offer(meant_name(name, files)) or f"There is {', '.join(sorted(files))}.",
            )
        return files[name]


SHIPPED = Plugins(UserPlugins())
"""The shipped drop-ins and no others."""


def _shipped_files(kind: str) -> dict[str, Path]:
    found = (_PROGRAM / KINDS[kind].folder).glob("*.py")
    return {path.stem: path for path in found if is_plugin_name(path.stem)}


def _option_problems(plugin: Plugin, given: Mapping[str, Any]) -> list[OptionProblem]:
    problems = [
        OptionProblem((option.name,), f"{plugin.name} needs this option: {option.expected}")
        for option in plugin.options.values()
        if option.required and option.name not in given
    ]
    for key, value in given.items():
        if key in plugin.options:
            problems += _check_value(plugin.options[key], value)
        elif not plugin.takes_any_option:
            listed = f"it has {', '.join(plugin.options)}" if plugin.options else "it has none"
            suggestion = nearest(key, plugin.options)
            message = f"not an option of {plugin.name}" + ("" if suggestion else f" ({listed})")
            problems.append(OptionProblem((key,), message, suggestion))
    return problems


def _check_value(option: Option, value: Any) -> list[OptionProblem]:
    if option.type is None:
        message = f"cannot be set from a recipe: its type is {option.annotation or 'not given'}"
        return [OptionProblem((option.name,), message)]
    try:
        TypeAdapter(option.type).validate_python(value)
    except ValidationError as error:
        found: dict[tuple[str | int, ...], OptionProblem] = {}
        for detail in error.errors(include_url=False, include_context=False):
            path, part = existing_path(detail["loc"], value)
            part_type = type_at(option.type, path)
            message = f"expected {describe_type(part_type)}, got {quote(part)}"
            key_path = (option.name, *path)
            suggestion = meant_value(part, part_type)
            found.setdefault(key_path, OptionProblem(key_path, message, suggestion))
        return list(found.values())
    # Where the default lists something, an empty list is an oversight: layers: [] trains nothing.
    if isinstance(value, list | tuple) and not value and option.default:
        return [OptionProblem((option.name,), f"expected {option.expected}, got an empty list")]
    return []


def existing_path(location: Sequence[str | int], value: Any) -> tuple[tuple[str | int, ...], Any]:
    """Return the part of a pydantic location that names keys and items, and the value there.

    Locations also name the members of a union, which mean nothing to the recipe's author.
    """
    path: list[str | int] = []
    for step in location:
        is_key = isinstance(value, dict) and step in value
        is_item = isinstance(value, list | tuple) and isinstance(step, int) and step < len(value)
        if is_key or is_item:
            value = value[step]
            path.append(step)
    return tuple(path), value
