"""What `ADAPTER@SCALE` means: several adapters at once, each at a strength of its own."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from loba_tui.core.errors import RecipeError
from loba_tui.core.run.directory import Ledger
from loba_tui.core.run.launch import Request

MOST_STRENGTH = 20.0


def split_strength(text: str, option: str = "ADAPTER@SCALE") -> tuple[str, float]:
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


def resolve_parts(
    texts: Sequence[str], *, option: str = "ADAPTER@SCALE"
) -> tuple[list[tuple[str, float]], str | None]:
    """Return the files and strengths that are meant, and the run folder of the first.

    Raises:
        LobaError: One is neither a run nor an adapter file, or not finished.
    """
    from loba_tui.client.runs import describe as listing
    from loba_tui.client.runs import foreground

    parts: list[tuple[str, float]] = []
    first = None
    for number, text in enumerate(texts):
        name, strength = split_strength(text, option)
        path = Path(name)
        if not path.exists():
            path = listing.find_run(name, Ledger.of_user(os.environ)).path
        file, run_dir = foreground.resolve_adapter(path)
        if number == 0 and run_dir is not None:
            first = str(run_dir.path)
        parts.append((str(file.absolute()), strength))
    return parts, first


def request_of(
    action: Literal["sample", "merge", "interfere"], texts: Sequence[str], **more: object
) -> Request:
    """Return the request about several adapters."""
    option = "--adapter" if action == "sample" else "ADAPTER@SCALE"
    parts, run = resolve_parts(texts, option=option)
    return Request(
        action=action,
        adapter=parts[0][0],
        run=run,
        out_dir="",
        several=tuple(parts),
        **more,  # type: ignore[arg-type]
    )
