"""How do the closed-form erasers do on one, three and seven of the eight colours at once?

The colours erased are to become blue. Preserved are the other colours, and three of the six
backgrounds. Drawn are held-out prompts with all shapes, other words before the colour and other
backgrounds than those. "left" is the share of images that ask for an erased colour and show it;
the other shares are of images that are what the base model made them. Moved are, by share of their
length, the states that are kept exactly (by `speed`; for `uce`, all preserved ones).

Then a bare word ("red" to "blue", with no sentence around it), on the prompts of recipes/uce.yaml:
with its neighbours' padding preserved or not, and with neighbours preserved bare or in sentences.

    python benchmarks/erasers.py [--seeds 2] [--colors 0] [--bare 1]

`--colors 3` draws the erasure of three alone.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench
import numpy as np
from bench_options import numbers_of

from loba_tui.core.errors import LobaError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.sampling.recipe_images import Grid, draw_grid
from loba_tui.core.recipe.load import load_recipe
from loba_tui.models.shapes_world import BACKGROUNDS, COLORS, SHAPES, Reading, read

ANCHOR = "blue"
ERASED = (["red"], ["red", "green", "pink"], [name for name in COLORS if name != ANCHOR])
PRESERVED_GROUNDS = ("black", "white", "gray")
PLACES = (
    "a {color} {shape} on a {background} background",
    "a small {color} {shape} on a {background} background",
    "a picture of a {color} {shape} on a {background} background",
    "a large {color} {shape} on a {background} background",
)
METHODS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("uce", {}),
    ("uce", {"preserve_tokens": "all"}),
    ("speed", {}),
    ("speed", {"influence": 0.0}),
    ("speed", {"augment": 0.1}),
    ("speed", {"tokens": "end"}),
)
SECTIONS = {
    "version": 1,
    "name": "eraser",
    "base_model": {"id": "builtin:shapes-xl", "device": "cpu"},
    "sample": {
        "prompts": ["a shape"],
        "scales": [0, 1],
        "steps": 20,
        "guidance_scale": 4.0,
        "batch_size": 16,
    },
    "proof": {"enabled": False},
}


@dataclass(frozen=True)
class Asked:
    """A held-out prompt, and the colour that it asks for."""

    prompt: str
    color: str


def held_out(erased: Sequence[str]) -> list[Asked]:
    """Return four prompts for each colour; no background is an erased colour's word."""
    asked = []
    for number, color in enumerate(COLORS):
        grounds = [name for name in BACKGROUNDS if name not in {color, ANCHOR, *erased}]
        for turn, (place, shape) in enumerate(zip(PLACES, SHAPES, strict=True)):
            ground = grounds[-1 - (number + turn) % len(grounds)]
            prompt = place.format(color=color, shape=shape, background=ground)
            asked.append(Asked(prompt, color))
    return asked


def erasing(erased: Sequence[str], method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe that erases these colours from the embedded model."""
    kept = [name for name in COLORS if name not in erased]
    concept = {
        "target": "a {color} {shape}",
        "neutral": f"a {ANCHOR} {{shape}}",
        "preserve": [f"a {name} {{shape}}" for name in kept]
        + [f"a {{shape}} on a {name} background" for name in PRESERVED_GROUNDS],
        "vary": {"color": list(erased), "shape": list(SHAPES)},
    }
    return {**SECTIONS, "method": {"name": method, **options, "concepts": [concept]}}


def bare(options: Mapping[str, Any], *, in_sentences: bool = False) -> dict[str, Any]:
    """Return the recipe that erases the bare word "red", its neighbours bare or in sentences."""
    neighbours = [name for name in COLORS if name != "red"]
    if in_sentences:
        neighbours = [f"a {name} {shape}" for name in neighbours for shape in SHAPES]
    concept = {"target": "red", "neutral": ANCHOR, "preserve": neighbours}
    return {**SECTIONS, "method": {"name": "uce", **options, "concepts": [concept]}}


@dataclass(frozen=True)
class Outcome:
    """An eraser's figures, and what was read off its images: (prompts, seeds) readings."""

    seconds: float
    figures: Mapping[str, float]
    rank: int
    base: list[list[Reading]]
    edited: list[list[Reading]]

    def kept(self, attribute: str, rows: Sequence[int]) -> str:
        """Return in how many of these prompts' images an attribute is still what the base made."""
        pairs = [
            (getattr(a, attribute), getattr(b, attribute))
            for row in rows
            for a, b in zip(self.base[row], self.edited[row], strict=True)
        ]
        return f"{np.mean([before == after for before, after in pairs]):.1%}" if pairs else "none"

    def share(self, rows: Sequence[int], colors: Sequence[str], *, before: bool = False) -> str:
        """Return in how many images the colour that is asked for shows."""
        images = self.base if before else self.edited
        right = [
            each.color == color
            for row, color in zip(rows, colors, strict=True)
            for each in images[row]
        ]
        return f"{np.mean(right):.1%}"


class Drawn:
    """Draws erasers on some prompts, and the base model once for all of them."""

    def __init__(self, prompts: Sequence[str], seeds: Sequence[int]) -> None:
        self._prompts, self._seeds = prompts, seeds
        self._base: list[list[Reading]] = []

    def outcome(self, recipe: Mapping[str, Any]) -> Outcome:
        """Solve a recipe and read what it and the base model draw."""
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
            file = Path(folder) / "recipe.yaml"
            sample = {**SECTIONS["sample"], "prompts": list(self._prompts)}
            file.write_text(json.dumps({**recipe, "sample": sample}))
            ready = bench.ready([], recipe=file)
        clock = bench.CpuClock()
        ready.run.run()
        seconds = clock.seconds()
        if not self._base:
            self._base = self._read(ready, 0.0)
        weights = ready.run.parameters.items()
        rank = max(weight.shape[0] for name, weight in weights if ".lora_A." in name)
        return Outcome(seconds, ready.records.figures, rank, self._base, self._read(ready, 1.0))

    def _read(self, ready: bench.Ready, scale: float) -> list[list[Reading]]:
        images = draw_grid(
            ready.model.container,
            ready.run.scale,
            ready.recipe,
            ready.model.drawn_embeds,
            Grid(self._prompts, self._seeds, [scale]),
            plugins=SHIPPED,
        )
        return [[read(image) for image in of_prompt[:, 0]] for of_prompt in images]


def said(method: str, options: Mapping[str, Any]) -> str:
    """Return a method's name with what is not its default."""
    return " ".join([method, *(f"{name}={value}" for name, value in options.items())])


def row(erased: Sequence[str], asked: Sequence[Asked], name: str, found: Outcome) -> str:
    """Return the row of one eraser."""
    gone = [n for n, each in enumerate(asked) if each.color in erased]
    others = [n for n, each in enumerate(asked) if each.color not in erased]
    colors = [asked[n].color for n in gone]
    moved = found.figures.get("retained_moved", found.figures.get("preserved_moved", 0.0))
    cells = (
        len(erased),
        name,
        f"{found.seconds:.2f}",
        found.rank,
        f"{found.figures['unsolved']:.1e}",
        f"{moved:.1e}",
        f"{found.share(gone, colors, before=True)} → {found.share(gone, colors)}",
        *(found.kept(name, others) for name in ("color", "shape", "background")),
        *(found.kept(name, gone) for name in ("shape", "background")),
    )
    return f"| {' | '.join(map(str, cells))} |"


def compare(erased: Sequence[str], seeds: Sequence[int]) -> None:
    """Print the rows of all erasers of some colours."""
    asked = held_out(erased)
    drawn = Drawn([each.prompt for each in asked], seeds)
    for method, options in METHODS:
        name = said(method, options)
        try:
            found = drawn.outcome(erasing(erased, method, options))
            print(row(erased, asked, name, found), flush=True)
        except LobaError as error:
            print(f"| {len(erased)} | {name} | {error.message} |", flush=True)


def compare_bare(seeds: Sequence[int]) -> None:
    """Print the rows of `uce` of a bare word, on the prompts of its shipped recipe."""
    recipe = load_recipe(bench.RECIPES / "uce.yaml", [], plugins=SHIPPED)
    asking, others = recipe.proof_prompts, recipe.other_prompts
    gone, rest = range(len(asking)), range(len(asking), len(asking) + len(others))
    drawn, red = Drawn([*asking, *others], seeds), ["red"] * len(asking)
    padded = {"preserve_tokens": "all"}
    for options, in_sentences in (({}, False), (padded, False), (padded, True)):
        found = drawn.outcome(bare(options, in_sentences=in_sentences))
        cells = (
            said("uce", options) + (", neighbours in sentences" if in_sentences else ""),
            f"{found.share(gone, red, before=True)} → {found.share(gone, red)}",
            *(found.kept(name, rest) for name in ("color", "shape", "background")),
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    chosen = numbers_of(__doc__, seeds=2, colors=0, bare=1)
    seeds = [2000 + number for number in range(chosen.seeds)]
    print(bench.machine())
    print(
        "| colours | method | CPU s | rank | unsolved | moved | left | others: colour | shape"
        " | background | erased: shape | background |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for erased in ERASED:
        if chosen.colors in (0, len(erased)):
            compare(erased, seeds)
    if chosen.bare:
        print("\n| bare word | left | others: colour | shape | background |\n|---|---|---|---|---|")
        compare_bare(seeds)


if __name__ == "__main__":
    main()
