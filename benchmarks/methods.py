"""What each method comes to on the embedded models: one row a recipe, read off pixels.

Each recipe is trained or solved as `loba run` would do it, proven on its own held-out prompts, and
held against a target: a slider's ρ (Spearman's, of the measured attribute and the scale, sample by
sample), the share of an eraser's samples that still show the concept, how far a fine-tuned
attribute went, how much more changes inside a region than outside. CPU seconds are those of
training or solving alone, loading and drawing left out; rows are the denoiser's, one with a
backward pass counted twice; bytes are those of adapter.safetensors.

Another recipe is one line in SUBJECTS; what is shown of it follows from its report. Without names,
the comparison of trajectories (slider_trajectories.py) follows for seed 0.

    python benchmarks/methods.py [NAME …] [--model shapes-z] [--seed 0] [--set train.steps=40 …]
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import bench
import slider_trajectories

from loba_tui.core.errors import LobaError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.provenance import provenance
from loba_tui.core.program.evaluation.eraser_effect import Erasure
from loba_tui.core.program.evaluation.proof import prove
from loba_tui.core.program.evaluation.report import Report
from loba_tui.core.program.evaluation.slider_effect import Effect
from loba_tui.core.program.finish import output_of
from loba_tui.core.run.changes import ChangeRecord
from loba_tui.core.run.directory import RunDir


@dataclass(frozen=True)
class Target:
    """What a row has to reach: in words, and as a condition on its report and CPU seconds."""

    words: str
    is_reached: Callable[[Report, float], bool]

    def within(self, most_seconds: float) -> Target:
        """Return the same target, to be reached in so many CPU seconds."""
        return Target(
            f"{self.words}, ≤ {most_seconds:g} s",
            lambda report, seconds: seconds <= most_seconds and self.is_reached(report, seconds),
        )


def follows(least: float) -> Target:
    """The attribute follows the scale."""
    return Target(f"ρ ≥ {least:g}", lambda report, _: _effect(report).rho.mean >= least)


def reaches(value: float) -> Target:
    """The measure is at least this at the highest scale."""
    return Target(f"≥ {value:g} at +1", lambda report, _: _effect(report).mean[-1] >= value)


def _is_erased(report: Report, _: float) -> bool:
    found = report.erasure
    assert found is not None
    is_gone = found.share_before >= 0.9 and found.share_after <= 0.05
    return is_gone and found.accuracy_lost <= 0.05


def _is_confined(report: Report, _: float) -> bool:
    region = report.region
    return region is not None and (region.ratio is None or region.ratio >= 5)


def _effect(report: Report) -> Effect:
    assert report.effect is not None
    return report.effect


ERASES = Target("≥ 90% → ≤ 5%, others −5 points at most", _is_erased)
CONFINED = Target("inside ≥ 5 × outside", _is_confined)


@dataclass(frozen=True)
class Subject:
    """A recipe of recipes/, what it has to reach, and what is changed in it for this row.

    `to_flow` is what makes a recipe of the embedded SD-XL one of the embedded flow-matching model.
    """

    recipe: str
    target: Target
    overrides: tuple[str, ...] = ()
    to_flow: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        is_flow = self.to_flow or self.recipe.startswith("shapes_z/")
        return "shapes-z" if is_flow else "shapes-xl"

    @property
    def name(self) -> str:
        said = ", ".join(change.removeprefix("method.") for change in self.overrides)
        return f"{self.recipe} ({said})" if said else self.recipe


SAMPLED = (
    "base_model.id=builtin:shapes-z",
    "sample.noise.name=flow_match_euler",
    "sample.steps=12",
)
STEPPED = (*SAMPLED, "scheduler.noise.name=flow_match_euler")
TRAINED = (*STEPPED, "adapter.layers=[self_attention]")
SUBJECTS = (
    Subject("slider", follows(0.95)),
    Subject("slider_unet", follows(0.95)),
    Subject("text_space_slider", follows(0.95)),
    Subject("text_encoder_slider", follows(0.95)),
    Subject("slider_brightness", follows(0.95)),
    Subject("instant_slider", follows(0.9).within(2)),
    Subject("instant_slider", follows(0.9).within(2), ("method.rank=null",)),
    Subject("leco", ERASES),
    Subject("leco", ERASES, ("method.preserve_weight=0", "method.anchor_weight=10")),
    Subject("esd", ERASES),
    Subject("esd", ERASES, ("method.variant=full",)),
    Subject("esd_u", ERASES),
    Subject("uce", ERASES.within(2)),
    Subject("uce", ERASES.within(2), ("method.rece_rounds=2",)),
    Subject("speed", ERASES.within(2)),
    Subject("image_slider", follows(0.95)),
    Subject("addift", follows(0.95)),
    Subject("region_slider", CONFINED),
    Subject("lora_content", reaches(0.8)),
    Subject("lora_color_swap", reaches(0.8)),
    Subject("lora_masked", CONFINED),
    # The training images have 0.96, the base model 0.13.
    Subject("lora_style", reaches(0.8)),
    Subject("shapes_z/slider", follows(0.99)),
    Subject("shapes_z/instant_slider", follows(0.9).within(2)),
    Subject("shapes_z/leco", ERASES),
    Subject("shapes_z/uce", ERASES.within(2)),
    Subject("slider_brightness", follows(0.95), to_flow=TRAINED),
    Subject("esd_u", ERASES, to_flow=STEPPED),
    Subject("speed", ERASES.within(2), to_flow=SAMPLED),
    Subject("image_slider", follows(0.95), to_flow=TRAINED),
    # The rate of the SD-XL's recipe burns here.
    Subject("addift", follows(0.95), ("optimizer.lr=3e-5",), to_flow=TRAINED),
    Subject("region_slider", CONFINED, to_flow=TRAINED),
    Subject("lora_content", reaches(0.8), to_flow=TRAINED),
    Subject("lora_color_swap", reaches(0.8), to_flow=TRAINED),
    Subject("lora_masked", CONFINED, to_flow=TRAINED),
    Subject("lora_style", reaches(0.8), to_flow=TRAINED),
)
HEAD = (
    "| model | recipe | method | steps | rows | CPU s | measured | what stayed within ±2, or at +1"
    " | target | outcome | bytes |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
)


def line(subject: Subject, extra: list[str]) -> str:
    """Make a recipe's adapter, prove it, and return its row."""
    ready = bench.ready(
        [*subject.to_flow, *subject.overrides, *extra],
        recipe=bench.RECIPES / f"{subject.recipe}.yaml",
    )
    trainer, recipe = ready.run, ready.recipe
    clock = bench.CpuClock()
    trainer.run()
    seconds = clock.seconds()
    container = ready.model.container
    with trainer.averaged_weights(), tempfile.TemporaryDirectory() as folder:
        run_dir = RunDir(Path(folder))
        run_dir.prepare()
        report = prove(
            container, ready.run.scale, recipe, ready.model.drawn_embeds, run_dir, plugins=SHIPPED
        )
        written = output_of(ready.model, trainer).write(
            run_dir.adapter_dir,
            provenance(recipe, container, trainer.step, ChangeRecord(), SHIPPED, done=trainer.step),
        )
    cells = [
        subject.model,
        subject.name,
        recipe.method.name,
        "computed" if ready.num_unet_rows == 0 else str(trainer.step),
        f"{ready.num_unet_rows:,}",
        f"{seconds:.2f}" if seconds < 10 else f"{seconds:.1f}",
        effect(report),
        others(report),
        f"{subject.target.words}: {'yes' if subject.target.is_reached(report, seconds) else 'NO'}",
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
    found = f"{report.effect.measure} {means}"
    if min(report.scales) < 0:
        found = f"ρ {rho.mean:.3f} mean, {rho.worst:.3f} worst; {found}"
    if report.region is not None:
        ratio = report.region.ratio
        found += f"; inside {'∞' if ratio is None else f'{ratio:.1f}'} × outside"
    return found


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
    parser.add_argument("--model", choices=("shapes-xl", "shapes-z"), help="rows of one alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    print(bench.machine())
    print(*HEAD, sep="\n", flush=True)
    for subject in SUBJECTS:
        if arguments.names and subject.recipe not in arguments.names:
            continue
        if arguments.model not in (None, subject.model):
            continue
        try:
            with redirect_stdout(io.StringIO()):  # libraries greet
                row = line(subject, [f"train.seed={arguments.seed}", *arguments.overrides])
        except LobaError as error:
            row = f"| {subject.model} | {subject.name} | {error.message} |"
        print(row, flush=True)
    if not arguments.names and arguments.model is None:
        print()
        slider_trajectories.compare([arguments.seed])


if __name__ == "__main__":
    main()
