"""docs/methods.png: what each method makes of some prompts, from the shipped recipes themselves.

    python benchmarks/method_pictures.py [--out docs/methods.png]

Each recipe is trained or solved as `loba run` would do it (about five minutes for all of them), and
drawn at both ends of its scales and at 0, on prompts of its own proof, from one seed.
"""

from __future__ import annotations

import argparse
import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import bench
import matplotlib.pyplot as plt
import numpy as np

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.open_model import batch_of
from loba_tui.core.program.sampling.images import sample_scales

COLUMNS = (
    (
        ("slider", "size, from words"),
        ("slider_brightness", "brightness, from words"),
        ("instant_slider", "size, in closed form"),
        ("image_slider", "size, from images at four sizes"),
        ("addift", "size, from pairs in 30 steps"),
        ("region_slider", "brightness, inside masks alone"),
        ("lora_style", "everything as a blueprint"),
    ),
    (
        ("uce", "red erased in closed form"),
        ("leco", "red erased by LECO"),
        ("esd", "red erased by ESD-x"),
        ("esd_u", "red erased by ESD-u"),
        ("lora_color_swap", "what is called red is green"),
        ("lora_content", "a shape is a yellow cross"),
        ("lora_masked", "a colour swap inside masks"),
    ),
)
"""Recipes and what they do, in two columns."""
_CELLS, _GAP = 9, 3


@dataclass(frozen=True)
class Picture:
    """What a recipe makes of its prompts.

    Attributes:
        images: (num_prompts, num_scales, H, W, 3).
        scales: The lowest, 0 and the highest.
    """

    images: np.ndarray
    scales: tuple[float, ...]


def draw(name: str) -> Picture:
    """Make a recipe's adapter and draw it."""
    ready = bench.ready([], recipe=bench.RECIPES / f"{name}.yaml")
    recipe = ready.recipe
    ready.run.run()
    scales = tuple(sorted({min(recipe.sample.scales), 0.0, max(recipe.sample.scales)}))
    prompts = recipe.proof_prompts
    num_prompts = min(_CELLS // len(scales), len(prompts))
    chosen = [prompts[i] for i in np.linspace(0, len(prompts) - 1, num_prompts).astype(int)]
    with ready.run.averaged_weights():
        images = sample_scales(
            ready.model.container,
            ready.run.scale,
            batch_of(ready.model.embeds, chosen),
            scales=scales,
            seeds=recipe.proof.seeds[:1],
            settings=recipe.sample,
            plugins=SHIPPED,
        )
    return Picture(images[:, 0], scales)


def sheet(picture: Picture) -> np.ndarray:
    """Return all images of a recipe in one row, those of a prompt side by side."""
    height = picture.images.shape[2]
    parts = []
    for prompt in picture.images:
        parts += [np.pad(image, ((0, 0), (0, 1), (0, 0)), constant_values=1) for image in prompt]
        parts.append(np.ones((height, _GAP, 3)))
    row = np.concatenate(parts, axis=1)
    # All rows are of one width, so that all cells come out alike.
    width = (_CELLS * (height + 1)) + _CELLS // 2 * _GAP
    return np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/methods.png"))
    arguments = parser.parse_args()
    size = (len(COLUMNS[0]), len(COLUMNS))
    figure, places = plt.subplots(*size, figsize=(5.6 * size[1], 0.9 * size[0]), dpi=100)
    for column, rows in zip(places.T, COLUMNS, strict=True):
        for place, (name, what) in zip(column, rows, strict=True):
            with redirect_stdout(io.StringIO()):  # libraries greet
                picture = draw(name)
            place.axis("off")
            place.imshow(sheet(picture).clip(0, 1), interpolation="nearest")
            scales = ", ".join(f"{scale:+g}" if scale else "0" for scale in picture.scales)
            place.set_title(f"{name}: {what}   ({scales})", fontsize=8, loc="left", pad=3)
            print(name, flush=True)
    figure.tight_layout(h_pad=0.5, w_pad=0.5)
    figure.savefig(arguments.out)


if __name__ == "__main__":
    main()
