"""`loba recipe import`: which tool files are of, and the recipe that they come to.

recognised(path)            the tool that a file is of, for whoever meets it elsewhere
import_recipe(paths, words) the recipe's text, with what could not be carried over
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.sources import (
    ForeignFile,
    read_foreign,
    read_words,
    tell_of_secrets,
)
from loba_tui.client.recipes.imports.tools import (
    ai_toolkit,
    concept_sliders,
    onetrainer,
    simpletuner,
)
from loba_tui.client.recipes.imports.tools.kohya import tool as kohya
from loba_tui.client.recipes.imports.written import nested, recipe_text
from loba_tui.core.errors import LobaError, RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.recipe.checks.recipe import check_tree
from loba_tui.core.recipe.load import check_text
from loba_tui.core.recipe.problems import Place, Problem
from loba_tui.core.recipe.schema import RECIPE_VERSION
from loba_tui.core.recipe.tree import node_of
from loba_tui.core.text import clean

_MOST_ROUNDS = 8


class Tool(Protocol):
    """A trainer whose configurations can be read."""

    @property
    def name(self) -> str:
        """Name for messages."""

    def evidence(self, file: ForeignFile) -> str:
        """Return what in a file tells that it is one of this tool's; empty where nothing does."""

    def also_reads(self, file: ForeignFile) -> bool:
        """Say whether a file has a meaning beside this tool's own, such as flags."""

    def read(self, files: Sequence[ForeignFile]) -> Draft:
        """Return the recipe that the files of one configuration come to.

        Raises:
            RecipeError: They train what cannot be trained here, or leave out what is needed.
        """


# The first that recognises a file has it: those with keys of their own come first.
TOOLS: tuple[Tool, ...] = (
    ai_toolkit.AiToolkit(),
    onetrainer.OneTrainer(),
    simpletuner.SimpleTuner(),
    concept_sliders.ConceptSliders(),
    kohya.Kohya(),
)


@dataclass(frozen=True)
class Imported:
    """A recipe made from another tool's configuration.

    Attributes:
        text: Valid YAML with comments.
    """

    text: str
    draft: Draft


def tool_of(file: ForeignFile) -> Tool | None:
    """Return the tool that a file is of, or None."""
    return next((tool for tool in TOOLS if tool.evidence(file)), None)


def recognised(path: Path) -> str | None:
    """Return the name of the tool that a file is of; None where it is none that is known."""
    try:
        file = read_foreign(path)
    except LobaError:
        return None
    if "base_model" in file.mapping:
        return None
    tool = tool_of(file)
    return tool.name if tool is not None else None


def foreign_problem(path: Path) -> Problem | None:
    """Return the one problem of a file that is no recipe but another tool's; else None."""
    name = recognised(path)
    if name is None:
        return None
    message = (
        f"this looks like a configuration of {name}; turn it into a recipe with:"
        f" loba recipe import {clean(path)}"
    )
    return Problem(str(path), 0, 0, "", message)


def import_recipe(paths: Sequence[Path], words: Sequence[str], plugins: Plugins) -> Imported:
    """Return the recipe that files, folders and flags of one tool come to.

    Raises:
        RecipeError: They are of no tool that is known, of two, or of what cannot be trained here.
    """
    files = [read_foreign(path) for path in paths]
    if words:
        files.append(read_words(list(words)))
    draft = _tool_of_all(files).read(files)
    for file in files:
        tell_of_secrets(file, draft)
    _keep_valid(draft, plugins)
    text = recipe_text(draft, [file.name for file in files])
    remaining = check_text(text, "<imported>", plugins=plugins)
    if remaining:
        raise RecipeError(
            f"This configuration of {draft.tool} makes no recipe: {remaining[0].key}:"
            f" {remaining[0].text}",
            "Add the file that says it, or write the recipe by hand: loba recipe new NAME",
        )
    return Imported(text, draft)


def _tool_of_all(files: Sequence[ForeignFile]) -> Tool:
    told = [(file, tool) for file in files if (tool := tool_of(file)) is not None]
    if not told and any(file.format == "folder" for file in files):
        raise RecipeError(
            "A folder alone is no configuration.",
            "Name the settings too, as in: loba recipe import FOLDER -- --network_dim 16 …",
        )
    found = {tool.name: tool for _, tool in told}
    for tool in found.values():
        if all(each is tool or tool.also_reads(file) for file, each in told):
            _check_others(files, tool)
            return tool
    if not found:
        raise _unknown(files[0])
    raise RecipeError(
        f"These files are of different tools: {', '.join(found)}.",
        "Import the files of one at a time.",
    )


def _check_others(files: Sequence[ForeignFile], tool: Tool) -> None:
    """Raise RecipeError for a file that means nothing to the tool that the others are of."""
    for file in files:
        is_plain = file.format in ("lines", "folder")
        if not is_plain and not tool.evidence(file) and not tool.also_reads(file):
            raise _unknown(file)


def _unknown(file: ForeignFile) -> RecipeError:
    return RecipeError(
        f"{clean(file.name)}: not a configuration of a tool that is known.",
        f"Known are: {', '.join(tool.name for tool in TOOLS)}.",
    )


def _keep_valid(draft: Draft, plugins: Plugins) -> None:
    """Take out what a recipe cannot have, and tell of it with the check's own reason."""
    for _ in range(_MOST_ROUNDS):
        tree = node_of({"version": RECIPE_VERSION, **nested(draft.values)}, Place("<imported>"))
        reasons: dict[tuple[str, int], str] = {}
        for problem in check_tree(tree, plugins)[1]:
            place = _place(draft, problem)
            if place is not None:
                reasons.setdefault(place, problem.text)
        # From the end of each list, as what follows an item moves up.
        for (key, index), reason in sorted(reasons.items(), reverse=True):
            if index >= 0:
                draft.drop_item(key, index, reason)
            else:
                draft.drop(key, reason)
        if not reasons:
            return


def _place(draft: Draft, problem: Problem) -> tuple[str, int] | None:
    """Return the key that a problem is with, and the item of its list or -1; None for no value."""
    steps = problem.key.split(".")
    for length in range(len(steps), 0, -1):
        key = ".".join(steps[:length])
        held = draft.values.get(key)
        if isinstance(held, list) and length < len(steps) and steps[length].isdecimal():
            index = int(steps[length])
            if index < len(held) and isinstance(held[index], dict):
                return key, index
        if held is not None:
            return key, -1
    below = any(key.startswith(f"{problem.key}.") for key in draft.values)
    return (problem.key, -1) if below and not problem.message.startswith("missing") else None
