"""How far do two sliders do what the other is for, and does making them orthogonal help?

A size and a brightness slider, in text space and trained, are drawn alone at −2 and 2 on held-out
prompts, and both measures are read. The share of the other's is what a slider does to the other's
measure, over what the other one does to it itself. Then one of them, or each, loses what lies
along the other: in text space its component along the other's direction; of the trained ones each
layer's update the inputs that the other reads (`rows`), or the outputs that it writes too (`both`).
A last variant is measured instead of orthogonal: each slider less the other times the share that it
has of the other's effect on trained prompts, as `loba merge size@1 brightness@-0.2` makes of files.
Overlap and additivity are those of `loba interfere`, both at strength 2.

    python benchmarks/slider_sets.py [text_space] [trained] [--seeds 2]
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import bench
import numpy as np
import torch
from text_space import SLIDERS, Moved, recipe_of, solved
from torch import Tensor

from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.file_sources import file_at
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.adapter import DIFFUSERS_NAME, write_adapter
from loba_tui.core.program.adapter_files.formats import LoraLayer
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.adapter_files.text_encoders import ScaledEmbeddings
from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale
from loba_tui.core.program.closed_form.text_direction import Direction
from loba_tui.core.program.combine.attach import Part, attach
from loba_tui.core.program.combine.interference import measure_overlap
from loba_tui.core.program.combine.merge import (
    Merged,
    inner_product,
    low_rank_of,
    squared_length,
    write_merged,
)
from loba_tui.core.program.evaluation.efficacy.recipe import roll_out_held
from loba_tui.core.program.evaluation.measure import read_values
from loba_tui.core.program.open_model import batch_of, prompts_of
from loba_tui.core.program.sampling.recipe_images import Grid, draw_grid
from loba_tui.core.program.spread import spread
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.method import Choice

NAMES = ("size", "brightness")
MEASURES = (Choice(name="shape_area"), Choice(name="shape_brightness"))
ENDS = (-2.0, 2.0)
# Both are trained from the base model, with the denoiser alone.
TRAINED = {
    "slider": (
        *("method.warm_start=null", "adapter.text_encoders=null", "method.rollout_steps=8"),
        *("method.bank_images=null", "method.bank_samples=null"),
        *("optimizer.lr=5e-4", "train.steps=85"),
    ),
    "slider_brightness": (),
}
VARIANTS = ("as made", "brightness without size", "size without brightness", "each without")
MEASURED = "each less the other by its share"
NUM_TRAINED, TRAINED_SEEDS = 12, (7, 8)


def effects(images: np.ndarray) -> tuple[float, float]:
    """Return ln(area at 2 / area at −2) and the difference of brightness, of (N, 2, …) images."""
    samples = images.reshape(-1, *images.shape[2:])
    area, brightness = (
        np.nanmean(np.asarray(read_values(measure, samples, SHIPPED), float).reshape(-1, 2), axis=0)
        for measure in MEASURES
    )
    return math.log(area[1] / area[0]), float(brightness[1] - brightness[0])


def shares(found: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return what size does to brightness, and brightness to area, as shares of the other's own."""
    (area, brightness_of_size), (area_of_brightness, brightness) = found
    return brightness_of_size / brightness, area_of_brightness / area


def trained_prompts(recipe: Recipe) -> list[str]:
    """Return prompts that the sliders are made of."""
    return spread([c.target for c in recipe.method.expanded_concepts], NUM_TRAINED)


def line(what: str, variant: str, found: Sequence[tuple[float, float]], rest: str) -> str:
    """Return a row of the table: own effects, and each as a share of the other's."""
    of_size, of_brightness = shares(found)
    return (
        f"| {what} | {variant} | {found[0][0]:.3f} | {found[1][1]:.3f}"
        f" | {of_size:+.1%} | {of_brightness:+.1%} | {rest} |"
    )


def without(one: Direction, other: Direction) -> Direction:
    """Return a direction less its component along another, states and pooled state each."""

    def rest(ours: Tensor, theirs: Tensor) -> Tensor:
        return ours - (ours @ theirs) / (theirs @ theirs) * theirs

    assert one.pooled is not None
    assert other.pooled is not None
    return Direction(rest(one.states, other.states), rest(one.pooled, other.pooled))


def less(one: Direction, other: Direction, share: float) -> Direction:
    """Return one direction less a share of another."""
    assert one.pooled is not None
    assert other.pooled is not None
    return Direction(one.states - share * other.states, one.pooled - share * other.pooled)


def text_space(seeds: Sequence[int]) -> None:
    """Print what becomes of two directions."""
    container = ModelCache("cpu", torch.float32).container("builtin:shapes-xl")
    recipes = [recipe_of(SLIDERS[name], SLIDERS[name].strength) for name in NAMES]
    size, brightness = (solved(recipe, container)[0].direction() for recipe in recipes)
    held_out, known = recipes[0].proof_prompts, trained_prompts(recipes[0])
    every = (*held_out, *known, *prompts_of(recipes[0]))
    base = {prompt: container.encode_prompts([prompt]) for prompt in every}

    def effects_of(
        directions: Sequence[Direction], prompts: Sequence[str], noise: Sequence[int]
    ) -> list[tuple[float, float]]:
        grid = Grid(prompts, noise, ENDS)
        drawn = (
            draw_grid(
                container,
                NoScale(),
                recipes[0],
                ScaledEmbeddings(base, Moved(container, direction)),
                grid,
                plugins=SHIPPED,
            )
            for direction in directions
        )
        return [effects(images) for images in drawn]

    of_size, of_brightness = shares(effects_of((size, brightness), known, TRAINED_SEEDS))
    sets = (
        (size, brightness),
        (size, without(brightness, size)),
        (without(size, brightness), brightness),
        (without(size, brightness), without(brightness, size)),
        (less(size, brightness, of_size), less(brightness, size, of_brightness)),
    )
    for variant, directions in zip((*VARIANTS, MEASURED), sets, strict=True):
        found = effects_of(directions, held_out, seeds)
        states, others = (direction.states for direction in directions)
        cosine = float(states @ others / states.norm() / others.norm())
        print(line("text space", variant, found, f"cosine {cosine:+.3f}"), flush=True)


def onto_rest(
    ours: Mapping[str, LoraLayer], theirs: Mapping[str, LoraLayer], how: str
) -> dict[str, LoraLayer]:
    """Return layers without the rows of others' updates, or without rows and columns."""
    rest = {}
    for name, layer in ours.items():
        down, up = layer.down.double(), layer.up.double()
        if name in theirs:
            basis, _ = torch.linalg.qr(theirs[name].down.double().T)
            down = down - (down @ basis) @ basis.T
            if how == "both":
                basis, _ = torch.linalg.qr(theirs[name].up.double())
                up = up - basis @ (basis.T @ up)
        rest[name] = replace(layer, down=down.float().contiguous(), up=up.float().contiguous())
    return rest


def layers_less(
    ours: Mapping[str, LoraLayer], theirs: Mapping[str, LoraLayer], share: float
) -> dict[str, LoraLayer]:
    """Return layers less a share of others', side by side."""
    rest = {}
    for name, layer in ours.items():
        other = theirs[name]
        up = [
            layer.up * (layer.alpha / layer.rank),
            other.up * (-share * other.alpha / other.rank),
        ]
        down = torch.cat([layer.down, other.down])
        rest[name] = LoraLayer(down, torch.cat(up, dim=1), float(len(down)))
    return rest


def _cosine(one: Mapping[str, LoraLayer], other: Mapping[str, LoraLayer]) -> float:
    product = sum(inner_product(one[name], other[name]) for name in one)
    lengths = [math.sqrt(sum(map(squared_length, each.values()))) for each in (one, other)]
    return product / (lengths[0] * lengths[1])


class Trained:
    """The two shipped sliders, trained, and one model to draw with."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._sources = []
        for recipe, overrides in TRAINED.items():
            path = bench.RECIPES / f"{recipe}.yaml"
            subject = bench.ready([*overrides, f"train.seed={seed}"], recipe=path)
            subject.run.run()
            (folder / recipe).mkdir()
            write_adapter(subject.model.container.denoiser, OwnedFolder(folder / recipe))
            self._sources.append(Part(file_at(folder / recipe / DIFFUSERS_NAME), 1.0))
        self._subject = subject
        files = [read_adapter_file(part.source) for part in self._sources]
        self.size, self.brightness = (low_rank_of(file) for file in files)

    @contextmanager
    def _attached(
        self, layers: Sequence[Mapping[str, LoraLayer]]
    ) -> Iterator[tuple[list[str], list[AdapterScale]]]:
        """Put two sliders on the model; lend their names and strengths."""
        parts = []
        for number, (each, source) in enumerate(zip(layers, self._sources, strict=True)):
            path = self._folder / f"{number}.safetensors"
            write_merged(Merged(each, 0.0, 0.0, ""), [source], path, file_format="diffusers")
            parts.append(Part(file_at(path), 2.0))
        container = self._subject.model.container
        files = [read_adapter_file(part.source) for part in parts]
        names = attach(container, parts, files)
        scales = [AdapterScale(container.denoiser, name) for name in names]
        yield names, scales
        for scale in scales:
            scale.remove()
        container.denoiser.delete_adapters(names)

    def _effects(
        self, scales: Sequence[AdapterScale], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[tuple[float, float]]:
        model, recipe = self._subject.model, self._subject.recipe
        grid = Grid(prompts, seeds, ENDS)
        found = []
        for number, scale in enumerate(scales):
            with scales[1 - number](0.0):
                images = draw_grid(
                    model.container, scale, recipe, model.embeds, grid, plugins=SHIPPED
                )
            found.append(effects(images))
        return found

    def less_by_share(self) -> tuple[dict[str, LoraLayer], dict[str, LoraLayer]]:
        """Return each slider less the other, by the shares on trained prompts."""
        known = trained_prompts(self._subject.recipe)
        with self._attached((self.size, self.brightness)) as (_, scales):
            of_size, of_brightness = shares(self._effects(scales, known, TRAINED_SEEDS))
        return (
            layers_less(self.size, self.brightness, of_size),
            layers_less(self.brightness, self.size, of_brightness),
        )

    def line(
        self, variant: str, layers: Sequence[Mapping[str, LoraLayer]], seeds: Sequence[int]
    ) -> str:
        """Draw and compare two sliders."""
        model, recipe = self._subject.model, self._subject.recipe
        with self._attached(layers) as (names, scales):
            found = self._effects(scales, recipe.proof_prompts, seeds)
            few = batch_of(model.embeds, recipe.proof_prompts[:4])
            with scales[0](0.0), scales[1](0.0):
                held_out = roll_out_held(model.container, scales[0], recipe, few)
            both = measure_overlap(model.container, names, (2.0, 2.0), NAMES, held_out, few)
        rest = (
            f"weights {_cosine(*layers):+.3f}, predictions {both.pairs[0].overlap:+.3f},"
            f" additivity {both.additivity:.1%}"
        )
        return line("trained", variant, found, rest)


def trained(seeds: Sequence[int]) -> None:
    """Print what becomes of two trained sliders."""
    with tempfile.TemporaryDirectory() as folder:
        sliders = Trained(Path(folder), 0)
        size, brightness = sliders.size, sliders.brightness
        print(sliders.line(VARIANTS[0], (size, brightness), seeds), flush=True)
        for how in ("rows", "both"):
            less_bright = onto_rest(brightness, size, how)
            less_size = onto_rest(size, brightness, how)
            sets = ((size, less_bright), (less_size, brightness), (less_size, less_bright))
            for variant, layers in zip(VARIANTS[1:], sets, strict=True):
                print(sliders.line(f"{variant}: {how}", layers, seeds), flush=True)
        print(sliders.line(MEASURED, sliders.less_by_share(), seeds), flush=True)


KINDS = {"text_space": text_space, "trained": trained}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(bench.machine())
    print(
        "| sliders | variant | size: ln(area at 2 / at −2) | brightness: at 2 less at −2"
        " | brightness of size, share | area of brightness, share | overlap |"
    )
    print("|---|---|---|---|---|---|---|")
    for kind in arguments.kinds:
        KINDS[kind](range(2000, 2000 + arguments.seeds))


if __name__ == "__main__":
    main()
