"""How long does a list of a hundred concepts take at SD-XL's size, and what does it cost?

erase_list.csv names 100 animals to erase, 100 things to retain and 50 to watch. SD-XL's own
tokenizer, and its 140 layers that read the prompt at their true shapes, with random weights. States
are random too: each is its token's vector, a share of those before it and one that all have in
common, as encoders read from left to right. Encoding is not counted: on a CPU SD-XL's larger
encoder alone takes seconds a prompt.

Then on the embedded model: does a prompt that an edit moves more change more? Colours are erased,
with nothing retained, and over all other prompts the share by which the states move is held
against how much the images change.

    python benchmarks/erase_list.py [--threads 1] [--concepts 100] [--seeds 2]

`--seeds 0` draws nothing.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench
import numpy as np
import torch
from bench_options import numbers_of
from torch import Tensor

from loba_tui.client.recipes.word_list import PLACES, Erasing, WordList, erasing_recipe, read_words
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.associate.model_shapes import open_shapes
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.build import build_solver
from loba_tui.core.program.closed_form.solution import Solution
from loba_tui.core.program.closed_form.solved_run import SolvedRun
from loba_tui.core.program.evaluation.slider_effect import spearman
from loba_tui.core.program.open_model import OpenModel, prompts_of
from loba_tui.core.program.sampling.recipe_images import Grid, draw_grid
from loba_tui.core.recipe.load import parse_text
from loba_tui.core.recipe.schema import Recipe
from loba_tui.models.shapes_world import COLORS, SHAPES

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
WIDTH, LENGTH = 2048, 77
BEFORE, COMMON, POSITION = 0.5, 1.0, 0.1
ROWS: tuple[tuple[str, tuple[str, ...], int | None, int], ...] = (
    ("speed", ("{}",), None, 1),
    ("speed", PLACES, None, 1),
    ("speed", PLACES, 64, 1),
    ("speed", PLACES, 128, 1),
    ("speed", PLACES, 64, 4),
    ("uce", ("{}",), None, 1),
    ("uce", PLACES, None, 1),
    ("uce", PLACES, 64, 1),
)


def recipe_of(words: WordList, model: str, method: str, *how: Any) -> Recipe:
    """Return the recipe that `loba erase` makes of a list."""
    text = erasing_recipe(words, Erasing("list", model, method, *how))
    return parse_text(text, "list", plugins=SHIPPED)


def random_embeds(container: ModelContainer, prompts: Sequence[str]) -> dict[str, PromptEmbeds]:
    """Return states of prompts as a causal encoder with random vectors could make them."""

    def vector(number: int) -> Tensor:
        return torch.randn(WIDTH, generator=torch.Generator().manual_seed(number))

    vectors: dict[int, Tensor] = {}
    common = COMMON * vector(10**6)
    positions = torch.stack([vector(10**7 + position) for position in range(LENGTH)])
    embeds = {}
    for prompt, ids in zip(prompts, container.tokenize(list(prompts)), strict=True):
        for token in ids:
            vectors.setdefault(token, vector(token))
        read = torch.stack([vectors[token] for token in [*ids, *[ids[-1]] * (LENGTH - len(ids))]])
        before = torch.cumsum(read, dim=0) - read
        before = before / torch.arange(LENGTH).clamp(min=1).sqrt()[:, None]
        # A token in another context is no sum of what it is in two others.
        both = torch.tanh(read * before)
        states = common + read + BEFORE * (before + both) + POSITION * positions
        embeds[prompt] = PromptEmbeds(states[None], torch.zeros(1, 1280))
    return embeds


def at_size(words: WordList, model: ModelContainer) -> None:
    """Print what a list takes at SD-XL's size."""
    print(
        "| method | places | adapters x rank | CPU s | rank | MiB | undone: mean | most "
        "| retained moved: mean | most | watched moved: mean | most |"
    )
    print(f"|{'---|' * 12}")
    for method, places, rank, adapters in ROWS:
        recipe = recipe_of(words, SDXL, method, places, rank, adapters)
        embeds = random_embeds(model, prompts_of(recipe))
        opened = OpenModel(None, model, embeds, None)  # type: ignore[arg-type]
        solver = build_solver(recipe, opened, SHIPPED)
        began = time.process_time()
        with torch.no_grad():
            solution = solver.solve()
        seconds = time.process_time() - began
        print(
            f"| {method} | {len(places)} | {adapters} x {rank or 'all'} | {seconds:.1f} | "
            f"{_shape(solution)} | {_costs(solution)} |",
            flush=True,
        )


def _shape(solution: Solution) -> str:
    layers = solution.layers.values()
    numbers = sum(layer.up.numel() + layer.down.numel() for layer in layers)
    return f"{max(layer.rank for layer in layers)} | {4 * numbers / 2**20:.0f}"


def _costs(solution: Solution) -> str:
    costs = solution.costs
    assert costs is not None, "concepts have names"
    undone = [each.undone for each in costs.concepts]
    cells = [np.mean(undone), max(undone)]
    for is_preserved in (True, False):
        moved = [each.moved for each in costs.prompts if each.is_preserved == is_preserved]
        cells += [np.mean(moved), max(moved)]
    return " | ".join(f"{cell:.1%}" for cell in cells)


def against_pixels(num_seeds: int) -> None:
    """Print how well the motion of states tells which images change."""
    shown = {color: [f"a {color} {shape}" for shape in SHAPES] for color in COLORS}
    for erased in (["red"], ["green"], ["pink", "cyan"]):
        others = [color for color in shown if color not in (*erased, "blue")]
        prompts = [prompt for color in others for prompt in shown[color]]
        concepts = [
            {"target": f"a {color} {shape}", "neutral": f"a blue {shape}"}
            for color in erased
            for shape in SHAPES
        ]
        recipe = {
            "version": 1,
            "base_model": {"id": "builtin:shapes-xl", "device": "cpu"},
            "method": {"name": "uce", "concepts": concepts, "watch": prompts},
            "sample": {"prompts": prompts, "scales": [0, 1], "batch_size": 16},
            "proof": {"enabled": False},
        }
        rho = _rho(recipe, prompts, num_seeds)
        print(f"| {', '.join(erased)} | {len(prompts)} x {num_seeds} | {rho:.2f} |", flush=True)


def _rho(content: Mapping[str, Any], prompts: Sequence[str], num_seeds: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "recipe.yaml")
        file.write_text(json.dumps(content))
        ready = bench.ready([], recipe=file)
    ready.run.run()
    assert isinstance(ready.run, SolvedRun), "uce computes its adapter"
    assert ready.run.costs is not None, "concepts have names"
    moved = {each.label: each.moved for each in ready.run.costs.prompts}
    grid = replace(Grid.of_samples(ready.recipe), seeds=tuple(range(50, 50 + num_seeds)))
    images = draw_grid(
        ready.model.container,
        ready.run.scale,
        ready.recipe,
        ready.model.drawn_embeds,
        grid,
        plugins=SHIPPED,
    )
    changed = np.abs(images[..., 1, :, :, :] - images[..., 0, :, :, :]).mean(axis=(-3, -2, -1))
    return spearman([moved[prompt] for prompt in prompts], changed.mean(axis=1))


def main() -> None:
    arguments = numbers_of(__doc__, threads=1, concepts=100, seeds=2)
    torch.set_num_threads(arguments.threads)
    print(bench.machine())
    model = open_shapes(SDXL, None, torch.float32).container
    for number, layer in enumerate(model.text_projections().values()):
        generator = torch.Generator().manual_seed(number)
        weight = torch.randn(*layer.weight.shape, generator=generator) / WIDTH**0.5
        layer.weight = torch.nn.Parameter(weight.bfloat16(), requires_grad=False)
    words = read_words(Path(__file__).with_name("erase_list.csv"))
    words = replace(words, erase=words.erase[: arguments.concepts])
    numbers = f"{len(words.erase)} concepts, {len(words.retain)} retained"
    print(f"\n{numbers}, {len(words.watch)} watched\n")
    at_size(words, model)
    if arguments.seeds:
        print("\n| erased | images | Spearman of states moved and pixels changed |\n|---|---|---|")
        against_pixels(arguments.seeds)


if __name__ == "__main__":
    main()
