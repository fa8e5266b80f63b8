"""The parts of a recipe that the stack editor shows, and the fields of their forms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pydantic import BaseModel

from loba_tui.core.option_types import choices, describe_type, type_at
from loba_tui.core.plugins import Option
from loba_tui.core.recipe.edit import spell
from loba_tui.core.recipe.problems import ProblemsFound, dotted
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.tree import Node
from loba_tui.core.recipe.yaml_tree import read_tree
from loba_tui.core.run.control import LIVE_KEYS


@dataclass(frozen=True)
class Slot:
    """A place of the recipe with a form: a choice of drop-in, or a plain section.

    Attributes:
        kind: Of drop-in; empty for a plain section.
        section: The plan's section that shows what it does; empty for none.
    """

    path: tuple[str, ...]
    title: str
    kind: str = ""
    section: str = ""

    @property
    def id(self) -> str:
        """Return its dotted path."""
        return ".".join(self.path)


SLOTS = (
    Slot(("optimizer",), "Optimizer", "optimizers", "learning_rate"),
    Slot(("scheduler", "model"), "Learning rate", "model", "learning_rate"),
    Slot(("scheduler", "layer"), "Layers", "layer", "layers"),
    Slot(("scheduler", "noise"), "Noise", "noise", "noise"),
    Slot(("scheduler", "timestep"), "Timesteps", "timestep", "timesteps"),
    Slot(("loss",), "Loss", "losses"),
    Slot(("adapter",), "Adapter", "adapters", "layers"),
    Slot(("method",), "Method", "methods"),
    Slot(("train",), "Training", "", "learning_rate"),
)


@dataclass(frozen=True)
class Field:
    """One line of a form.

    Attributes:
        value: What holds, the default where the recipe does not say.
        is_given: The recipe's own text says it.
        is_name: It chooses the drop-in itself.
        expected: What it takes, in plain language.
        choices: Every value where they can be listed.
    """

    path: tuple[str, ...]
    label: str
    value: Any
    default: Any
    expected: str
    help: str = ""
    is_given: bool = False
    is_required: bool = False
    is_name: bool = False
    choices: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return dotted(self.path)

    @property
    def is_live(self) -> bool:
        """Say whether a running run takes a change of it."""
        return self.key in LIVE_KEYS

    @property
    def written(self) -> str:
        return written(self.value)

    def nudged(self, by: int) -> str | None:
        """Return the next value up or down as it would be typed; None where there is none."""
        value = self.value
        if self.choices:
            at = self.choices.index(self.written) if self.written in self.choices else 0
            return self.choices[(at + by) % len(self.choices)]
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if isinstance(value, int) and "whole number" in self.expected:
            return str(value + by * max(1, 10 ** (len(str(abs(value))) - 2)))
        if "from 0 to 1" in self.expected:
            return written(round(min(1.0, max(0.0, value + by * 0.05)), 4))
        return written(float(f"{value * 1.25**by:.2g}") if value else by * 0.01)


def written(value: Any) -> str:
    """Return a value as a recipe writes it on one line."""
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {written(part)}" for key, part in value.items()) + "}"
    spelled = spell(value)
    return spelled if spelled is not None else json.dumps(value, ensure_ascii=False)


def parsed(typed: str) -> Any:
    """Return what is typed as YAML means it; what is no YAML is text."""
    if not typed.strip():
        return ""
    try:
        tree, problems = read_tree(typed, "<field>")
    except ProblemsFound:
        return typed
    return typed if problems else tree.plain()


def keys_at(node: Node, path: Sequence[str]) -> tuple[str, ...]:
    """Return the keys of a section; none where it is not there."""
    for step in path:
        found = node.child(step)
        if found is None:
            return ()
        node = found
    return tuple(node.data) if isinstance(node.data, dict) else ()


def section_of(recipe: Recipe, path: Sequence[str]) -> Any:
    """Return a section of a recipe."""
    return reduce(getattr, path, recipe)


def declared_fields(slot: Slot, current: Any, given: Sequence[str]) -> list[Field]:
    """Return the keys that the section's own type has, beside the name and lists of sections."""
    found = []
    for name, field in type(current).model_fields.items():
        if name in ("name", "concepts"):
            continue
        kind = type_at(type(current), (name,))
        found.append(
            Field(
                path=(*slot.path, name),
                label=name,
                value=_plain(getattr(current, name)),
                default=None if field.is_required() else _plain(field.get_default()),
                expected=describe_type(kind),
                help=field.description or "",
                is_given=name in given,
                is_required=field.is_required(),
                choices=_listed(kind),
            )
        )
    return found


def _plain(value: Any) -> Any:
    """Return a section within a section as a table, as a recipe has it."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _listed(kind: Any) -> tuple[str, ...]:
    """Return every value of a type that has few, as a recipe writes them."""
    said = describe_type(kind)
    if said.startswith("a list"):
        return ()
    found = choices(kind)
    found += ["true", "false"] if "true or false" in said else []
    if not found:
        return ()
    return tuple([*found, "null"] if said.endswith("null") else found)


def option_field(slot: Slot, option: Option, chosen: Mapping[str, Any], *, is_given: bool) -> Field:
    """Return the field of an option of the drop-in that a slot has chosen."""
    default = list(option.default) if isinstance(option.default, tuple) else option.default
    return Field(
        path=(*slot.path, option.name),
        label=option.name,
        value=chosen.get(option.name, default),
        default=default,
        expected=option.expected,
        help=option.help,
        is_given=is_given,
        is_required=option.required,
        choices=_listed(option.type),
    )
