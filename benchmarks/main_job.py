"""The main job against its targets: `loba run RECIPE` as a user types it, then its report.

    python benchmarks/main_job.py [recipes/slider.yaml] [--out-dir DIR]

A first run: nothing is kept of earlier ones. Wall and CPU seconds are of the whole command, imports
and proof included; training seconds are the sum over steps. The figures come from the run's own
metrics.jsonl and report.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", nargs="?", default=str(bench.RECIPES / "slider.yaml"))
    parser.add_argument("--out-dir", default=None)
    arguments = parser.parse_args()
    out_dir = Path(arguments.out_dir or tempfile.mkdtemp(prefix="loba-bench-"))
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "loba_tui.cli", "run", arguments.recipe, "--out-dir"]
    with tempfile.TemporaryDirectory() as kept:
        environ = {**os.environ, "LOBA_CACHE": kept}
        subprocess.run([*command, str(out_dir)], check=True, env=environ)
    wall = time.monotonic() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    newest = max(out_dir.iterdir(), key=lambda path: path.stat().st_mtime)
    report = json.loads((newest / "adapter" / "report.json").read_text())
    metrics = [json.loads(line) for line in (newest / "metrics.jsonl").read_text().splitlines()]
    effect, scales = report["effect"], report["scales"]
    base = effect["mean"][scales.index(0)]
    print()
    print(bench.machine())
    print(f"whole command        {wall:6.1f} s wall, {cpu:6.1f} s CPU")
    training = sum(record["seconds"] for record in metrics)
    print(f"training             {training:6.1f} s, {metrics[-1]['forwards']:,} UNet rows")
    print(f"mean {effect['measure']:15} " + " ".join(f"{value:.4g}" for value in effect["mean"]))
    print("against scale 0      " + " ".join(f"{value / base:.2f}" for value in effect["mean"]))
    rho = effect["rho"]
    print(f"rho per sample       {rho['mean']:.3f} mean, {rho['worst']:.3f} worst")
    print(f"rho within limits    {effect['rho_within_limits']['mean']:.3f} mean")
    print(f"rho of the means     {effect['rho_of_means']:.3f}")
    for preserved in report["preservation"]:
        shares = " ".join(f"{share:.2f}" for share in preserved["share_unchanged"])
        print(f"{preserved['label']:20} {shares}   within ±2: {preserved['least_within_2']:.2f}")
    print(f"outcome              {report['outcome']}, clean range {report['clean_range']}")


if __name__ == "__main__":
    main()
