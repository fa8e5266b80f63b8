"""How far from one process does each engine train, and what does a step of it cost?

One process trains a slider on the embedded SD-XL; two processes train it with the same global batch
under each engine, over gloo. The adapters are compared, and the elements of the UNet's weights that
the first process held. The time of a step is the median of a run's later steps: it tells what an
engine adds on a CPU, where collectives cost little and computing much.

    python benchmarks/parallel_engines.py [--steps 10]

Engines whose package is not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/support"))

from process_groups import Trained, bank_slider, new_job, train_together

from loba_tui.core.recipe.schema import Recipe

ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp2": {"engine": "fsdp2"},
    "ZeRO-1": {"engine": "deepspeed", "zero_stage": 1},
    "ZeRO-2": {"engine": "deepspeed", "zero_stage": 2},
    "ZeRO-3": {"engine": "deepspeed", "zero_stage": 3},
    "ulysses": {"ulysses": 2},
}
BATCH = 4
_SECONDS = 600.0


def slider(steps: int, batch_size: int, parallel: dict[str, Any]) -> Recipe:
    return bank_slider(
        train={"steps": steps, "batch_size": batch_size},
        sample={"every": 0},
        proof={"enabled": False},
        parallel=parallel,
    )


def step_seconds(run: Trained) -> float:
    """Return the median over the steps after the first two, which warm up."""
    lines = run.run_dir.metrics.path.read_text().splitlines()[2:]
    return statistics.median(json.loads(line)["seconds"] for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=10)
    steps = parser.parse_args().steps
    engines = dict(ENGINES)
    if importlib.util.find_spec("deepspeed") is None:
        print("DeepSpeed is not installed; ZeRO is left out")
        engines = {k: v for k, v in engines.items() if v.get("engine") != "deepspeed"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (alone,) = train_together(
            [new_job(slider(steps, BATCH, {}), folder)], 1, folder, seconds=_SECONDS
        )
        print("| engine | largest difference of the adapter | elements held | s/step |")
        print("|---|---|---|---|")
        print(f"| one process, batch {BATCH} | | 100 % | {step_seconds(alone):.2f} |")
        for engine, parallel in engines.items():
            batch_size = BATCH if "ulysses" in parallel else BATCH // 2
            job = new_job(slider(steps, batch_size, parallel), folder)
            (two,) = train_together([job], 2, folder, seconds=_SECONDS)
            ours, theirs = two.adapter, alone.adapter
            difference = max(float((ours[key] - theirs[key]).abs().max()) for key in theirs)
            facts = two.events("built")[0]
            held = two.num_held / facts["denoiser_parameters"]
            print(f"| {engine} | {difference:.1e} | {held:.1%} | {step_seconds(two):.2f} |")


if __name__ == "__main__":
    main()
