"""Does a calibrated slider have the effect that was asked for, on prompts that it has not seen?

Five sliders of the embedded model are made by whole runs of the program, with `proof.calibrate`:
three in text space (benchmarks/text_space.py) and two that are trained (recipes/slider.yaml,
recipes/slider_brightness.yaml). Each is calibrated on its trained prompts, with noise of its own,
and measured on its held-out prompts with other noise. What is asked for is written below, and was
not chosen by the held-out prompts. `--untrained` names other prompts to calibrate on, whose
backgrounds were not trained and whose colours the proof has not.

    python benchmarks/calibration.py [--seeds 3] [--only size] [--untrained]
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bench
import torch
from text_space import COLORS, PLACE, SHAPES, SLIDERS, recipe_of

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.train import train
from loba_tui.core.recipe.load import dump_recipe, load_recipe, parse_text
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.start_options import StartOptions
from loba_tui.core.run.writer import RunWriter

FIRST_SEED = 2000
UNTRAINED = tuple(
    PLACE.format(color=COLORS[n % 4], shape=SHAPES[(n + n // 4) % 4], background=background)
    for n, background in enumerate(("blue", "red", "green", "red") * 3)
)


@dataclass(frozen=True)
class Case:
    """A slider and the effect that ±1 is to have."""

    asked: Mapping[str, float]
    recipe: Recipe

    def with_seeds(self, num_seeds: int, prompts: Sequence[str]) -> Recipe:
        """Return its recipe, calibrated, and proven at ±1 and 0 with so many seeds.

        Args:
            num_seeds: Of the proof.
            prompts: To calibrate on; empty takes the trained ones.
        """
        content = self.recipe.model_dump(mode="json")
        content["proof"]["calibrate"] = {"at": 1.0, **self.asked, "prompts": list(prompts)}
        content["proof"]["seeds"] = list(range(FIRST_SEED, FIRST_SEED + num_seeds))
        content["sample"] |= {"prompts": content["proof"]["prompts"][:1], "scales": [-1, 0, 1]}
        content["base_model"]["device"] = "cpu"
        return parse_text(json.dumps(content), "benchmark", plugins=SHIPPED)


def cases() -> dict[str, Case]:
    """Return the sliders by name."""
    in_text = {name: recipe_of(each, each.strength) for name, each in SLIDERS.items()}
    size, brightness, hue = {"ratio": 1.5}, {"difference": 0.1}, {"difference": 0.05}
    trained = {
        name: load_recipe(bench.RECIPES / f"{name}.yaml", plugins=SHIPPED)
        for name in ("slider", "slider_brightness")
    }
    return {
        "size, text_space_slider": Case(size, in_text["size"]),
        "brightness, text_space_slider": Case(brightness, in_text["brightness"]),
        "hue, text_space_slider": Case(hue, in_text["hue"]),
        "size, text_slider": Case(size, trained["slider"]),
        "brightness, text_slider": Case(brightness, trained["slider_brightness"]),
    }


def proven(recipe: Recipe) -> dict[str, Any]:
    """Make a run of a recipe, and return its report."""
    with tempfile.TemporaryDirectory() as parent:
        run_dir = RunDir.create(Path(parent), recipe.name)
        run_dir.recipe.path.write_text(dump_recipe(recipe))
        with RunWriter.open(run_dir) as writer:
            nobody_stops_it = SimpleNamespace(is_set=False)
            train(recipe, run_dir, writer, nobody_stops_it, StartOptions(), SHIPPED)
        report: dict[str, Any] = json.loads(run_dir.report.path.read_text())
    return report


def share_of(asked: Mapping[str, float], below: float, above: float) -> tuple[float, ...]:
    """Return the share of the asked effect below 0, above it, and in the mean.

    Ratios count by their logarithms, in which both sides of a slider are alike.
    """
    if "ratio" in asked:
        whole = math.log(asked["ratio"])
        parts = -math.log(below) / whole, math.log(above) / whole
    else:
        parts = -below / asked["difference"], above / asked["difference"]
    return *parts, sum(parts) / 2


def line_of(name: str, case: Case, report: Mapping[str, Any], seconds: float) -> str:
    """Return a row of the table: the calibration's own figures, and those of held-out prompts."""
    found = report["calibration"]
    kind, asked = next(iter(case.asked.items()))
    low, high = found["range"]
    columns = [name, f"{kind} {asked:g}", f"{found['outcome']}, × {found['factor']:.2f}"]
    for effects in ((found["below"], found["above"]), found["on_proof"]):
        if None in effects:
            columns += ["-", "-"]
            continue
        shares = share_of(case.asked, *effects)
        columns.append(" / ".join(f"{effect:.3g}" for effect in effects))
        columns.append(" / ".join(f"{100 * share:.0f}" for share in shares))
    columns += [f"{low:.2g} … {high:.2g}", f"{found['num_unet_rows']:,}", f"{seconds:.0f}"]
    return f"| {' | '.join(columns)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="of the proof")
    parser.add_argument("--only", default="", help="sliders whose name has this")
    parser.add_argument("--untrained", action="store_true", help="calibrate on other prompts")
    arguments = parser.parse_args()
    prompts = UNTRAINED if arguments.untrained else ()
    torch.set_num_threads(1)
    print(bench.machine())
    print(f"proof: seeds {FIRST_SEED} to {FIRST_SEED + arguments.seeds - 1}")
    heads = ("slider", "asked", "factor", "calibrated on −1 / +1", "% of asked: −1 / +1 / mean")
    heads += ("held out −1 / +1", "% of asked", "range", "UNet rows", "s")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, case in cases().items():
        if arguments.only not in name:
            continue
        begin = time.perf_counter()
        report = proven(case.with_seeds(arguments.seeds, prompts))
        print(line_of(name, case, report, time.perf_counter() - begin), flush=True)


if __name__ == "__main__":
    main()
