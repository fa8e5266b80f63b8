"""What each kind of adapter makes of the slider recipe, and how large its file is.

Every kind trains the same steps with the rate and scaling that suit its size; the effect is read
off the held-out pictures, as in the proof.

    python benchmarks/adapters.py [NAME …] [--steps 80]
"""

from __future__ import annotations

import argparse
import math

import bench

SETTINGS = {
    "lora": ("adapter.alpha=4", "optimizer.lr=5.0e-4"),
    "locon": ("adapter.alpha=4", "optimizer.lr=5.0e-4"),
    "dora": ("adapter.alpha=4", "optimizer.lr=5.0e-4"),
    "loha": ("adapter.alpha=4", "optimizer.lr=4.0e-3"),
    "lokr": ("adapter.alpha=4", "optimizer.lr=2.0e-3"),
    "oft": ("adapter.alpha=1", "adapter.rank=8", "optimizer.lr=1.0e-3"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=list(SETTINGS))
    parser.add_argument("--steps", type=int, default=80)
    arguments = parser.parse_args()
    print(bench.machine())
    print(
        "| adapter | settings | trained | CPU s | effect | mean area at −3 … 3 | ρ mean / worst |",
        end="",
    )
    print(" least preserved within ±2 |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.names:
        settings = SETTINGS[name]
        subject = bench.ready([f"adapter.name={name}", *settings, f"train.steps={arguments.steps}"])
        clock = bench.CpuClock()
        subject.run.run()
        seconds = clock.seconds()
        report = bench.prove_quietly(subject)
        areas = dict(zip(report.scales, report.effect.mean, strict=True))
        effect = math.log(areas[2.0] / areas[-2.0])
        trained = sum(p.numel() for p in subject.run.parameters.values())
        curve = " ".join(
            f"**{area:.0f}**" if at == 0 else f"{area:.0f}" for at, area in areas.items()
        )
        rho = report.effect.rho
        shown = ", ".join(setting.partition(".")[2].replace("=", ": ") for setting in settings)
        print(
            f"| {name} | {shown} | {trained:,} | {seconds:.1f} | {effect:.3f} | {curve} |"
            f" {rho.mean:.3f} / {rho.worst:.3f} | {bench.least_preserved(report):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
