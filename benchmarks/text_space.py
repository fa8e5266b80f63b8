"""How do text-space sliders do, as biases and as a LoRA?

Three sliders of the embedded model: size, brightness, and a hue from blue to red, of shapes whose
prompt names no colour. `--choose 1` draws the prompts that the direction is made of, with several
ways to align, with and without the pooled state, and at several strengths; of those with the
highest mean ρ (to three digits, a sample without a shape counting as 0) it names the one with the
largest effect. Without it, the prompts of the proof are drawn, whose colours (for the hue: shapes
and backgrounds) are in none of those, with what was chosen, and noise of seeds not chosen by.

    python benchmarks/text_space.py [--seeds 10] [--choose 0]
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench
import numpy as np
import torch
from bench_options import numbers_of
from scipy.stats import spearmanr

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.adapter_files.text_encoders import ScaledEmbeddings, TextAdapters
from loba_tui.core.program.adapter_layers.strength import NoScale
from loba_tui.core.program.closed_form.solution import SolverParts
from loba_tui.core.program.closed_form.solved_text import BIAS_NAME, SolvedText
from loba_tui.core.program.closed_form.text_direction import Direction
from loba_tui.core.program.drop_ins import load_choice
from loba_tui.core.program.evaluation.measure import read_values
from loba_tui.core.program.open_model import prompts_of
from loba_tui.core.program.sampling.recipe_images import Grid, draw_grid
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.recipe.schema import Recipe

SCALES = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
STRENGTHS = (0.2, 0.25, 0.3, 0.4, 0.5)
ALIGNS = ("tokens", "mean")
CHOICE_SEEDS = (0, 1, 2, 3)
COLORS, OTHER_COLORS = ["red", "green", "blue", "yellow"], ["cyan", "orange", "purple", "pink"]
SHAPES, GROUNDS = ["circle", "square", "triangle", "cross"], ["black", "white", "gray"]
PLACE = "a {color} {shape} on a {background} background"
BARE = PLACE.replace("{color} ", "")


@dataclass(frozen=True)
class Slider:
    """A slider to be made, and what its proof reads.

    Attributes:
        words: Positive and negative prompt.
        options: Of the method, as chosen on the prompts that it is made of.
    """

    words: tuple[str, str]
    vary: Mapping[str, list[str]]
    held_out: Sequence[str]
    measure: Mapping[str, Any]
    preserve: Sequence[str]
    options: Mapping[str, Any]


def _held_out(colors: Sequence[str], shapes: Sequence[str], grounds: Sequence[str]) -> list[str]:
    """Return 16 prompts in which each word stands as often as the others of its kind."""
    place = PLACE if any(colors) else BARE
    return [
        place.format(
            color=colors[n % len(colors)],
            shape=shapes[(n + n // 4) % len(shapes)],
            background=grounds[(n + n // 3) % len(grounds)],
        )
        for n in range(16)
    ]


_ALL = {"color": COLORS, "shape": SHAPES, "background": GROUNDS}
SLIDERS = {
    "size": Slider(
        (PLACE.replace("{color}", "large {color}"), PLACE.replace("{color}", "small {color}")),
        _ALL,
        _held_out(OTHER_COLORS, SHAPES, GROUNDS),
        {"name": "shape_area"},
        ("shape_color", "shape_background"),
        {"align": "mean", "pooled": 0.0, "strength": 0.3},
    ),
    "brightness": Slider(
        (PLACE.replace("{color}", "bright {color}"), PLACE.replace("{color}", "dark {color}")),
        _ALL,
        _held_out(OTHER_COLORS, SHAPES, GROUNDS),
        {"name": "shape_brightness"},
        ("shape_name", "shape_background"),
        {"align": "tokens", "pooled": 0.0, "strength": 0.25},
    ),
    "hue": Slider(
        (PLACE.replace("{color}", "red"), PLACE.replace("{color}", "blue")),
        {"shape": ["circle", "square"], "background": ["black", "white"]},
        _held_out([""], ["triangle", "cross"], ["gray", "green"]),
        {"name": "color_axis"},
        ("shape_name", "shape_background"),
        {"align": "mean", "pooled": 0.0, "strength": 0.5},
    ),
}


def recipe_of(slider: Slider, options: Mapping[str, Any] | None = None) -> Recipe:
    """Return the slider's recipe, with other options than those that were chosen."""
    positive, negative = slider.words
    target = PLACE if "color" in slider.vary else BARE
    concept = {"target": target, "positive": positive, "negative": negative}
    return parse_recipe(
        {
            "version": 1,
            "base_model": {"id": "builtin:shapes-xl", "device": "cpu"},
            "method": {
                "name": "text_space_slider",
                **(options or slider.options),
                "concepts": [{**concept, "vary": dict(slider.vary)}],
            },
            "sample": {
                "prompts": list(slider.held_out),
                "scales": list(SCALES),
                "steps": 20,
                "guidance_scale": 4.0,
                "batch_size": 16,
            },
            "proof": {
                "measure": dict(slider.measure),
                "preserve": [{"name": name} for name in slider.preserve],
                "prompts": list(slider.held_out),
            },
        },
        plugins=SHIPPED,
    )


@dataclass(frozen=True)
class Moved:
    """Embeddings that the direction itself is added to."""

    container: ModelContainer
    direction: Direction

    is_trained = False

    def encode(self, prompts: Sequence[str], scale: float) -> list[PromptEmbeds]:
        """Return one row a prompt."""
        rows = (self.container.encode_prompts([prompt]) for prompt in prompts)
        return [self.direction.moved(row, scale) for row in rows]


class Drawn:
    """Samples of a slider at all scales: (prompts and seeds, scales) values and labels."""

    def __init__(
        self, recipe: Recipe, container: ModelContainer, adapters: Any, grid: Grid
    ) -> None:
        base = {p: container.encode_prompts([p]) for p in (*grid.prompts, *prompts_of(recipe))}
        images = draw_grid(
            container, NoScale(), recipe, ScaledEmbeddings(base, adapters), grid, plugins=SHIPPED
        )
        samples = images.reshape(-1, *images.shape[2:])
        self.values = np.asarray(
            read_values(recipe.proof.measure, samples, SHIPPED), dtype=float
        ).reshape(len(samples), len(grid.scales))
        self.labels = [
            np.asarray(read_values(choice, samples, SHIPPED), dtype=object).reshape(
                self.values.shape
            )
            for choice in recipe.proof.preserve
        ]

    def rho(self) -> np.ndarray:
        """Return Spearman's rho of each sample; 0 where nothing moves or no shape is found."""
        return np.nan_to_num([spearmanr(SCALES, row).statistic for row in self.values])

    def effect(self) -> float:
        """Return the difference of the mean values at 2 and at −2."""
        mean = np.nanmean(self.values, axis=0)
        return float(mean[SCALES.index(2.0)] - mean[SCALES.index(-2.0)])

    def kept(self) -> list[float]:
        """Return of each label the lowest share of samples that keep it, within ±2."""
        zero = SCALES.index(0.0)
        near = [number for number, scale in enumerate(SCALES) if 0 < abs(scale) <= 2]
        return [
            min(float((label[:, n] == label[:, zero]).mean()) for n in near)
            for label in self.labels
        ]

    def line(self) -> str:
        """Return all of it in a line."""
        means = " ".join(f"{value:.3g}" for value in np.nanmean(self.values, axis=0))
        kept = " ".join(f"{100 * share:.0f}" for share in self.kept())
        rho = self.rho()
        gone = np.isnan(self.values).any(axis=1)
        worst = rho[~gone].min()
        lost = f"  {gone.sum()} of {len(rho)} without a shape at some scale" if gone.any() else ""
        return f"rho {rho.mean():.3f} / {worst:.3f}  {means}  kept % {kept}{lost}"


def choose(container: ModelContainer) -> None:
    """Print each slider with all options on the prompts that it is made of, and name the best."""
    for name, slider in SLIDERS.items():
        tried = []
        for align, pooled, strength in itertools.product(ALIGNS, (0.0, 1.0), STRENGTHS):
            options = {"align": align, "pooled": pooled, "strength": strength}
            recipe = recipe_of(slider, options)
            targets = [concept.target for concept in recipe.method.expanded_concepts]
            prompts = targets[:: max(1, len(targets) // 12)][:12]
            solver, _ = solved(recipe, container)
            moved = Moved(container, solver.direction())
            drawn = Drawn(recipe, container, moved, Grid(prompts, CHOICE_SEEDS, SCALES))
            tried.append(((round(drawn.rho().mean(), 3), drawn.effect()), options))
            print(f"{name:10} {align} {pooled} {strength:4.2f}  {drawn.line()}", flush=True)
        print(f"{name:10} best: {max(tried, key=lambda each: each[0])[1]}")


def solved(recipe: Recipe, container: ModelContainer) -> tuple[Any, Callable[[], Any]]:
    """Return the recipe's solver, and what computes its adapter."""
    concepts = recipe.method.expanded_concepts
    named = [p for c in concepts for p in (c.target, c.positive, c.negative) if p is not None]
    embeds = {prompt: container.encode_prompts([prompt]) for prompt in dict.fromkeys(named)}
    parts = SolverParts(container, concepts, embeds, seed=0)
    solver = load_choice("methods", recipe.method, SHIPPED)(parts)
    return solver, solver.solve


def main() -> None:
    arguments = numbers_of(__doc__, seeds=10, choose=0)
    torch.set_num_threads(1)
    print(bench.machine())
    container = ModelCache("cpu", torch.float32).container("builtin:shapes-xl")
    if arguments.choose:
        choose(container)
        return
    seeds = list(range(2000, 2000 + arguments.seeds))
    for name, slider in SLIDERS.items():
        recipe = recipe_of(slider)
        _, solve = solved(recipe, container)
        solve()  # the first call sets up what later ones have
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            solution = solve()
            times.append(time.perf_counter() - begin)
        seconds = statistics.median(times)
        text = SolvedText(container, solution.text)
        with tempfile.TemporaryDirectory() as folder:
            text.write(OwnedFolder(Path(folder)), {})
            sizes = {path.name: path.stat().st_size for path in Path(folder).iterdir()}
            bias = read_adapter_file(Path(folder) / BIAS_NAME)
        forms = {
            "biases": TextAdapters(container, [(bias, 1.0)]),
            "LoRA": text,
        }
        print(f"{name}, {dict(slider.options)}: {1000 * seconds:.0f} ms; bytes {sizes}")
        effects = {}
        for form, adapters in forms.items():
            drawn = Drawn(recipe, container, adapters, Grid(slider.held_out, seeds, SCALES))
            effects[form] = drawn.effect()
            share = effects[form] / effects["biases"] if "biases" in effects else float("nan")
            print(f"  {form:10} {drawn.line()}  effect {share:.3f} of the biases'", flush=True)


if __name__ == "__main__":
    main()
