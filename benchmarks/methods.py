"""What the recipes of the embedded model come to: one row a recipe, read off pixels.

Each recipe is trained or solved as `loba run` would do it and proven on its own held-out prompts. A
slider's row says Spearman's ρ of the measured attribute and the scale, sample by sample; an
eraser's, in which share of the samples that ask for the concept it shows at scale 0 and at 1, and
what becomes of the accuracy of other prompts. CPU seconds are those of training or solving alone,
loading and drawing left out; bytes are those of adapter.safetensors.

Another recipe is one line in SUBJECTS; what is shown of it follows from its report.

    python benchmarks/methods.py [NAME …] [--seed 0] [--set train.steps=40 …]
"""

from __future__ import annotations

import argparse
import io
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import bench

from loba_tui.core.errors import LobaError
from loba_tui.core.program.erasure import Erasure
from loba_tui.core.program.export import write_adapter
from loba_tui.core.program.finish import provenance
from loba_tui.core.program.proof import prove
from loba_tui.core.program.report import Report


@dataclass(frozen=True)
class Subject:
    """A recipe of recipes/, and what is changed in it for this row."""

    recipe: str
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        said = ", ".join(change.removeprefix("method.") for change in self.overrides)
        return f"{self.recipe} ({said})" if said else self.recipe


SUBJECTS = (
    Subject("slider"),
    Subject("slider_brightness"),
    Subject("instant_slider"),
    Subject("instant_slider", ("method.rank=null",)),
    Subject("leco"),
    Subject("leco", ("method.preserve_weight=0", "method.anchor_weight=10")),
    Subject("esd"),
    Subject("esd", ("method.variant=u",)),
    Subject("uce"),
    Subject("uce", ("method.rece_rounds=2",)),
    Subject("image_slider"),
    Subject("addift"),
    Subject("region_slider"),
    Subject("lora_content"),
    Subject("lora_color_swap"),
    Subject("lora_masked"),
)
HEAD = (
    "| recipe | method | steps | CPU s | effect | others within ±2, or at +1 | outcome | bytes |",
    "|---|---|---|---|---|---|---|---|",
)


def line(subject: Subject, extra: list[str]) -> str:
    """Make a recipe's adapter, prove it, and return its row."""
    ready = bench.ready(
        [*subject.overrides, *extra], recipe=bench.RECIPES / f"{subject.recipe}.yaml"
    )
    trainer, recipe = ready.built.trainer, ready.recipe
    clock = bench.CpuClock()
    trainer.run()
    seconds = clock.seconds()
    container = ready.model.container
    with trainer.averaged_weights(), tempfile.TemporaryDirectory() as folder:
        report = prove(container, ready.built.scale, recipe, ready.model.embeds, Path(folder))
        written = write_adapter(
            container.denoiser, Path(folder), metadata=provenance(recipe, container, trainer.step)
        )
    cells = [
        subject.name,
        recipe.method.name,
        "computed" if trainer.forwards == 0 else str(trainer.step),
        f"{seconds:.2f}" if seconds < 10 else f"{seconds:.1f}",
        effect(report),
        others(report),
        report.outcome,
        f"{written['diffusers'].num_bytes:,}",
    ]
    return f"| {' | '.join(cells)} |"


def effect(report: Report) -> str:
    """Return what the method is for, in figures."""
    if report.erasure is not None:
        before, after = report.erasure.share_before, report.erasure.share_after
        return f"{report.erasure.label} {before:.0%} → {after:.0%}"
    if report.effect is None:
        return "not measured"
    rho, means = report.effect.rho, " ".join(f"{mean:.3g}" for mean in report.effect.mean)
    return f"ρ {rho.mean:.3f} mean, {rho.worst:.3f} worst; {report.effect.measure} {means}"


def others(report: Report) -> str:
    """Return what must not change, in figures."""
    kept = [
        f"{each.label} {each.least_within_2:.0%}"
        for each in report.preservation
        if each.least_within_2 is not None
    ]
    return ", ".join([*_accuracy(report.erasure), *kept])


def _accuracy(erasure: Erasure | None) -> list[str]:
    if erasure is None or erasure.accuracy is None:
        return []
    return [f"accuracy {erasure.accuracy_before:.0%} → {erasure.accuracy_after:.0%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="recipes; without any, all that are listed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    print(bench.machine())
    print(*HEAD, sep="\n", flush=True)
    for subject in SUBJECTS:
        if arguments.names and subject.recipe not in arguments.names:
            continue
        try:
            with redirect_stdout(io.StringIO()):  # libraries greet
                row = line(subject, [f"train.seed={arguments.seed}", *arguments.overrides])
        except LobaError as error:
            row = f"| {subject.name} | {error.message} |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
