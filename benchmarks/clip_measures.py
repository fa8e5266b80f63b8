"""Does CLIP rank what a slider does as the pixels do?

Sliders of the embedded model, made by shipped recipes and methods: size, brightness, and a hue from
blue to red. Their held-out prompts are drawn at seven or nine scales with noise of seeds 3000 and
on, and each image is read twice: by the pixels, and by `clip_direction` between two texts that are
written below and were not chosen by these images. Told is Spearman's rho of both over the scales of
each prompt and seed, mean and worst; a sample in which the pixels do not move, or show no shape,
counts as 0. `--model` names another CLIP, and `--trained` draws prompts that the sliders were
trained on, with other noise: those may be looked at while a model is being made.

    python benchmarks/clip_measures.py [--seeds 2] [--model builtin:shapes-clip] [--trained]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench
import numpy as np
import torch
from text_space import SLIDERS, recipe_of

from loba_tui.core.associate.image_models.clip import Clip
from loba_tui.core.associate.image_models.files import find_files
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.evaluation.measure import read_values
from loba_tui.core.program.evaluation.slider_effect import spearman
from loba_tui.core.program.sampling.recipe_images import Grid, draw_grid
from loba_tui.core.recipe.load import dump_recipe, load_recipe, parse_recipe
from loba_tui.core.recipe.measure_models import MeasureModel
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.method import Choice
from loba_tui.models import shapes_world as world

SCALES: Mapping[str, tuple[float, ...]] = {
    "size": (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0),
    "brightness": (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0),
    # At ±1 shapes are blue and red; past that these sliders change something else.
    "hue": (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0),
}
FIRST_SEED, FIRST_TRAINED_SEED = 3000, 100
DIRECTIONS: Mapping[str, tuple[str, str]] = {
    "size": ("a large shape", "a small shape"),
    "brightness": ("a bright shape", "a dark shape"),
    "hue": ("a red shape", "a blue shape"),
}
PIXELS: Mapping[str, Mapping[str, Any]] = {
    "size": {"name": "shape_area"},
    "brightness": {"name": "shape_brightness"},
    "hue": {"name": "color_axis", "low": world.COLORS["blue"], "high": world.COLORS["red"]},
}
WORDS: Mapping[str, tuple[Sequence[str], str]] = {
    "color": (tuple(world.COLORS), "a {} shape"),
    "shape": (world.SHAPES, "a {}"),
    "background": (tuple(world.BACKGROUNDS), "a shape on a {} background"),
    "size": (tuple(world.SIZE_WORDS), "a {} shape"),
}


@dataclass(frozen=True)
class Case:
    """A slider, and the attribute that it moves."""

    attribute: str
    recipe: Recipe

    @property
    def trained(self) -> list[str]:
        """A dozen of the prompts that it is made of."""
        targets = [concept.target for concept in self.recipe.method.expanded_concepts]
        return targets[:: max(1, len(targets) // 12)][:12]


def cases() -> dict[str, Case]:
    """Return the sliders by name."""
    files = {name: bench.RECIPES / f"{name}.yaml" for name in ("slider", "slider_brightness")}
    shipped = {name: load_recipe(path, plugins=SHIPPED) for name, path in files.items()}
    unet = load_recipe(bench.RECIPES / "slider_unet.yaml", plugins=SHIPPED)
    hue = recipe_of(SLIDERS["hue"])
    return {
        "size, recipes/slider.yaml": Case("size", shipped["slider"]),
        "size, recipes/slider_unet.yaml": Case("size", unet),
        "brightness, recipes/slider_brightness.yaml": Case(
            "brightness", shipped["slider_brightness"]
        ),
        "brightness, text_space_slider": Case("brightness", recipe_of(SLIDERS["brightness"])),
        "hue, text_space_slider": Case("hue", hue),
        "hue, recipes/slider_unet.yaml with its words": Case("hue", with_words_of(unet, hue)),
    }


def with_words_of(recipe: Recipe, other: Recipe) -> Recipe:
    """Return a recipe that trains another's concepts and is proven on its prompts."""
    content, words = recipe.model_dump(mode="json"), other.model_dump(mode="json")
    usual = content["method"]["concepts"][0]
    concepts = [each | {"guidance": usual["guidance"]} for each in words["method"]["concepts"]]
    content["method"]["concepts"] = concepts
    content["proof"]["prompts"] = words["proof"]["prompts"]
    return parse_recipe(content, plugins=SHIPPED)


def images_of(case: Case, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
    """Make a slider, and return its images (prompts times seeds, scales, H, W, 3)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(dump_recipe(case.recipe), encoding="utf-8")
        names = [f"proof.prompts={list(prompts)!r}", "base_model.device=cpu"]
        subject = bench.ready(names, recipe=path)
    subject.run.run()
    with subject.run.averaged_weights():
        images = draw_grid(
            subject.model.container,
            subject.run.scale,
            subject.recipe,
            subject.model.drawn_embeds,
            Grid(prompts, seeds, SCALES[case.attribute]),
            plugins=SHIPPED,
        )
    return images.reshape(-1, *images.shape[2:])


def read(attribute: str, samples: np.ndarray, model: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what the pixels and what CLIP says of each image, NaN where there is no shape."""
    high, low = DIRECTIONS[attribute]
    by_clip = Choice(name="clip_direction", positive=high, negative=low, model=model)
    by_pixels = Choice(**PIXELS[attribute])
    pixels, clip = (read_values(each, samples, SHIPPED) for each in (by_pixels, by_clip))
    return pixels.astype(float), clip.astype(float)


def rhos(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return Spearman's rho of each sample, over the scales at which both say something."""
    found = []
    for one, other in zip(ones, others, strict=True):
        both = np.isfinite(one) & np.isfinite(other)
        found.append(spearman(one[both], other[both]) if both.sum() > 2 else 0.0)
    return np.nan_to_num(found)


def line_of(name: str, pixels: np.ndarray, clip: np.ndarray) -> str:
    """Return a row of the table."""
    scales = np.broadcast_to(np.arange(clip.shape[1], dtype=float), clip.shape)
    each, at_scales = rhos(pixels, clip), rhos(scales, clip)
    means = rhos(np.nanmean(pixels, axis=0)[None], clip.mean(axis=0)[None])[0]
    by_pixels = rhos(scales, pixels)
    columns = [name, str(len(clip)), f"{each.mean():.3f} / {each.min():.3f}", f"{means:.3f}"]
    columns += [f"{rho.mean():.3f} / {rho.min():.3f}" for rho in (at_scales, by_pixels)]
    columns += [" ".join(f"{value:.1f}" for value in clip.mean(axis=0))]
    return f"| {' | '.join(columns)} |"


def card(model: str) -> None:
    """Print how often held-out images are named rightly, of a thousand scenes and of prompts."""
    rng = np.random.default_rng(30_000)
    scenes = [world.random_scene(rng) for _ in range(1000)]
    images = np.stack([world.draw(scene) for scene in scenes])
    case = Case("size", load_recipe(bench.RECIPES / "slider.yaml", plugins=SHIPPED))
    prompts = case.recipe.proof_prompts
    drawn = images_of(case, prompts, [FIRST_SEED, FIRST_SEED + 1])[:, SCALES["size"].index(0)]
    asked = [prompt for prompt in prompts for _ in range(2)]
    folder = find_files(MeasureModel("clip", model))
    clip = Clip(folder, torch.device("cpu"))
    for attribute, (words, text) in WORDS.items():
        texts = clip.of_texts([text.format(word) for word in words])
        found = [list(words)[i] for i in (clip.of_images(images) @ texts.T).argmax(1).tolist()]
        true = [
            getattr(scene, attribute) == word for scene, word in zip(scenes, found, strict=True)
        ]
        found = [list(words)[i] for i in (clip.of_images(drawn) @ texts.T).argmax(1).tolist()]
        # "a red circle on a gray background": the colour's word is the second, the last but one is
        # the background's.
        place = {"color": 1, "shape": 2, "background": -2}.get(attribute)
        shown = ""
        if place is not None:
            said = [prompt.split()[place] for prompt in asked]
            shown = f"{np.mean([a == b for a, b in zip(said, found, strict=True)]):.3f}"
        print(f"| {attribute} | {np.mean(true):.3f} | {shown} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--model", default="builtin:shapes-clip")
    parser.add_argument("--only", default="", help="sliders whose name has this")
    parser.add_argument("--trained", action="store_true", help="prompts that they are made of")
    parser.add_argument("--card", action="store_true", help="how often images are named rightly")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(bench.machine())
    if arguments.card:
        card(arguments.model)
        return
    first = FIRST_TRAINED_SEED if arguments.trained else FIRST_SEED
    seeds = list(range(first, first + arguments.seeds))
    print(f"seeds {seeds[0]} to {seeds[-1]}, {arguments.model}")
    heads = ("slider", "samples", "ρ of CLIP and pixels", "of the means", "ρ of CLIP and scale")
    heads += ("ρ of pixels and scale", "clip_direction, mean of each scale")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, case in cases().items():
        if arguments.only not in name:
            continue
        begin = time.perf_counter()
        prompts = case.trained if arguments.trained else case.recipe.proof_prompts
        samples = images_of(case, prompts, seeds)
        print(line_of(name, *read(case.attribute, samples, arguments.model)), flush=True)
        print(f"  {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
