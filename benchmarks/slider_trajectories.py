"""Do `rolling` and `bank` reach the effect of the reference's trajectories for less work?

`restart` is the reference algorithm: a fresh DDIM rollout of up to N = 50 steps for every training
step, adapter on, one concept and timestep a step. `rolling` keeps latents in flight. `bank` keeps
noisy latents of images that the base drew in 8 steps, with the teachers' predictions for them; its
own making is counted. Everything else (concepts, adapter, optimizer, both signs, preserve term) is
the same recipe.

For each seed `restart` trains for a fixed number of steps. Each of the others is measured every few
steps and charged for the first measurement at which its effect on held-out prompts, the logarithm
of mean area at +2 over mean area at −2, is at least that of `restart`. If it never gets there, the
table says so. UNet rows are counted where they are computed; a backward counts as one more row.

    python benchmarks/slider_trajectories.py [--seeds 0 1 2] [--names rolling bank]
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import bench

from loba_tui.core.program.evaluation.report import Report

RESTART = (
    "method.trajectories=restart",
    "method.rollout_steps=50",
    "method.rollout_scale=1.0",
    "scheduler.noise={name: ddim}",
)
OURS = {
    "rolling": ("method.trajectories=rolling", "method.rollout_steps=20"),
    "bank": ("method.trajectories=bank", "method.rollout_steps=8"),
}


def effect_of(report: Report) -> float:
    """Return log(mean area at +2 / mean area at −2)."""
    areas = dict(zip(report.scales, report.effect.mean, strict=True))
    return math.log(areas[2.0] / areas[-2.0])


@dataclass(frozen=True)
class Result:
    """What one training came to at one step."""

    name: str
    seed: int
    step: int
    rows: int
    cpu_seconds: float
    report: Report

    @property
    def effect(self) -> float:
        return effect_of(self.report)

    def line(self) -> str:
        areas = " ".join(f"{area:.0f}" for area in self.report.effect.mean)
        rho = self.report.effect.rho
        return (
            f"| `{self.name}` | {self.seed} | {self.step} | {self.rows:,} | {self.cpu_seconds:.1f}"
            f" | {self.effect:.3f} | {areas} | {rho.mean:.3f} / {rho.worst:.3f}"
            f" | {bench.least_preserved(self.report):.2f} |"
        )


class Reached(Exception):
    """The goal is reached; training need not go on."""


def train(
    name: str,
    seed: int,
    steps: int,
    overrides: tuple[str, ...] = (),
    *,
    every: int = 0,
    goal: float = math.inf,
) -> Result:
    """Train until the effect reaches a goal, looked at every few steps, or to the end."""

    def look(step: int) -> None:
        clock.without(lambda: look_off_the_clock(step))

    def look_off_the_clock(step: int) -> None:
        if effect_of(bench.prove_quietly(subject, (-2.0, 0.0, 2.0))) >= goal:
            raise Reached

    subject = bench.ready(
        [*overrides, f"train.steps={steps}", f"train.seed={seed}", f"sample.every={every}"],
        sample=look,
    )
    trainer, clock = subject.run, bench.CpuClock()
    with contextlib.suppress(Reached):
        trainer.run()
    rows, seconds = subject.num_unet_rows, clock.seconds()
    return Result(name, seed, trainer.step, rows, seconds, bench.prove_quietly(subject))


def compare(
    seeds: Sequence[int],
    names: Sequence[str] = tuple(OURS),
    *,
    restart_steps: int = 150,
    most_steps: int = 200,
    every: int = 5,
) -> None:
    """Print what each kind of trajectories took, seed by seed, and by how much ours are cheaper."""
    print(
        "| trajectories | seed | steps | UNet rows | CPU s | effect | mean area at −3 … 3"
        " | ρ mean / worst | least preserved within ±2 |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for seed in seeds:
        reference = train("restart", seed, restart_steps, RESTART)
        print(reference.line(), flush=True)
        for name in names:
            ours = train(name, seed, most_steps, OURS[name], every=every, goal=reference.effect)
            print(ours.line(), flush=True)
            if ours.effect >= reference.effect:
                ratios[name].append(
                    (reference.rows / ours.rows, reference.cpu_seconds / ours.cpu_seconds)
                )
    print()
    for name, found in ratios.items():
        for what, place in (("UNet rows", 0), ("CPU seconds", 1)):
            values = [ratio[place] for ratio in found]
            if values:
                listed = ", ".join(f"{ratio:.1f}" for ratio in values)
                print(f"{what}: restart / {name} = {statistics.median(values):.1f}× ({listed})")
        if len(found) < len(seeds):
            never = len(seeds) - len(found)
            print(f"{name} never reached the effect of restart with {never} of the seeds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--restart-steps", type=int, default=150)
    parser.add_argument("--most-steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--names", nargs="+", choices=OURS, default=list(OURS))
    arguments = parser.parse_args()
    print(bench.machine())
    compare(
        arguments.seeds,
        arguments.names,
        restart_steps=arguments.restart_steps,
        most_steps=arguments.most_steps,
        every=arguments.every,
    )


if __name__ == "__main__":
    main()
