"""How fast does each optimizer train the slider, with the settings that its own docstring names?

Every optimizer drop-in says in its docstring how a slider's recipe asks for it; that line is what
is run here. The slider is measured on the recipe's held-out prompts every few steps until it has
the effect that the recipe promises: Spearman's ρ of area and scale, sample by sample, at least 0.95
in the mean, the mean area at +2 at least 1.5 times that at 0, and at −2 at most 0.67 times. It is
measured once more at the end. CPU seconds are those of training alone. State is what the
optimizer keeps beside the weights. The effect is the logarithm of mean area at +2 over that at −2.

    python benchmarks/optimizers.py [NAME …] [--steps 80] [--every 5] [--set optimizer.lr=1e-3 …]
"""

from __future__ import annotations

import argparse
import io
import math
import re
from contextlib import redirect_stdout
from dataclasses import dataclass

import bench
from torch import Tensor

from loba_tui.core.errors import LobaError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.evaluation.report import Report
from loba_tui.core.program.training.optimizer_state import export_state

RHO, LARGER, SMALLER = 0.95, 1.5, 0.67


@dataclass(frozen=True)
class Reached:
    """What a training came to at one step."""

    step: int
    cpu_seconds: float
    report: Report

    @property
    def areas(self) -> dict[float, float]:
        return dict(zip(self.report.scales, self.report.effect.mean, strict=True))

    @property
    def effect(self) -> float:
        return math.log(self.areas[2.0] / self.areas[-2.0])

    @property
    def is_enough(self) -> bool:
        areas, rho = self.areas, self.report.effect.rho.mean
        larger, smaller = areas[2.0] / areas[0.0], areas[-2.0] / areas[0.0]
        return rho >= RHO and larger >= LARGER and smaller <= SMALLER


def recipe_line(name: str) -> str:
    """Return `optimizer={name: …, lr: …}` from the drop-in's docstring."""
    doc = SHIPPED.describe("optimizers", name).doc
    (section,) = re.findall(r"^For a slider: `optimizer: (.*)`$", doc, flags=re.MULTILINE)
    return f"optimizer={section}"


def train(name: str, steps: int, every: int, overrides: list[str]) -> tuple[list[Reached], int]:
    """Train; return measurements until the goal and at the end, and the state's size in bytes."""
    found: list[Reached] = []

    def measure(step: int) -> None:
        if found and found[-1].is_enough and step < steps:
            return
        seconds = clock.seconds()
        clock.without(lambda: found.append(Reached(step, seconds, bench.prove_quietly(subject))))

    subject = bench.ready(
        [recipe_line(name), f"train.steps={steps}", f"sample.every={every}", *overrides],
        sample=measure,
    )
    trainer = subject.run
    clock = bench.CpuClock()
    trainer.run()
    with trainer.averaged_weights():
        measure(steps)
    names = {parameter: key for key, parameter in trainer.parameters.items()}
    tensors, _ = export_state(trainer._parts.optimizer, names)
    return found, sum(_bytes(tensor) for tensor in tensors.values())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def line(name: str, steps: int, every: int, overrides: list[str]) -> str:
    asked = re.sub(r"optimizer=\{name: \w+, |\}", "", recipe_line(name))
    try:
        with redirect_stdout(io.StringIO()):  # libraries greet
            found, state_bytes = train(name, steps, every, overrides)
    except LobaError as error:
        return f"{name:20} {asked:25} {error.message}"
    goal = next((reached for reached in found if reached.is_enough), None)
    when = f"{goal.step:5} {goal.cpu_seconds:6.1f}" if goal else f"   —  (>{steps:3})"
    end = found[-1]
    areas = " ".join(f"{area:4.0f}" for area in end.areas.values())
    return (
        f"{name:20} {asked:25} {when}  {end.effect:6.3f}  {areas}"
        f"  {end.report.effect.rho.mean:.3f} / {end.report.effect.rho.worst:.3f}"
        f"  {bench.least_preserved(end.report):9.2f}  {state_bytes / 1024:9.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=SHIPPED.names("optimizers"))
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    print(bench.machine())
    print(f"goal: rho {RHO}, {LARGER} times the area at +2 and {SMALLER} times at -2")
    print(f"{'':46} goal at      |  after {arguments.steps} steps")
    print(f"{'optimizer':20} {'':25} steps  CPU s  effect  mean area at -3 … 3 ", end="")
    print("                 rho mean / worst  preserved  state KiB")
    for name in arguments.names:
        print(line(name, arguments.steps, arguments.every, arguments.overrides), flush=True)


if __name__ == "__main__":
    main()
