"""The variants of a sweep: what `--vary` says, multiplied out, and checked before any starts."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loba_tui.client.runs.start import with_named_run
from loba_tui.core.errors import RecipeError, RefusedError
from loba_tui.core.plugins import Plugins
from loba_tui.core.recipe.load import load_recipe
from loba_tui.core.recipe.problems import Problem, ProblemsFound
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import Ledger
from loba_tui.core.text import clean, counted

FEW_RUNS = 64
"""More runs than this are asked for by a slip more often than they are meant."""
MOST_RUNS = 10_000

_OPENING, _CLOSING = "[{(", "]})"


@dataclass(frozen=True)
class Variant:
    """One run of a sweep: the values as they were written, by key, and the recipe with them."""

    values: Mapping[str, str]
    recipe: Recipe


def parse_vary(options: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the values of `KEY=A,B` by key; commas in brackets or quotes part nothing.

    Raises:
        RecipeError: One is no such assignment, has a value twice, or repeats a key.
    """
    found: dict[str, tuple[str, ...]] = {}
    for option in options:
        key, equals, text = option.partition("=")
        key = key.strip()
        shown = clean(option, limit=100)
        values = _split(text)
        if not key or not equals or not all(values):
            raise RecipeError(
                f"--vary {shown}: expected KEY=VALUE,VALUE.", "As in --vary optimizer.lr=1e-3,2e-3"
            )
        if key in found:
            raise RecipeError(
                f"--vary {shown}: {clean(key)} varies twice.",
                f"Put all its values into one: --vary {clean(key)}=A,B,C",
            )
        twice = next((each for each in values if values.count(each) > 1), None)
        if twice is not None:
            raise RecipeError(f"--vary {shown}: the value {clean(twice)} is there twice.")
        found[key] = values
    if not found:
        raise RecipeError("Nothing varies.", "Say what does: --vary optimizer.lr=1e-3,2e-3")
    return found


def _split(text: str) -> tuple[str, ...]:
    """Split at commas that stand outside brackets and quotes."""
    parts, depth, quoted = [""], 0, ""
    for character in text:
        if quoted:
            quoted = "" if character == quoted else quoted
        elif character in "'\"" and not parts[-1].strip():
            quoted = character  # an apostrophe within a word is none
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character == "," and depth <= 0:
            parts.append("")
            continue
        parts[-1] += character
    return tuple(part.strip() for part in parts)


def combine(vary: Mapping[str, Sequence[str]], *, zipped: bool) -> list[dict[str, str]]:
    """Return the values of every run, the last key varying fastest.

    Args:
        zipped: Take the first value of every key, then the second, instead of all combinations.

    Raises:
        RecipeError: The keys have different numbers of values, so that they cannot be zipped.
        RefusedError: There are more runs than MOST_RUNS.
    """
    counts = [len(values) for values in vary.values()]
    if zipped and len(set(counts)) > 1:
        told = ", ".join(f"{clean(key)} has {len(values)}" for key, values in vary.items())
        raise RecipeError(
            f"--zip takes as many values of each key: {told}.",
            "Give each as many, or leave out --zip to have all combinations.",
        )
    total = counts[0] if zipped else math.prod(counts)
    if total > MOST_RUNS:
        raise RefusedError(f"This is {total:,} runs; a sweep has at most {MOST_RUNS:,}.")
    rows = zip(*vary.values(), strict=True) if zipped else itertools.product(*vary.values())
    return [dict(zip(vary, row, strict=True)) for row in rows]


def require_meant(num_runs: int, *, yes: bool) -> None:
    """Refuse a number of runs that is probably a slip, unless the user has said yes.

    Raises:
        RefusedError: There are more than FEW_RUNS, and no yes.
    """
    if num_runs > FEW_RUNS and not yes:
        raise RefusedError(
            f"Nothing is started: this is {counted(num_runs, 'run')}.",
            "Add --yes if they are all meant, or --zip to take the values side by side.",
        )


def load_variants(
    path: Path,
    rows: Sequence[Mapping[str, str]],
    overrides: Sequence[str],
    *,
    plugins: Plugins,
) -> list[Variant]:
    """Return every variant of a recipe file.

    Raises:
        ProblemsFound: Everything that is wrong with any of them, each problem once.
        RefusedError: Something looks like an access token.
    """
    found: list[Variant] = []
    problems: list[Problem] = []
    for row in rows:
        varied = [f"{key}={value}" for key, value in row.items()]
        try:
            recipe = load_recipe(path, [*overrides, *varied], plugins=plugins)
        except ProblemsFound as error:
            problems += [_as_varied(problem, varied) for problem in error.problems]
        else:
            found.append(Variant(row, recipe))
    if problems:
        raise ProblemsFound(problems)
    return found


def _as_varied(problem: Problem, varied: Sequence[str]) -> Problem:
    """Return a problem of an assignment under the option that it was given with."""
    for assignment in varied:
        if problem.file == "--set " + clean(assignment, limit=100):
            return replace(problem, file="--vary " + clean(assignment, limit=100))
    return problem


def with_named_runs(variants: Sequence[Variant], path: Path, ledger: Ledger) -> list[Variant]:
    """Return the variants with the adapter file of each run that one begins with by its name.

    Raises:
        LobaError: There is no such run, or it has no adapter yet.
    """
    return [replace(each, recipe=with_named_run(each.recipe, path, ledger)) for each in variants]


def check_name(name: str) -> None:
    """Refuse a name for a sweep's folder that is no plain file name.

    Raises:
        RecipeError: It is none.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", name):
        raise RecipeError(
            f"--name {clean(name, limit=80)}: a sweep's name is one of a folder.",
            "Take letters, digits, dots, dashes and underscores.",
        )
