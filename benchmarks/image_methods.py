"""What training on images reaches: fine-tuning, masks, image sliders and ADDifT, on drawn data.

    python benchmarks/image_methods.py [RECIPE …]

Runs shipped recipes as `loba run` does and prints a row of each from its own report: the measure at
the lowest scale, at 0 and at the highest, what stayed, and how much more changes inside a region.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bench

from loba_tui.core.program.training import train
from loba_tui.core.recipe.load import dump_recipe, load_recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import RunWriter

RECIPES = (
    "lora_style",
    "lora_content",
    "lora_color_swap",
    "lora_masked",
    "region_slider",
    "image_slider",
    "addift",
)


def measure(name: str, parent: Path) -> dict[str, Any]:
    """Run a shipped recipe and return its report with the steps and CPU seconds of training."""
    recipe = load_recipe(bench.RECIPES / f"{name}.yaml")
    run_dir = RunDir.create(parent, recipe.name)
    run_dir.recipe.write_text(dump_recipe(recipe))
    begin = time.process_time()
    with RunWriter.open(run_dir) as writer:
        train(recipe, run_dir, writer, SimpleNamespace(is_set=False))
    report: dict[str, Any] = json.loads((run_dir.adapter_dir / "report.json").read_text())
    report["cpu_seconds"] = time.process_time() - begin
    report["steps"] = recipe.train.steps
    return report


def row(name: str, report: dict[str, Any]) -> str:
    """Return a row of the table."""
    effect, scales = report["effect"], report["scales"]
    ends = [0] if scales[0] == 0 else [0, scales.index(0)]
    shown = " → ".join(f"{effect['mean'][index]:.3g}" for index in [*ends, -1])
    kept = ", ".join(f"{p['label']} {p['least_within_2']:.2f}" for p in report["preservation"])
    region = report.get("region")
    ratio = "" if not region else "∞" if region["ratio"] is None else f"{region['ratio']:.1f}"
    rho = effect["rho"]
    return (
        f"| {name} | {report['steps']} | {report['cpu_seconds']:.0f} | {effect['measure']}"
        f" | {shown} | {rho['mean']:.3f} / {rho['worst']:.3f} | {kept} | {ratio} |"
    )


def main() -> None:
    """Run what is named, or all of it."""
    print(bench.machine())
    print(
        "| recipe | steps | CPU s | measure | it goes | ρ mean / worst | kept | inside : outside |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="loba-bench-") as parent:
        for name in sys.argv[1:] or RECIPES:
            print(row(name, measure(name, Path(parent))), flush=True)


if __name__ == "__main__":
    main()
