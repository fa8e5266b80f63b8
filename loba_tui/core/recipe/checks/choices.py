"""The drop-ins that a recipe chooses, and the keys of its sections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from loba_tui.core.errors import LobaError
from loba_tui.core.plugins import Plugin, Plugins
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.method import Choice
from loba_tui.core.recipe.tree import Node

Path = tuple[str | int, ...]

# Which sections choose a drop-in, and of which kind; a list of choices is named by its own key.
CHOICES: tuple[tuple[Path, str], ...] = (
    (("base_model", "quantize"), "quantizers"),
    (("method",), "methods"),
    (("adapter",), "adapters"),
    (("optimizer",), "optimizers"),
    (("scheduler", "model"), "model"),
    (("scheduler", "layer"), "layer"),
    (("scheduler", "noise"), "noise"),
    (("scheduler", "timestep"), "timestep"),
    (("loss",), "losses"),
    (("loss", "weighting"), "weightings"),
    (("noise",), "noising"),
    (("sample", "noise"), "noise"),
    (("proof", "measure"), "measures"),
    (("proof", "preserve"), "measures"),
    (("save", "best", "measure"), "measures"),
)


def chosen_in(tree: Node) -> Iterator[tuple[Path, tuple[str, str]]]:
    """Yield the path, kind and name of every drop-in that the recipe chooses, defaults included."""
    for path, kind in CHOICES:
        node = tree.at(path)
        if node is None:
            default = default_name(path)
            if default is not None:
                yield path, (kind, default)
        elif isinstance(node.data, tuple):
            for index, item in enumerate(node.data):
                if (name := _name_of(item, None)) is not None:
                    yield (*path, index), (kind, name)
        elif (name := _name_of(node, default_name(path))) is not None:
            yield path, (kind, name)


def chosen_drop_ins(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield kind and name of every drop-in that a recipe chooses, defaults included."""
    for path, kind in CHOICES:
        node: Any = recipe
        for step in path:
            node = getattr(node, str(step), None)
        for choice in node if isinstance(node, tuple) else (node,):
            if isinstance(choice, Choice):
                yield kind, choice.name


def _name_of(node: Node, default: str | None) -> str | None:
    name = node.child("name")
    if name is None:
        return default if isinstance(node.data, dict) else None
    return name.data if isinstance(name.data, str) and name.data else None


def default_name(path: Path) -> str | None:
    """Return the drop-in that a section has when the recipe does not name one."""
    value: Any = Recipe.model_fields[str(path[0])].default
    for step in path[1:]:
        value = getattr(value, str(step), None)
    return value.name if isinstance(value, Choice) else None


def described(kind: str, name: str, plugins: Plugins) -> Plugin | None:
    """Return what a drop-in says of itself; None if there is none, or a plugin is unusable.

    What is wrong with a plugin is told where it is chosen, by `check_options`.
    """
    try:
        return plugins.describe(kind, name)
    except LobaError:
        return None


def is_choice(path: Path) -> bool:
    """Say whether a section chooses a drop-in."""
    return any(
        path == choice or path[:-1] == choice == ("proof", "preserve") for choice, _ in CHOICES
    )


def keys_of(section: Any) -> list[str]:
    """Return the keys that a section's type declares, one that may be null included."""
    while hasattr(section, "__metadata__"):
        section = section.__origin__
    for part in (section, *get_args(section)):
        if hasattr(part, "model_fields"):
            return list(part.model_fields)
    return []
