"""Find the run, the adapter file and the strength that a user means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from loba_tui.core.errors import CorruptError, RecipeError, RefusedError
from loba_tui.core.run.directory import Ledger, RunDir, run_of
from loba_tui.core.text import clean, did_you_mean

UNSAFE_SUFFIXES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
MOST_STRENGTH = 20.0

_Found = TypeVar("_Found")


def find_run(wanted: str, ledger: Ledger) -> RunDir:
    """Return the run meant by a folder, the start of a known run's name, or `last`.

    Raises:
        RecipeError: There is no such run.
    """
    if Path(wanted).exists():
        return RunDir.open(wanted)
    return find_named(wanted, {run_dir.name: run_dir for run_dir in ledger.runs()}, kind="run")


def find_named(wanted: str, known: Mapping[str, _Found], *, kind: str) -> _Found:
    """Return what is meant by a name, by the start of only one, or by `last`.

    Args:
        known: By name, the newest last.
        kind: What they are, in the singular; `loba <kind>s ls` lists them.

    Raises:
        RecipeError: It is the name of none, or the start of several.
    """
    if wanted in known:
        return known[wanted]
    if wanted == "last" and known:
        return list(known.values())[-1]
    begun = [name for name in known if name.startswith(wanted)] if wanted else []
    if len(begun) == 1:
        return known[begun[0]]
    if begun:
        shown = ", ".join(map(clean, begun[-4:]))
        raise RecipeError(f"{clean(wanted)} is the start of several {kind}s: {shown}.", "Say more.")
    raise RecipeError(
        f"There is no {kind} called {clean(wanted)}.",
        did_you_mean(wanted, known, f"`loba {kind}s ls` lists the known {kind}s."),
    )


def resolve_adapter(wanted: Path) -> tuple[Path, RunDir | None]:
    """Return the adapter file meant by a run folder, a PEFT folder or a file, and the run.

    Raises:
        LobaError: It is neither, it is not finished, or its format is unsafe.
    """
    if wanted.is_dir():
        weights = wanted / "adapter_model.safetensors"
        if weights.is_file() and (wanted / "adapter_config.json").is_file():
            return weights.absolute(), run_of(weights)  # a folder of PEFT's
        run_dir = RunDir.open(wanted)
        if not run_dir.adapter.is_there():
            raise unfinished(run_dir)
        return run_dir.adapter.path, run_dir
    if wanted.suffix.lower() in UNSAFE_SUFFIXES:
        raise RefusedError(
            f"{wanted}: files of this kind can run code when they are loaded, so they are refused.",
            "Convert it to .safetensors with a tool that you trust.",
        )
    if not wanted.is_file():
        raise RecipeError(
            f"{wanted}: there is no such run folder or adapter file.",
            "Give the folder that `loba run` printed, or an adapter.safetensors.",
        )
    # A file inside a run folder belongs to that run.
    return wanted.absolute(), run_of(wanted)


def unfinished(run_dir: RunDir) -> CorruptError:
    """Return the error of a run that has no adapter yet."""
    shown = clean(run_dir.path)
    return CorruptError(
        f"{shown} holds no finished adapter.",
        f"Continue the run first: loba run --resume {shown}",
    )


def split_strength(text: str, option: str) -> tuple[str, float]:
    """Return the adapter and the strength of `a@1.5`; a name without one is at 1.

    Raises:
        RecipeError: The strength is out of range, or nothing is before it.
    """
    name, at, number = text.rpartition("@")
    try:
        strength = float(number) if at else math.nan
    except ValueError:
        strength = math.nan
    if math.isnan(strength):
        if at and number.strip().lower() == "nan":
            raise RecipeError(f"{option}: {text}: nan is not a strength.")
        return text, 1.0
    if not name or not abs(strength) <= MOST_STRENGTH:
        raise RecipeError(
            f"{option}: {text}: a strength lies between -{MOST_STRENGTH:g} and {MOST_STRENGTH:g}.",
            "As in size-slider@1.5 or path/to/adapter.safetensors@-1",
        )
    return name, strength
