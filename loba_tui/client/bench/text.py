"""The figures of a benchmark as lines: a row as soon as it is there, a table, a text to share."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loba_tui.core.text import clean, counted
from loba_tui.core.units import show_estimate, show_memory

_HEADS = ("s/step", "samples/s", "rows/s", "of peak", "memory (plan)", "{reads}", "ops", "start")
_LETTERS = string.ascii_uppercase
_NO_FIGURE = "-"
_OUTCOMES = {
    "out_of_memory": "out of memory",
    "too_large": "too large",
    "no_time": "not measured",
    "failed": "failed",
}


def row_line(row: Mapping[str, Any]) -> str:
    """Return what a configuration came to, in one line."""
    name = clean(row["name"], limit=120)
    if row["outcome"] != "measured":
        return f"{name}: {_why(row)}"
    seconds = row["seconds_per_step"]["median"]
    return f"{name}: {_seconds(seconds)} s a step, {_number(row['samples_per_second'])} samples/s"


def table_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the figures of all configurations, and what follows from them."""
    yield from _model_lines(found)
    yield ""
    yield from _table(found["configurations"], is_cpu=found["machine"]["device_type"] != "cuda")
    yield ""
    yield from _conclusions(found)
    for note in found["notes"]:
        yield f"note: {clean(note)}"


def share_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the same for others to read: nothing in it names this machine or its user."""
    machine = found["machine"]
    versions = [f"LOBA-Trainer {clean(machine['loba'])}", f"torch {clean(machine['torch'])}"]
    if machine.get("driver"):
        versions.append(f"driver {clean(machine['driver'])}")
    if machine.get("cuda"):
        versions.append(f"CUDA {clean(machine['cuda'])}")
    yield "```"
    yield f"{_device(machine)}, {', '.join(versions)}"
    yield from table_lines(found)
    yield "```"


def _device(machine: Mapping[str, Any]) -> str:
    name = clean(machine["device"], limit=80)
    if machine["device_type"] == "cpu":
        return f"CPU {name}, {counted(machine['threads'], 'thread')}"
    return f"{name}, {show_memory(machine['memory'])}"


def _model_lines(found: Mapping[str, Any]) -> Iterator[str]:
    model, recipe, peak = found["model"], found["recipe"], found["peak"]
    if model:
        weights = "random weights" if model["weights"] == "random" else "embedded"
        named = clean(model["id"] or f"a model of the family {model['family']}", limit=100)
        yield (
            f"{named}, {weights}: {model['parameters']:,} parameters in {clean(model['dtype'])},"
            f" {model['resolution']} pixels"
        )
    yield (
        f"{clean(recipe['method'])}, {clean(recipe['adapter'])} of rank {recipe['rank']},"
        f" {clean(recipe['optimizer'])}: {recipe['batch_size']} rows"
        f" × {recipe['gradient_accumulation']} a step"
    )
    if peak:
        yield (
            f"peak of the device, measured on products of {peak['side']}² {clean(peak['dtype'])}:"
            f" {peak['flops_per_second'] / 1e12:.3g} TFLOP/s"
        )


def _table(rows: Sequence[Mapping[str, Any]], *, is_cpu: bool) -> Iterator[str]:
    """Yield what each letter stands for, and the figures beside the letters."""
    for letter, row in zip(_LETTERS, rows, strict=False):
        why = "" if row["outcome"] == "measured" else f" ({_why(row)})"
        yield f"{letter}  {clean(row['name'], limit=120)}{why}"
    yield ""
    # A CPU waits for nobody: what would be a wait elsewhere is a tensor read as a number.
    heads = ["", *(head.format(reads="reads" if is_cpu else "syncs") for head in _HEADS)]
    lines = [heads]
    for letter, row in zip(_LETTERS, rows, strict=False):
        if row["outcome"] == "measured":
            lines.append([letter, *_cells(row)])
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]
    for line in lines:
        yield "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))


def _cells(row: Mapping[str, Any]) -> list[str]:
    timing, memory, share = row["seconds_per_step"], row["memory"], row["share_of_peak"]
    spread = (timing["most"] - timing["least"]) / 2 / timing["median"]
    return [
        f"{_seconds(timing['median'])} ±{spread:.0%}",
        _number(row["samples_per_second"]),
        _number(row["rows_per_second"]),
        _NO_FIGURE if share is None else f"{share:.{0 if share >= 0.1 else 1}%}",
        f"{_memory(memory['measured'])} ({_memory(memory['estimated'])})",
        _count(row["syncs_per_step"]),
        _count(row["operations_per_step"]),
        show_estimate(row["start_seconds"]) if row["start_rows"] else _NO_FIGURE,
    ]


def _why(row: Mapping[str, Any]) -> str:
    word = _OUTCOMES.get(str(row["outcome"]), "not measured")
    message = clean(row["message"], limit=160)
    return f"{word}: {message}" if message else word


def _conclusions(found: Mapping[str, Any]) -> Iterator[str]:
    rows = [row for row in found["configurations"] if row["outcome"] == "measured"]
    if len(rows) > 1 and not rows[0]["changes"]:
        best = max(rows, key=lambda row: float(row["samples_per_second"]))
        ratio = best["samples_per_second"] / rows[0]["samples_per_second"]
        if best is rows[0]:
            yield "No alternative trains more samples a second than the recipe as it stands."
        else:
            yield f"Most samples a second: {clean(best['name'])}, {ratio:.2f}× as many."
    for row in rows:
        if row["compile_seconds"] is not None:
            yield f"{clean(row['name'])}: compiling took {show_estimate(row['compile_seconds'])}."
    bare = found["bare_loop"]
    if bare is not None:
        clock = "CPU seconds" if bare["clock"] == "cpu" else "seconds"
        how = "in turns" if bare["side_by_side"] else "one after the other"
        yield (
            f"A bare loop over the same calls takes {_seconds(bare['seconds_per_step']['median'])}"
            f" s a step: the trainer {bare['overhead']:.3f}× that, in {clock}, timed {how}."
        )
    yield f"All of it took {show_estimate(found['seconds'])}."


def _memory(value: float | None) -> str:
    return _NO_FIGURE if value is None else show_memory(value)


def _seconds(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.3g}"


def _number(value: float | None) -> str:
    return _NO_FIGURE if value is None else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _count(value: float | None) -> str:
    return _NO_FIGURE if value is None else f"{value:,.0f}"
