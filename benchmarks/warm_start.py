"""Does a slider that begins as the instant slider need fewer steps?

recipes/slider_unet.yaml is trained twice for each seed, from the base model and with
`method.warm_start: instant`, and measured on its held-out prompts every few steps, step 0 included.
The goal is that of benchmarks/optimizers.py: ρ per sample at least 0.95 in the mean, area at least
1.5 times at +2 and at most 0.67 times at −2.

    python benchmarks/warm_start.py [--seeds 0 1] [--steps 60] [--every 10] [--set adapter.rank=16]
"""

from __future__ import annotations

import argparse
import contextlib

import bench

from loba_tui.core.program.evaluation.report import Report

RHO, LARGER, SMALLER = 0.95, 1.5, 0.67
SCALES = (-2.0, -1.0, 0.0, 1.0, 2.0)


class Reached(Exception):
    """The goal is reached; training need not go on."""


def is_enough(report: Report) -> bool:
    areas = dict(zip(report.scales, report.effect.mean, strict=True))
    larger, smaller = areas[2.0] / areas[0.0], areas[-2.0] / areas[0.0]
    return report.effect.rho.mean >= RHO and larger >= LARGER and smaller <= SMALLER


def train(start: str, arguments: argparse.Namespace, seed: int) -> None:
    """Print a line for every look until the goal is reached."""
    overrides = [f"train.steps={arguments.steps}", f"train.seed={seed}", *arguments.overrides]
    overrides += [f"sample.every={arguments.every}", f"method.warm_start={start}"]

    def look(step: int) -> None:
        report = bench.prove_quietly(subject, SCALES)
        areas = " ".join(f"{area:4.0f}" for area in report.effect.mean)
        rho = report.effect.rho
        print(f"{start:8} {seed:4} {step:5}  {areas}  {rho.mean:.3f} / {rho.worst:.3f}", end="")
        print("  goal" if is_enough(report) else "", flush=True)
        if is_enough(report):
            raise Reached

    subject = bench.ready(overrides, sample=look)
    with contextlib.suppress(Reached):
        if start != "null":  # the base model itself does nothing at any scale
            look(0)
        subject.run.run()
        look(arguments.steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    print(bench.machine())
    print("start    seed steps  mean area at -2 … 2       rho mean / worst")
    for seed in arguments.seeds:
        for start in ("null", "instant"):
            train(start, arguments, seed)


if __name__ == "__main__":
    main()
