"""Measure how well an embedded model follows prompts: `python benchmarks/shapes_xl.py [--json]`.

`--model shapes-z` measures the other one. Every figure is read off the pixels by
`loba_tui.models.shapes_world.read`. `--card` writes the table into the model's README.md, where no
figure is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline

import loba_tui.models
from loba_tui.models import shapes_world as world

MODELS = Path(loba_tui.models.__file__).parent
CARD_MARKS = ("<!-- figures: benchmarks/shapes_xl.py --card -->", "<!-- end of figures -->")
SIZES = ("", "small", "medium", "large")
BATCH = 32


@dataclass(frozen=True)
class Request:
    """A prompt and what its image ought to show; None where the prompt does not say."""

    prompt: str
    size: str | None = None
    color: str | None = None
    shape: str | None = None
    background: str | None = None


@dataclass(frozen=True)
class Sampling:
    """How images are made; the guidance is the pipeline's own number."""

    steps: int
    guidance: float
    seed: int = 1000


# Z-Image's pipeline calls guidance of scale 4 a scale of 3.
SAMPLING = {"shapes-xl": Sampling(20, 4.0), "shapes-z": Sampling(12, 3.0)}


def sample(
    pipeline: DiffusionPipeline, prompts: list[str], sampling: Sampling, *, first: int = 0
) -> list[world.Reading]:
    """Sample one image a prompt, with seeds counting up from `first`, and read them."""
    readings: list[world.Reading] = []
    for start in range(0, len(prompts), BATCH):
        chunk = prompts[start : start + BATCH]
        seeds = range(sampling.seed + first + start, sampling.seed + first + start + len(chunk))
        images = pipeline(
            list(chunk),  # Z-Image's writes into it
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            height=world.SIZE,
            width=world.SIZE,
            output_type="np",
        ).images
        readings += [world.read(image) for image in images]
    return readings


def full_requests(num: int, rng: np.random.Generator) -> list[Request]:
    """Fully specified prompts, shapes and size words taking turns."""
    requests = []
    for index in range(num):
        shape = world.SHAPES[index % len(world.SHAPES)]
        size = SIZES[index // len(world.SHAPES) % len(SIZES)]
        background = str(rng.choice(list(world.BACKGROUNDS)))
        color = str(rng.choice([name for name in world.COLORS if name != background]))
        article = "an" if not size and color[0] == "o" else "a"
        words = " ".join(word for word in (article, size, color, shape) if word)
        prompt = f"{words} on a {background} background"
        requests.append(Request(prompt, size, color, shape, background))
    return requests


def partial_requests(num: int, rng: np.random.Generator) -> list[Request]:
    """Short prompts in turns: colour and shape, shape alone, colour alone, shape and background."""
    requests = []
    for index in range(num):
        shape = str(rng.choice(world.SHAPES))
        background = str(rng.choice(list(world.BACKGROUNDS)))
        color = str(rng.choice([name for name in world.COLORS if name != background]))
        requests.append(
            (
                Request(f"a {color} {shape}", color=color, shape=shape),
                Request(shape, shape=shape),
                Request(color, color=color),
                Request(
                    f"a {shape} on a {background} background", shape=shape, background=background
                ),
            )[index % 4]
        )
    return requests


def accuracy(requests: list[Request], readings: list[world.Reading], attribute: str) -> float:
    """Return the share of images that show what the prompt says, of prompts that say it."""
    hits = [
        getattr(reading, attribute) == getattr(request, attribute)
        for request, reading in zip(requests, readings, strict=True)
        if getattr(request, attribute)
    ]
    return float(np.mean(hits)) if hits else float("nan")


def auc(low: list[float], high: list[float]) -> float:
    """Return the chance that a value of `high` is above one of `low`."""
    gaps = np.subtract.outer(np.asarray(high), np.asarray(low))
    return float(np.mean((gaps > 0) + 0.5 * (gaps == 0)))


def measure(
    pipeline: DiffusionPipeline, num: int, sampling: Sampling
) -> dict[str, float | dict[str, float]]:
    """Measure everything; `num` fully specified prompts, half as many partial ones and pairs."""
    rng = np.random.default_rng(sampling.seed)
    figures: dict[str, float | dict[str, float]] = {
        "prompts": num,
        "guidance_scale": sampling.guidance,
        "steps": sampling.steps,
    }
    requests = full_requests(num, rng)
    readings = sample(pipeline, [request.prompt for request in requests], sampling)
    for attribute in ("color", "background", "shape"):
        figures[attribute] = accuracy(requests, readings, attribute)
        values = sorted({getattr(request, attribute) for request in requests})
        figures[f"{attribute}_by_{attribute}"] = {
            value: _accuracy_where(requests, readings, attribute, attribute, value)
            for value in values
        }
    figures["shape_by_size"] = {
        size or "no size word": _accuracy_where(requests, readings, "shape", "size", size)
        for size in SIZES
    }
    figures["area_by_size"] = {
        size or "no size word": float(
            np.mean([g.area for r, g in zip(requests, readings, strict=True) if r.size == size])
        )
        for size in SIZES
    }

    requests = partial_requests(num // 2, rng)
    readings = sample(pipeline, [request.prompt for request in requests], sampling, first=num)
    for attribute in ("color", "background", "shape"):
        figures[f"partial_{attribute}"] = accuracy(requests, readings, attribute)

    pairs = [request for request in full_requests(4 * num, rng) if request.size == "small"]
    pairs = pairs[: num // 2]
    small = sample(pipeline, [r.prompt for r in pairs], sampling, first=2 * num)
    large = sample(
        pipeline,
        [r.prompt.replace("small", "large") for r in pairs],
        sampling,
        first=2 * num,
    )
    figures["pairs_size_ordered"] = float(
        np.mean([low.area < high.area for low, high in zip(small, large, strict=True)])
    )
    figures["size_auc"] = auc([r.area for r in small], [r.area for r in large])
    dark, bright = (
        sample(pipeline, [r.prompt.replace("small", word) for r in pairs], sampling, first=3 * num)
        for word in ("dark", "bright")
    )
    dark_values, bright_values = ([r.brightness or 0.0 for r in part] for part in (dark, bright))
    figures["pairs_brightness_ordered"] = float(np.mean(np.less(dark_values, bright_values)))
    figures["brightness_auc"] = auc(dark_values, bright_values)
    figures["brightness_by_word"] = {
        "dark": float(np.mean(dark_values)),
        "bright": float(np.mean(bright_values)),
    }
    return figures


def _accuracy_where(
    requests: list[Request], readings: list[world.Reading], attribute: str, key: str, value: str
) -> float:
    """Return the accuracy over the prompts whose `key` is `value`."""
    chosen = [
        pair for pair in zip(requests, readings, strict=True) if getattr(pair[0], key) == value
    ]
    return accuracy([pair[0] for pair in chosen], [pair[1] for pair in chosen], attribute)


def table(figures: dict[str, float | dict[str, float]]) -> str:
    """Return the figures as a Markdown table."""

    def spread(name: str, digits: int = 2) -> str:
        return ", ".join(f"{key} {value:.{digits}f}" for key, value in figures[name].items())

    rows = [
        ("colour right", f"{figures['color']:.3f}", spread("color_by_color")),
        ("background right", f"{figures['background']:.3f}", spread("background_by_background")),
        ("shape right", f"{figures['shape']:.3f}", spread("shape_by_shape")),
        ("shape right, by size word", "", spread("shape_by_size")),
        ("mean area in pixels, by size word", "", spread("area_by_size", 0)),
        ("short prompts: colour right", f"{figures['partial_color']:.3f}", ""),
        ("short prompts: background right", f"{figures['partial_background']:.3f}", ""),
        ("short prompts: shape right", f"{figures['partial_shape']:.3f}", ""),
        (
            "large has more area than small, same seed",
            f"{figures['pairs_size_ordered']:.3f}",
            f"AUC over all {figures['size_auc']:.3f}",
        ),
        (
            "bright is brighter than dark, same seed",
            f"{figures['pairs_brightness_ordered']:.3f}",
            f"AUC over all {figures['brightness_auc']:.3f}; mean {spread('brightness_by_word')}",
        ),
    ]
    lines = [
        f"{figures['prompts']} fully specified prompts, {figures['prompts'] // 2} short ones and "
        f"{figures['prompts'] // 2} pairs of each kind, {figures['steps']} Euler steps, guidance "
        f"scale {figures['guidance_scale']:g}, float32 on a CPU.",
        "",
        "| measured | figure | in detail |",
        "|---|---|---|",
        *(f"| {name} | {figure} | {detail} |" for name, figure, detail in rows),
    ]
    return "\n".join(lines)


def update_card(card: Path, text: str) -> None:
    """Replace what stands between the marks in the model card."""
    before, rest = card.read_text().split(CARD_MARKS[0])
    after = rest.split(CARD_MARKS[1])[1]
    card.write_text(f"{before}{CARD_MARKS[0]}\n\n{text}\n\n{CARD_MARKS[1]}{after}")


def main() -> int:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="shapes-xl", choices=SAMPLING)
    parser.add_argument("--folder", type=Path, help="another folder than the embedded model's")
    parser.add_argument("--num", type=int, default=256, help="fully specified prompts")
    parser.add_argument("--steps", type=int, help="default: as the model is meant to be sampled")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--seed", type=int, default=Sampling.seed)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--card", action="store_true", help="write the table into the model card")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.folder or MODELS / options.model
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    usual = SAMPLING[options.model]
    sampling = Sampling(
        options.steps or usual.steps, options.guidance or usual.guidance, options.seed
    )
    figures = measure(pipeline, options.num, sampling)
    text = json.dumps(figures, indent=2) if options.json else table(figures)
    sys.stdout.write(f"{text}\n")
    if options.card:
        update_card(folder / "README.md", table(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
