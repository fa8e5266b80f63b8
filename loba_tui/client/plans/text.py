"""A plan as lines of text; each section of the plan has a function here that draws it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any

from loba_tui.client.plans.ascii_charts import Canvas
from loba_tui.client.plans.requirements_text import requirement_lines
from loba_tui.core.text import clean, counted

_MOST_CAPTIONS = 20


def plan_lines(sections: Mapping[str, Any], canvas: Canvas) -> list[str]:
    """Return all sections of a plan, drawn; those that nothing here draws are left out."""
    lines: list[str] = []
    for name, draw in DRAWN.items():
        if name in sections:
            lines += [*([""] if lines else []), *draw(sections[name], canvas)]
    return lines


def data_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the images of a recipe are, as the program found them."""
    yield f"{found['images']} images, {found['captions']} captions, {found['bad']} left out"
    named = {"images", "bad", "units", "buckets", "captions", "fingerprint"}
    named |= {"cut_captions", "held_out"}
    notes = [f"{count} {clean(note)}" for note, count in found.items() if note not in named]
    if "held_out" in found:
        yield f"{found['held_out']} more are held out of training"
    if notes:
        yield f"of them {', '.join(notes)}"
    for size, count in found["buckets"].items():
        yield f"{clean(size):>11}  {count}"
    cut = found["cut_captions"]
    if cut is None:
        yield "whether captions are too long is not known before the model's tokenizer is here"
    cut = cut or {}
    for caption, end in islice(cut.items(), _MOST_CAPTIONS):
        yield f"too long, without effect is {clean(end)!r} of {clean(caption)!r}"
    if len(cut) > _MOST_CAPTIONS:
        yield f"and {len(cut) - _MOST_CAPTIONS:,} more captions are too long; --json has all"


def _needs(section: Mapping[str, Any], canvas: Canvas) -> Iterator[str]:
    for line in requirement_lines(section):
        for part in textwrap.wrap(line, canvas.width, subsequent_indent="    ") or [""]:
            yield canvas.text(part)


def _learning_rate(section: Mapping[str, Any], canvas: Canvas) -> Iterator[str]:
    yield canvas.text(
        f"learning rate: {section['scheduler']}, {counted(section['num_steps'], 'step')}"
    )
    yield from canvas.columns(section["lr"], ends=("step 1", str(section["num_steps"])))


def _layers(section: Mapping[str, Any], canvas: Canvas) -> Iterator[str]:
    trained, total = section["trained_parameters"], section["denoiser_parameters"]
    yield canvas.text(
        f"layers: {section['scheduler']}, {section['adapter']} trains {trained:,} parameters"
        f" beside the model's {total:,}"
    )
    if section["model"] == "assumed":
        yield canvas.text("  (of shapes like SD-XL's, since the model is not here yet)")
    blocks = section["blocks"]
    most = max((block["most"] or 0.0 for block in blocks), default=0.0)
    longest = max((len(block["name"]) for block in blocks), default=0)
    names = min(max(longest, 16), 28)  # single_transformer_blocks.37 is the longest of all families
    for block in blocks:
        label = f"  {block['name'][:names]:{names}} "
        if block["mean"] is None:
            yield canvas.text(f"{label}no adapter here")
            continue
        says = f" {block['mean']:.3g}"
        if block["least"] != block["most"]:
            says = f" {block['least']:.3g} to {block['most']:.3g}"
        modules = f", {counted(block['num_modules'], 'module')}"
        width = max(5, canvas.width - len(label) - 26)
        bar = canvas.bar(block["mean"] / most if most else 0.0, width)
        yield canvas.text(f"{label}{bar}{says}{modules}")


def _timesteps(section: Mapping[str, Any], canvas: Canvas) -> Iterator[str]:
    curves = section["curves"]
    yield canvas.text(f"timesteps: {section['scheduler']}, how often each is trained on")
    for curve in curves:
        if len(curves) > 1:
            yield canvas.text(f"  after {curve['progress']:.0%} of the run")
        height = 5 if len(curves) == 1 else 3
        yield from canvas.columns(curve["density"], ends=("clean", "noise"), height=height)


def _noise(section: Mapping[str, Any], canvas: Canvas) -> Iterator[str]:
    sigma = "σ" if canvas.is_unicode else "sigma"
    for role in ("training", "sampling"):
        levels = section[role]
        yield canvas.text(
            f"noise while {role}: {levels['scheduler']}, {counted(levels['num_steps'], 'step')},"
            f" {sigma} on a logarithmic scale"
        )
        ends = tuple(f"t {levels['timestep'][at] or 0:.0f}" for at in (0, -1))
        yield from canvas.columns(levels["sigma"], ends=(ends[0], ends[1]), height=4, is_log=True)


DRAWN: Mapping[str, Callable[[Mapping[str, Any], Canvas], Iterator[str]]] = MappingProxyType(
    {
        "needs": _needs,
        "learning_rate": _learning_rate,
        "layers": _layers,
        "timesteps": _timesteps,
        "noise": _noise,
    }
)
"""Sections in the order that they are shown; what draws another one is one line here."""
