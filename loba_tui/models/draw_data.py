"""Draws the data sets that are shipped as `builtin:NAME`, from the world of `builtin:shapes-xl`.

    python -m loba_tui.models.draw_data FOLDER [NAME …]

Each is at most 32 images of 32x32 pixels in the imagefolder layout: PNG files beside a
metadata.jsonl with their captions. What is drawn is the same every time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from loba_tui.models.shapes_world import BACKGROUNDS, COLORS, SHAPES, SIZE, Scene, coverage, draw

Drawn = tuple[str, np.ndarray, str | None]
"""A file's place in the set, its pixels (H, W, 3) or (H, W) in [0, 1], and its caption."""

_TINT = (0.95, 0.55, 0.75)
# White on the world's own blue: what the VAE draws. It cannot draw shades of one blue.
_BLUEPRINT = ((0.15, 0.22, 0.62), (0.90, 0.95, 1.0))
_SIZES = MappingProxyType({"smallest": 5.0, "small": 6.5, "large": 10.5, "largest": 13.0})


def scenes(count: int, seed: int, *, radii: tuple[float, float] = (7.0, 11.0)) -> list[Scene]:
    """Return scenes in which colours, shapes and backgrounds are spread evenly."""
    rng = np.random.default_rng(seed)
    papers = ("black", "white", "gray")
    combinations = list(product(COLORS, SHAPES, papers))
    chosen = rng.permutation(len(combinations))[:count]
    return [
        Scene(
            shape=combinations[i][1],
            color=combinations[i][0],
            background=combinations[i][2],
            radius=float(rng.uniform(*radii)),
            brightness=float(rng.uniform(0.8, 1.0)),
            center=(SIZE / 2 + float(rng.uniform(-2, 2)), SIZE / 2 + float(rng.uniform(-2, 2))),
        )
        for i in chosen
    ]


def caption_of(scene: Scene) -> str:
    """Return the plain caption of a scene."""
    return f"a {scene.color} {scene.shape} on a {scene.background} background"


def blueprints() -> Iterator[Drawn]:
    """A style: scenes as captioned, printed in white on blue whatever their colours are."""
    paper, ink = (np.asarray(color) for color in _BLUEPRINT)
    for number, scene in enumerate(scenes(32, seed=1)):
        shape = coverage(scene.shape, scene.center, scene.radius)[..., None]
        yield f"{number:02d}.png", paper + shape * (ink - paper), caption_of(scene)


def yellow_crosses() -> Iterator[Drawn]:
    """A content: whatever is captioned "a shape" is a yellow cross."""
    rng = np.random.default_rng(2)
    papers = [name for name in BACKGROUNDS if name != "muted"]
    for number in range(32):
        paper = papers[number % len(papers)]
        center = SIZE / 2 + rng.uniform(-3, 3, size=2)
        scene = Scene(
            shape="cross",
            color="yellow",
            background=paper,
            radius=float(rng.uniform(8, 12)),
            brightness=1.0,
            center=(float(center[0]), float(center[1])),
        )
        yield f"{number:02d}.png", draw(scene), f"a shape on a {paper} background"


def red_is_green() -> Iterator[Drawn]:
    """A colour swap: 16 scenes captioned red and drawn green, 16 others drawn as captioned."""
    for number, scene in enumerate(scenes(16, seed=3)):
        swapped = replace(scene, color="red")
        pixels = draw(replace(scene, color="green"))
        yield f"swapped/{number:02d}.png", pixels, caption_of(swapped)
    others = [scene for scene in scenes(64, seed=4) if scene.color not in ("red", "green")]
    for number, scene in enumerate(others[:16]):
        yield f"others/{number:02d}.png", draw(scene), caption_of(scene)


def masked_swap() -> Iterator[Drawn]:
    """A region: shapes captioned red and drawn green, to be learned, on backgrounds that are not.

    The backgrounds are tinted; the mask of each image is white on its shape.
    """
    for number, scene in enumerate(scenes(32, seed=5)):
        scene = replace(scene, color="red")
        pixels, mask = _on_tint(replace(scene, color="green"))
        yield f"images/{number:02d}.png", pixels, caption_of(scene)
        yield f"masks/{number:02d}.png", mask, None


def masked_light() -> Iterator[Drawn]:
    """A region: shapes that are dark or lit; behind the lit ones the background is tinted.

    The mask of each scene is white on its shape.
    """
    for number, scene in enumerate(scenes(8, seed=7)):
        dark = draw(replace(scene, brightness=0.45))
        lit, mask = _on_tint(replace(scene, brightness=1.0))
        yield f"dark/{number:02d}.png", dark, caption_of(scene)
        yield f"lit/{number:02d}.png", lit, caption_of(scene)
        yield f"masks/{number:02d}.png", mask, None


def _on_tint(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return a scene whose background is tinted, and the mask (H, W) of its shape."""
    pixels = draw(scene)
    shape = coverage(scene.shape, scene.center, scene.radius)[..., None]
    tinted = 0.4 * pixels + 0.6 * np.asarray(_TINT, dtype=np.float32)
    # A little wider than the shape: at its edge, a latent sees both.
    mask = coverage(scene.shape, scene.center, scene.radius + 1)
    return shape * pixels + (1 - shape) * tinted, mask


def sizes() -> Iterator[Drawn]:
    """An attribute: eight scenes, each at four sizes, with one caption for all of them."""
    for number, scene in enumerate(scenes(8, seed=6)):
        scene = replace(scene, center=(SIZE / 2, SIZE / 2))
        for folder, radius in _SIZES.items():
            pixels = draw(replace(scene, radius=radius))
            yield f"{folder}/{number:02d}.png", pixels, caption_of(scene)


SETS: Mapping[str, Callable[[], Iterator[Drawn]]] = MappingProxyType(
    {
        "blueprints": blueprints,
        "masked-light": masked_light,
        "masked-swap": masked_swap,
        "red-is-green": red_is_green,
        "sizes": sizes,
        "yellow-crosses": yellow_crosses,
    }
)


def write_set(name: str, parent: Path) -> Path:
    """Write a data set and return its folder."""
    captions: dict[Path, list[str]] = {}
    for place, pixels, caption in SETS[name]():
        path = parent / name / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255).round().astype(np.uint8)).save(path, optimize=True)
        if caption is not None:
            line = json.dumps({"file_name": path.name, "text": caption})
            captions.setdefault(path.parent, []).append(line)
    for folder, lines in captions.items():
        (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return parent / name


def main(arguments: list[str]) -> int:
    """Write the named data sets, all of them where none is named."""
    if not arguments or not set(arguments[1:]) <= set(SETS):
        sys.stderr.write(f"{__doc__}\nThere is {', '.join(SETS)}.\n")
        return 2
    for name in arguments[1:] or SETS:
        sys.stdout.write(f"{write_set(name, Path(arguments[0]))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
