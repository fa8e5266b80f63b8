"""CPU time of a step against a bare loop over the same calls of the denoiser.

The bare loop has the recipe's network, a PEFT adapter, AdamW, and inputs that are ready; `loba
bench` makes the same comparison. Both run in turns, so that a machine that becomes slower is slower
for both. The embedded model is small: what a step costs besides is a larger share than of a large
one.

    python benchmarks/trainer_overhead.py [--rounds 8] [--steps 6]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import bench
import torch
from bench_options import numbers_of

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.benchmarking.bare_loop import make_bare_loop, record_calls
from loba_tui.core.program.benchmarking.subject import Models, make_subject
from loba_tui.core.recipe.load import load_recipe
from loba_tui.core.run.directory import RunDir

RECIPES = ("slider_unet", "lora_style")


def main() -> None:
    arguments = numbers_of(__doc__, rounds=8, steps=6)
    torch.set_num_threads(1)
    print(bench.machine())
    print("| recipe | calls of a step | trainer | bare loop | ratio | least to most |")
    print("|---|---|---|---|---|---|")
    for name in RECIPES:
        print(_row(name, arguments.rounds, arguments.steps), flush=True)


def _row(name: str, rounds: int, steps: int) -> str:
    sets = [f"train.steps={4 + rounds * steps}", "train.efficacy_every=0"]
    recipe = load_recipe(str(bench.RECIPES / f"{name}.yaml"), sets, plugins=SHIPPED)
    models = Models(SHIPPED)
    with tempfile.TemporaryDirectory() as folder:
        subject = make_subject(recipe, models, RunDir(Path(folder)))
        subject.step()  # with the making of a bank
        calls = record_calls(subject)
        bare = make_bare_loop(recipe, calls, models, SHIPPED)
        bare()
        taken = [
            (_cpu_seconds(subject.step, steps), _cpu_seconds(bare, steps)) for _ in range(rounds)
        ]
    told = ", ".join(
        f"{len(call.args[0])} rows{' with backward' if call.with_grad else ''}" for call in calls
    )
    ours, theirs = (1000 * statistics.median(column) for column in zip(*taken, strict=True))
    ratios = [own / other for own, other in taken]
    return (
        f"| {name} | {told} | {ours:.1f} ms | {theirs:.1f} ms | {statistics.median(ratios):.3f} |"
        f" {min(ratios):.3f} to {max(ratios):.3f} |"
    )


def _cpu_seconds(step: Callable[[], object], times: int) -> float:
    begin = time.process_time()
    for _ in range(times):
        step()
    return (time.process_time() - begin) / times


if __name__ == "__main__":
    main()
