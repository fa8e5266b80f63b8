"""The editor's view of a recipe: the drop-ins that it chooses, as forms, and changes with undo.

Every form is made from what the drop-in's own file says (signature and docstring), so a plugin of
the user has one too. The text stays the recipe's own: a change touches one key, and only a change
that is valid is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loba_tui.core.errors import LobaError, RecipeError
from loba_tui.core.plugins import KINDS, Plugin, Plugins
from loba_tui.core.recipe.checks.choices import default_name
from loba_tui.core.recipe.diff import differences, text_diff
from loba_tui.core.recipe.edit import delete_key, set_key
from loba_tui.core.recipe.load import parse_text
from loba_tui.core.recipe.problems import Problem, ProblemsFound, dotted
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.tree import Node
from loba_tui.core.recipe.yaml_tree import read_tree
from loba_tui.core.run.control import LIVE_KEYS
from loba_tui.core.text import clean, offer
from loba_tui.screens.stack.fields import (
    SLOTS,
    Field,
    Slot,
    declared_fields,
    keys_at,
    option_field,
    parsed,
    section_of,
    written,
)


class StackModel:
    """A recipe's text under edit; errors call it by its origin, the file's name.

    Raises:
        ProblemsFound: The text is not a valid recipe, and forms cannot be made of it.
    """

    def __init__(self, text: str, origin: str, *, plugins: Plugins) -> None:
        self.origin, self.plugins = origin, plugins
        self.saved = text
        self.text = text
        self.recipe = parse_text(text, origin, plugins=plugins)
        self._past: list[tuple[str, str]] = []  # texts, and which change was made to each
        self._read: tuple[str, Node] | None = None
        self._described: dict[tuple[str, str], Plugin] = {}

    @property
    def is_changed(self) -> bool:
        return self.text != self.saved

    @property
    def diff(self) -> list[str]:
        """Return what saving would change, as lines of a diff."""
        return text_diff(self.saved, self.text)

    # Forms

    def fields(self, slot: Slot) -> list[Field]:
        """Return a slot's form: the choice first, then the keys of its section, then options."""
        given = self._given(slot.path)
        current = section_of(self.recipe, slot.path)
        found: list[Field] = []
        if slot.kind:
            name = default_name(slot.path)
            names = tuple(self.plugins.names(slot.kind))
            found.append(
                Field(
                    path=(*slot.path, "name"),
                    label=KINDS[slot.kind].noun,
                    value=current.name,
                    default=name,
                    expected=f"one of {len(names)}",
                    help=self.summary(slot.kind, current.name),
                    is_given="name" in given,
                    is_required=name is None,
                    is_name=True,
                    choices=names,
                )
            )
        found += declared_fields(slot, current, given)
        if slot.kind:
            known = {field.path[-1] for field in found}
            options = self._describe(slot.kind, current.name).options.values()
            found += [
                option_field(slot, option, current.options, is_given=option.name in given)
                for option in options
                if option.name not in known and option.type is not None
            ]
        return found

    def summary(self, kind: str, name: str) -> str:
        """Return the first line of a drop-in's documentation, or what is wrong with it."""
        try:
            plugin = self._describe(kind, name)
        except LobaError as error:
            return clean(error.message)
        return clean(plugin.doc.partition("\n")[0], limit=160)

    # Changes

    def check(self, field: Field, typed: str) -> str:
        """Return what is wrong with a value for a field, or ""; nothing is changed."""
        try:
            self._checked(self._with(field, typed)[0], field.path)
        except LobaError as error:
            return str(error)
        return ""

    def set(self, field: Field, typed: str) -> list[str]:
        """Give a field a value, written as in a recipe, and say what else that changed.

        Raises:
            RecipeError: The value does not fit; with what is expected and the nearest valid one.
        """
        value = parsed(typed)
        if field.is_given and value == field.value:
            return []
        text, said = self._with(field, typed)
        self._take(text, self._checked(text, field.path), f"{field.key} to {written(value)}")
        return said

    def unset(self, field: Field) -> None:
        """Take a key out of the recipe, so that its default holds.

        Raises:
            RecipeError: It has no default.
        """
        if field.is_required:
            raise RecipeError(f"{field.key} has no default.")
        if field.is_given:
            text = delete_key(self.text, field.path, origin=self.origin)
            self._take(text, self._checked(text, field.path), f"{field.key} to its default")

    def undo(self) -> str | None:
        """Go back by one change and say which it was; None where there is none."""
        if not self._past:
            return None
        self.text, what = self._past.pop()
        self.recipe = parse_text(self.text, self.origin, plugins=self.plugins)
        return what

    def live_changes(self, other: Recipe) -> tuple[list[tuple[str, Any]], list[str]]:
        """Return what changes a run of `other` to this recipe, and keys that cannot be changed."""
        found = differences(other, self.recipe)
        able = [(each.key, each.sides.get("right")) for each in found if each.key in LIVE_KEYS]
        unable = [each.key for each in found if each.key not in LIVE_KEYS and each.key != "name"]
        return able, unable

    def _with(self, field: Field, typed: str) -> tuple[str, list[str]]:
        text, value = self.text, parsed(typed)
        said: list[str] = []
        if field.is_name and isinstance(value, str):
            text, said = self._without_foreign_options(field, value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        spelled = typed.strip() if is_number else None  # 5.0e-4 stays 5.0e-4
        text = set_key(text, field.path, value, origin=self.origin, spelled=spelled)
        return text, said

    def _without_foreign_options(self, field: Field, name: str) -> tuple[str, list[str]]:
        """Return the text without the options that a drop-in of another name does not have."""
        slot = next(slot for slot in SLOTS if slot.path == field.path[:-1])
        if name not in field.choices:
            return self.text, []  # the check says so, with the nearest name
        plugin = self._describe(slot.kind, name)
        known = {"name", "concepts", *type(section_of(self.recipe, slot.path)).model_fields}
        gone = [
            key
            for key in self._given(slot.path)
            if key not in plugin.options and key not in known and not plugin.takes_any_option
        ]
        text = self.text
        for key in gone:
            # The section must not go with its last option: the name is about to stand there.
            if "name" not in keys_at(read_tree(text, self.origin)[0], slot.path):
                text = set_key(text, (*slot.path, "name"), name, origin=self.origin)
            text = delete_key(text, (*slot.path, key), origin=self.origin)
        return text, [f"{name} has no {key}, so that was taken out" for key in gone]

    def _checked(self, text: str, path: Sequence[str]) -> Recipe:
        """Return a text's recipe; where it has none, raise what is wrong with the key at `path`."""
        try:
            return parse_text(text, self.origin, plugins=self.plugins)
        except ProblemsFound as error:
            problems = error.problems
        first = next((each for each in problems if _is_about(each, path)), problems[0])
        about = "" if first.key == dotted(path) else f"{first.key}: "
        raise RecipeError(clean(f"{about}{first.message}"), offer(first.suggestion))

    def _take(self, text: str, recipe: Recipe, what: str) -> None:
        self._past.append((self.text, what))
        self.text, self.recipe = text, recipe

    def _given(self, path: Sequence[str]) -> tuple[str, ...]:
        """Return the keys that a section has in the text as it is now, which is read once."""
        if self._read is None or self._read[0] != self.text:
            self._read = (self.text, read_tree(self.text, self.origin)[0])
        return keys_at(self._read[1], path)

    def _describe(self, kind: str, name: str) -> Plugin:
        """Return what a drop-in says of itself; its file is read once."""
        if (kind, name) not in self._described:
            self._described[kind, name] = self.plugins.describe(kind, name)
        return self._described[kind, name]


def _is_about(problem: Problem, path: Sequence[str]) -> bool:
    key = dotted(path)
    return problem.key == key or problem.key.startswith(f"{key}.")
