"""What training on images reaches: fine-tuning, masks, image sliders and ADDifT, on drawn data.

    python benchmarks/image_methods.py [RECIPE …]
    python benchmarks/image_methods.py --runs RUN_FOLDER …

Runs shipped recipes as `loba run` does, or takes runs that were made already, and prints a row of
each from its own files: the measure at the lowest scale, at 0 and at the highest, what stayed, and
how much more changes inside a region than outside. Seconds are wall seconds of training alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import bench

from loba_tui.core.program.training import train
from loba_tui.core.recipe.load import dump_recipe, load_recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import RunWriter

RECIPES = (
    "lora_content",
    "lora_color_swap",
    "lora_masked",
    "region_slider",
    "image_slider",
    "addift",
)


def run(name: str, parent: Path) -> Path:
    """Run a shipped recipe and return the run's folder."""
    recipe = load_recipe(bench.RECIPES / f"{name}.yaml")
    run_dir = RunDir.create(parent, recipe.name)
    run_dir.recipe.write_text(dump_recipe(recipe))
    with RunWriter.open(run_dir) as writer:
        train(recipe, run_dir, writer, SimpleNamespace(is_set=False))
    return run_dir.path


def row(folder: Path) -> str:
    """Return a row of the table for a finished run."""
    report = json.loads((folder / "adapter" / "report.json").read_text())
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    effect, scales = report["effect"], report["scales"]
    ends = [0] if scales[0] == 0 else [0, scales.index(0)]
    shown = " → ".join(f"{effect['mean'][index]:.3g}" for index in [*ends, -1])
    kept = ", ".join(f"{p['label']} {p['least_within_2']:.2f}" for p in report["preservation"])
    region = report.get("region")
    ratio = "" if not region else "∞" if region["ratio"] is None else f"{region['ratio']:.1f}"
    rho, seconds = effect["rho"], sum(record["seconds"] for record in metrics)
    return (
        f"| {report['name']} | {len(metrics)} | {seconds:.0f}"
        f" | {metrics[-1]['forwards']:,} | {effect['measure']} | {shown}"
        f" | {rho['mean']:.3f} / {rho['worst']:.3f} | {kept} | {ratio} | {report['outcome']} |"
    )


def main() -> None:
    """Run what is named, or all of it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--runs", nargs="+", type=Path, default=())
    arguments = parser.parse_args()
    print(bench.machine())
    print(
        "| run | steps | seconds | UNet rows | measure | it goes | ρ mean / worst | kept"
        " | inside : outside | outcome |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="loba-bench-") as parent:
        folders = arguments.runs or (run(name, Path(parent)) for name in arguments.recipes)
        for folder in folders:
            print(row(folder), flush=True)


if __name__ == "__main__":
    main()
