"""What does a trained slider cost at the least, and how sure is it, seed by seed?

Three ways to the size slider: the UNet alone with the bank of recipes/slider_unet.yaml, the UNet
alone with a bank of 8 images and 32 samples in 12 steps, and recipes/slider.yaml, which begins in
text space and then takes these 12 steps, or as many as the goal takes. Share and rate were chosen
with red and green alone in the concepts, on prompts with blue and yellow (`--choose 1`). The table
is of the recipes' 16 held-out prompts, of four other colours.

The goal is an area of at least 1.5 times at +2 and at most 0.67 times at −2, and ρ of each sample
of at least 0.9. Seed n of the training is drawn with noise of seeds 2000 + 2n and 2001 + 2n. UNet
rows are counted where they are computed, the bank's included; a backward counts as one more.

    python benchmarks/cheapest_slider.py [--seeds 10] [--way 0] [--choose 0]

`--way 1` to `4` is one of the ways alone.
"""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass
from pathlib import Path

import bench
import torch
from bench_options import numbers_of

from loba_tui.core.program.evaluation.report import Report

LARGER, SMALLER, RHO = 1.5, 0.67, 0.9
MOST_STEPS, EVERY = 32, 4
SMALL_BANK = (
    "method.rollout_steps=4",
    "method.bank_images=8",
    "method.bank_samples=32",
    "train.steps=12",
)
UNET, WARM = bench.RECIPES / "slider_unet.yaml", bench.RECIPES / "slider.yaml"
CHOICE_SEEDS, CHOICE_NOISE = (0, 1), (0, 1)


@dataclass(frozen=True)
class Way:
    """A recipe with changes.

    Attributes:
        every: Steps between looks at whether the areas are those of the goal, which end it.
    """

    name: str
    recipe: Path
    overrides: tuple[str, ...] = ()
    every: int = 0


WAYS = (
    Way("UNet alone, 85 steps", UNET),
    Way("UNet alone, 12 steps", UNET, (*SMALL_BANK, "optimizer.lr=2.0e-3")),
    Way("text space, then 12 steps", WARM),
    Way("text space, to the goal", WARM, (f"train.steps={MOST_STEPS}",), EVERY),
)
TRIED = (
    *(Way(f"text space {share}, rate {rate}", WARM,
          (f"method.text_strength={share}", f"optimizer.lr={rate}"))
      for share, rate in ((0.3, 1e-3), (0.4, 1e-3), (0.3, 2e-3), (0.4, 2e-3))),
    Way("UNet alone, rate 0.002", UNET, (*SMALL_BANK, "optimizer.lr=2.0e-3")),
)  # fmt: skip
CHOICE_PROMPTS = [
    f"a {color} {shape} on a {ground} background"
    for color, ground in (("blue", "white"), ("yellow", "black"), ("blue", "gray"))
    for shape in ("circle", "square", "triangle", "cross")
]
CHOICE = (
    "method.concepts.0.vary.color=[red, green]",
    f"proof.prompts=[{', '.join(CHOICE_PROMPTS)}]",
)


@dataclass(frozen=True)
class Result:
    """What one training came to."""

    rows: int
    cpu_seconds: float
    report: Report

    @property
    def sides(self) -> tuple[float, float]:
        """Mean area at −2 and at +2, against that at 0."""
        assert self.report.effect is not None
        areas = dict(zip(self.report.scales, self.report.effect.mean, strict=True))
        return areas[-2.0] / areas[0.0], areas[2.0] / areas[0.0]

    @property
    def worst(self) -> float:
        """Worst ρ of a sample, over the scales at which it has a shape."""
        assert self.report.effect is not None
        return self.report.effect.rho.worst

    @property
    def is_enough(self) -> bool:
        smaller, larger = self.sides
        return larger >= LARGER and smaller <= SMALLER and self.worst >= RHO

    def line(self) -> str:
        effect, (smaller, larger) = self.report.effect, self.sides
        assert effect is not None
        areas = " ".join(f"{area:.0f}" for area in effect.mean)
        lost, kept = 1 - min(effect.share_present), bench.least_preserved(self.report)
        return (
            f"{self.rows:,} | {self.cpu_seconds:.1f} | {areas} | {smaller:.2f}, {larger:.2f}"
            f" | {effect.rho.mean:.3f} / {self.worst:.3f} | {kept:.2f}"
            f" | {lost:.0%} | {'yes' if self.is_enough else 'no'} |"
        )


class Reached(Exception):
    """The goal is reached; training need not go on."""


def train(way: Way, seed: int, *, is_choice: bool) -> Result:
    """Train once, and measure on the prompts that are trained or on those that are held out."""
    overrides = [*way.overrides, f"train.seed={seed}", *(CHOICE if is_choice else ())]
    noise = CHOICE_NOISE if is_choice else (2000 + 2 * seed, 2001 + 2 * seed)

    def look(_: int) -> None:
        clock.without(look_off_the_clock)

    def look_off_the_clock() -> None:
        seen = bench.prove_quietly(subject, (-2.0, 0.0, 2.0), seeds=noise)
        smaller, larger = Result(0, 0.0, seen).sides
        if larger >= LARGER and smaller <= SMALLER:
            raise Reached

    overrides.append(f"sample.every={way.every}")
    subject = bench.ready(overrides, recipe=way.recipe, sample=look)
    clock = bench.CpuClock()
    with contextlib.suppress(Reached):
        subject.run.run()
    seconds = clock.seconds()
    report = bench.prove_quietly(subject, seeds=noise)
    return Result(subject.num_unet_rows, seconds, report)


def main() -> None:
    arguments = numbers_of(__doc__, seeds=10, way=0, choose=0)
    torch.set_num_threads(1)
    print(bench.machine())
    print(
        "| way | seed | UNet rows | CPU s | mean area at −3 … 3 | at −2, +2 against 0"
        " | ρ mean / worst | least kept within ±2 | no shape, at most | goal |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    is_choice = bool(arguments.choose)
    ways = WAYS[arguments.way - 1 :][:1] if arguments.way else WAYS
    for way in TRIED if is_choice else ways:
        results = []
        for seed in CHOICE_SEEDS if is_choice else range(arguments.seeds):
            results.append(train(way, seed, is_choice=is_choice))
            print(f"| {way.name} | {seed} | {results[-1].line()}", flush=True)
        reached = sum(result.is_enough for result in results)
        rows = statistics.median(result.rows for result in results)
        worst = min(result.worst for result in results)
        print(
            f"| **{way.name}** | all | {rows:,.0f} in the median | | | | worst {worst:.3f} | |"
            f" | {reached} of {len(results)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
