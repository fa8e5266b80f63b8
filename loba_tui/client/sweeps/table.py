"""The table of a sweep: as lines for reading, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from loba_tui.client.sweeps.results import FIGURES, Result
from loba_tui.client.sweeps.variants import Variant
from loba_tui.core.text import clean

_MOST_VALUE = 40
_TITLES = {
    "validation_loss": "val. loss",
    "loss": "last loss",
    "shown": "still shown",
    "others": "others ok",
}


def plan_lines(variants: Sequence[Variant], slots: Sequence[str]) -> list[str]:
    """Return the table of what will run, and where."""
    keys = list(variants[0].values)
    rows = [
        [str(number), *(_value(variant.values[key]) for key in keys)]
        for number, variant in enumerate(variants, start=1)
    ]
    steps = sorted({variant.recipe.train.steps for variant in variants})
    of_steps = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    where = f" on the slots {', '.join(slots)}" if slots else ""
    return [
        *_aligned([["run", *map(_value, keys)], *rows]),
        f"{len(variants)} runs of {of_steps} steps{where}",
    ]


def result_lines(results: Sequence[Result]) -> list[str]:
    """Return the table of a sweep's runs, and under it why some are not finished."""
    keys = list(results[0].run.values) if results else []
    shown = [key for key in FIGURES if any(key in result.figures for result in results)]
    has_outcome = any(result.outcome for result in results)
    header = ["run", *map(_value, keys), "state", "step"]
    header += ["proof"] if has_outcome else []
    rows = [[*header, *(_TITLES.get(key, key) for key in shown)]]
    for result in results:
        row = [str(result.run.number), *(_value(result.run.values.get(key, "")) for key in keys)]
        row += [result.state, f"{result.step}/{result.total}" if result.total else ""]
        row += [result.outcome] if has_outcome else []
        rows.append([*row, *(_figure(result.figures, key) for key in shown)])
    lines = _aligned(rows)
    return [*lines, *(_why(result) for result in results if _is_ended_early(result))]


def _is_ended_early(result: Result) -> bool:
    return result.state in ("stopped", "failed", "dead", "unknown")


def _why(result: Result) -> str:
    return f"run {result.run.number} is {result.state}: {result.reason}"


def _value(text: str) -> str:
    return clean(text, limit=_MOST_VALUE)


def _figure(figures: Mapping[str, float], key: str) -> str:
    return f"{figures[key]:.4g}" if key in figures else ""


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def as_csv(results: Sequence[Result]) -> str:
    """Return the table as CSV; figures that are not known are empty."""
    keys = list(results[0].run.values) if results else []
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    head = ["run", *keys, "state", "step", "total", "outcome", *FIGURES, "folder", "reason"]
    writer.writerow(map(_cell, head))
    for result in results:
        writer.writerow(
            [
                result.run.number,
                *(_cell(result.run.values.get(key, "")) for key in keys),
                result.state,
                result.step,
                result.total,
                result.outcome,
                *(result.figures.get(key, "") for key in FIGURES),
                _cell(result.run.run.name),
                _cell(result.reason),
            ]
        )
    return stream.getvalue()


def _cell(text: str) -> str:
    """Return text that a spreadsheet does not take for a formula; numbers stay numbers."""
    shown = clean(text)
    try:
        float(shown)
    except ValueError:
        return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown
    return shown
