"""How far each quantizer of the base model turns the adapter's gradient, and what it saves.

Each trains one step of the slider recipe by plain gradient descent, so that the adapter's change is
its gradient: at the first step, and from an adapter that the float base was trained to. Everything
is the quantised base's: the trajectory, the teachers and the student.

    python benchmarks/quantize.py [NAME …] [--steps 80] [--batch 16]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

import bench
import torch
from torch import Tensor

from loba_tui.core.associate.model_shapes import bytes_of, open_shapes
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.planning.network_costs import pack_shapes
from loba_tui.core.recipe.schema import BaseModelSection
from loba_tui.core.recipe.sections.method import Choice

ONE_STEP = ("optimizer.name=sgd", "optimizer.lr=1.0", "train.steps=2", "train.max_grad_norm=null")
SD_XL = "stabilityai/stable-diffusion-xl-base-1.0"


@dataclass(frozen=True)
class Gradient:
    """One step's gradient of an adapter.

    Attributes:
        error: How far the base's weights are off; None for the float base.
        cpu_seconds: Of a step with a full bank.
    """

    of: Mapping[str, Tensor]
    error: float | None
    cpu_seconds: float

    def cosine(self, other: Gradient) -> float:
        """Return the cosine of the angle between two, over all parameters."""
        mine, theirs = (
            torch.cat([each.of[name].flatten() for name in sorted(self.of)])
            for each in (self, other)
        )
        return float(torch.cosine_similarity(mine.double(), theirs.double(), dim=0))


def gradient(name: str | None, begun: Mapping[str, Tensor], *overrides: str) -> Gradient:
    """Return the gradient of one step on a base that a quantizer holds; None holds it in float.

    Args:
        begun: Weights that the adapter has; where there are none, those of a fresh one.
    """
    chosen = () if name is None else (f"base_model.quantize.name={name}",)
    subject = bench.ready([*ONE_STEP, *overrides, *chosen])
    parameters = subject.run.parameters
    _put(begun, parameters)
    before = _copy(parameters)
    subject.run.run(until=1)  # fills the bank of trajectories too
    changes = {key: before[key] - value.detach() for key, value in parameters.items()}
    _put(before, parameters)
    clock = bench.CpuClock()
    subject.run.run(until=2)
    quantization = subject.model.wrapper.quantization
    weights = None if quantization is None else quantization.weights
    return Gradient(changes, None if weights is None else weights.error, clock.seconds())


def trained_adapter(steps: int) -> dict[str, Tensor]:
    """Return the weights of an adapter that the float base was trained to."""
    subject = bench.ready([f"train.steps={steps}"])
    subject.run.run()
    return _copy(subject.run.parameters)


def _copy(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in parameters.items()}


def _put(weights: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    for name, value in weights.items():
        parameters[name].data.copy_(value)


def planned_gib(name: str | None) -> float:
    """Return what SD-XL's denoiser takes in bfloat16."""
    shapes = open_shapes(SD_XL, None, torch.bfloat16)
    choice = None if name is None else Choice(name=name)
    pack_shapes(shapes.container.denoiser, BaseModelSection(id=SD_XL, quantize=choice), SHIPPED)
    return bytes_of(shapes.container.denoiser) / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=SHIPPED.names("quantizers"))
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()
    print(bench.machine())
    print(
        "| base | weights off by | cosine, first step | cosine, trained adapter | CPU s a step |"
        " SD-XL's UNet |\n|---|---|---|---|---|---|"
    )
    batch = f"train.batch_size={arguments.batch}"
    begun = trained_adapter(arguments.steps)
    whole = gradient(None, {}, batch), gradient(None, begun, batch)
    print(f"| float | | | | {whole[0].cpu_seconds:.2f} | {planned_gib(None):.2f} GiB |", flush=True)
    for name in arguments.names:
        first, later = gradient(name, {}, batch), gradient(name, begun, batch)
        cosines = f"{first.cosine(whole[0]):.4f} | {later.cosine(whole[1]):.4f}"
        seconds, size = first.cpu_seconds, planned_gib(name)
        print(
            f"| {name} | {first.error:.2%} | {cosines} | {seconds:.2f} | {size:.2f} GiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
