"""The requirements of a run as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loba_tui.core.text import clean
from loba_tui.core.units import show_estimate, show_memory


def requirement_lines(needs: Mapping[str, Any]) -> Iterator[str]:
    """Yield a plan's figures of parameters, memory, disk, work and time."""
    memory, disk, work = needs["memory"], needs["disk"], needs["work"]
    base = ", ".join(f"{clean(name)} {count:,}" for name, count in needs["parameters"].items())
    yield f"parameters: {base}"
    adapter, trained = needs["adapter_parameters"], needs["trained_parameters"]
    yield f"  the adapter has {adapter:,}" + (f", {trained:,} train" if trained != adapter else "")
    yield f"memory on {clean(needs['device'])} in {clean(needs['dtype'])}: {fits(needs)}"
    for name in ("weights", "adapter", "gradients", "optimizer", "activations"):
        yield f"  {name:12}{show_memory(memory[name]):>10}"
    for name in ("loading", "training", "sampling"):
        mark = "  <- the most" if memory["worst_phase"] == name else ""
        yield f"  while {name:9}{show_memory(memory[name]):>7}{mark}"
    yield (
        f"disk: about {show_memory(disk['needed'])}:"
        f" checkpoints {show_memory(disk['checkpoints'])},"
        f" pictures {show_memory(disk['samples'])}, adapter {show_memory(disk['adapter'])}"
    )
    yield (
        f"work: {work['rows_per_step']:.0f} UNet rows and {flops(work['flops_per_step'])} a step,"
        f" {flops(work['flops'])} in all"
    )
    if work.get("validation_rows"):
        yield f"  validation takes {work['validation_rows']:,} UNet rows of it, without gradients"
    if work["seconds"] is not None:
        yield (
            f"time: {show_estimate(work['seconds'])}, {work['seconds_per_step']:.2g} s a step,"
            " by a short calibration"
        )
    if needs.get("chosen"):
        yield f"auto takes {clean(needs['chosen'])}"
    for note in needs["notes"]:
        yield f"note: {clean(note)}"
    if needs.get("problem"):
        yield from (
            f"does not fit: {line}"
            for line in clean(needs["problem"], keep_newlines=True).splitlines()
        )


def memory_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield how a recipe would use several sizes of memory, a line each, and what it lacks."""
    for row in found["rows"]:
        free, needed = show_memory(row["free"]), show_memory(row["needed"])
        line = f"{free:>9} free on {clean(found['device'])}: needs {needed}"
        yield line + (f" with {clean(row['chosen'])}" if row["chosen"] else "")
        if row["needed"] > row["free"]:
            yield f"{'':9} does not fit while {clean(row['worst_phase'])};" + (
                f" {clean(row['remedy'])}" if row["remedy"] else " no single change makes it fit"
            )


def process_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what one of several processes would hold under each engine, and what that brings."""
    number = found["processes"]
    yield f"each of {number} processes on {clean(found['device'])} would hold:"
    yield f"{'':10}" + "".join(f"{name:>12}" for name in (*_HELD, "in all"))
    memories = {}
    for row in found["rows"]:
        if row["refused"] is not None:
            yield f"{row['engine']:10}  not with this recipe: {clean(row['refused'])}"
            continue
        memory = memories[row["engine"]] = row["memory"]
        held = [memory[name] for name in (*_HELD, "needed")]
        yield f"{row['engine']:10}" + "".join(f"{show_memory(size):>12}" for size in held)
    yield (
        "fsdp2 and ZeRO-3 share the frozen base model; what they gather for the block that computes"
        " is counted. While they start, each process still reads all of it."
    )
    if {"ddp", "ZeRO-1", "ZeRO-2"} <= memories.keys():
        parts = ("optimizer", "gradients")
        one, two = (
            sum(memories["ddp"][part] - memories[name][part] for part in parts)
            for name in ("ZeRO-1", "ZeRO-2")
        )
        yield (
            f"ZeRO-1 and ZeRO-2 bring an adapter next to nothing: they save {show_memory(one)} and"
            f" {show_memory(two)} of {show_memory(memories['ddp']['needed'])}, as its optimizer has"
            " states for the adapter alone."
        )
    yield (
        f"sequence is parallel.ulysses: {number}, by which all processes compute the same rows;"
        " each computes the whole of a UNet's convolutions, which is counted. More rows in a batch"
        " are better served by ddp."
    )


_HELD = ("weights", "adapter", "gradients", "optimizer", "activations")


def short_line(needs: Mapping[str, Any]) -> str:
    """Return the figures in one line, for the start of a run."""
    return (
        f"needs about {fits(needs)}, {show_memory(needs['disk']['needed'])} of disk;"
        f" trains {needs['trained_parameters']:,} parameters"
    )


def measured_line(data: Mapping[str, Any]) -> str:
    """Return estimate and measurement of the first step; empty where they do not compare."""
    if not data.get("is_comparable"):
        return ""
    return (
        f"memory after the first step: {show_memory(data['measured'])},"
        f" estimated {show_memory(data['estimated'])} ({data['ratio']:.0%} of it)"
    )


def fits(needs: Mapping[str, Any]) -> str:
    """Return what is needed of what is free."""
    free = needs.get("free_memory")
    needed = show_memory(needs["memory"]["needed"])
    return f"{needed} of {show_memory(free)} free" if free is not None else needed


def flops(number: float) -> str:
    """Return floating-point operations as people read them."""
    for unit, each in (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6)):
        if number >= each:
            return f"{number / each:.1f} {unit}"
    return f"{number:.0f} FLOP"
