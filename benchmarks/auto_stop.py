"""Where `train.stop_when` ends the slider recipe, and what the slider then is.

Each seed has 200 steps to make and a check every 5 steps; the rule ends it earlier, or not. The
checks' own UNet rows, which are not the training's, are counted beside it.

    python benchmarks/auto_stop.py [--seeds 0 1 2] [--steps 200]
"""

from __future__ import annotations

import argparse
import math

import bench

RULES = ("strength: 0.25", "gain: 0.05")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rules", nargs="+", default=list(RULES))
    arguments = parser.parse_args()
    print(bench.machine())
    print("| stop_when | seed | steps | UNet rows | checks' rows | strength | effect |", end="")
    print(" ρ mean / worst | least preserved within ±2 |")
    print("|---|---|---|---|---|---|---|---|---|")
    for rule in arguments.rules:
        for seed in arguments.seeds:
            row(rule, seed, arguments.steps)


def row(rule: str, seed: int, steps: int) -> None:
    overrides = (f"train.seed={seed}", f"train.steps={steps}", "train.efficacy_every=5")
    subject = bench.ready([*overrides, f"train.stop_when={{{rule}}}"])
    trainer = subject.run
    trainer.run()
    early_stop = trainer._parts.early_stop
    probe = early_stop._probe
    num_check_rows = probe._held_out.num_unet_rows + probe.num_predicted_rows
    report = bench.prove_quietly(subject)
    areas = dict(zip(report.scales, report.effect.mean, strict=True))
    effect, rho = math.log(areas[2.0] / areas[-2.0]), report.effect.rho
    print(
        f"| {rule} | {seed} | {trainer.step} | {subject.num_unet_rows:,} | {num_check_rows:,} |"
        f" {early_stop.checks[-1].strength:.3f} | {effect:.3f} | {rho.mean:.3f} / {rho.worst:.3f} |"
        f" {bench.least_preserved(report):.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
