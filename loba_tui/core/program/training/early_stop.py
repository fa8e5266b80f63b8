"""Check what the adapter does while it trains, and say when training has nothing left to do.

A check costs a few dozen UNet rows without gradients, takes no randomness from the run and leaves
no trace in it: a checked run has the same bits as one that is not. What is decided depends on the
figures of the checks alone, which a checkpoint keeps, so that a resumed run ends at the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_layers.strength import RowScale
from loba_tui.core.program.evaluation.efficacy.probe import EfficacyProbe
from loba_tui.core.program.evaluation.efficacy.recipe import make_probe
from loba_tui.core.program.evaluation.efficacy.slider import (
    SliderEfficacy,
    Verdict,
    slider_efficacy,
)
from loba_tui.core.program.open_model import OpenModel
from loba_tui.core.program.processes import Processes
from loba_tui.core.recipe.schema import Recipe, StopWhenSection

MOST_CONCEPTS = 4
"""Concepts of a check, at four timesteps each: 32 UNet rows, or 48 with preserve prompts."""


@dataclass(frozen=True)
class EfficacyCheck:
    """The figures of one check, the weaker side's where there are two.

    Attributes:
        strength: Length along the wanted direction per unit of scale.
        alignment: Cosine with the wanted direction.
        relative_length: Length of the change in any direction, per unit of scale.
        symmetry: Cosine of one side with the other's opposite.
        leakage: None where the recipe names nothing to preserve.
    """

    step: int
    strength: float
    alignment: float
    relative_length: float
    symmetry: float
    leakage: float | None
    verdict: Verdict

    @classmethod
    def of(cls, step: int, figures: SliderEfficacy) -> EfficacyCheck:
        """Return a check with the figures after `step` steps."""
        return cls(
            step=step,
            strength=min(figures.strength_up, figures.strength_down),
            alignment=min(figures.alignment_up, figures.alignment_down),
            relative_length=figures.relative_length,
            symmetry=figures.symmetry_cosine,
            leakage=figures.leakage,
            verdict=figures.verdict,
        )

    def metrics(self) -> dict[str, float]:
        """Return the figures for the metrics file."""
        named = asdict(self)
        return {
            f"efficacy_{name}": round(named[name], 6)
            for name in ("strength", "alignment", "relative_length", "symmetry", "leakage")
            if named[name] is not None
        }


@dataclass(frozen=True)
class StopReason:
    """Why a run ends before its last step."""

    outcome: str
    message: str


@dataclass
class EarlyStop:
    """The checks of a run so far, and what they come to.

    Attributes:
        make_probe: Called for the first check; None where there is nothing to check.
        stop_when: What ends the run; None lets it go on.
        processes: All take the first one's figures, so that all decide alike.
    """

    make_probe: Callable[[], EfficacyProbe | None]
    every: int
    stop_when: StopWhenSection | None
    processes: Processes
    checks: list[EfficacyCheck] = field(default_factory=list, init=False)
    _probe: EfficacyProbe | None = field(default=None, init=False)

    def is_due(self, step: int) -> bool:
        """Say whether a check belongs after `step` steps."""
        return step % self.every == 0

    def check(self, step: int) -> EfficacyCheck | None:
        """Measure the adapter as it is now."""
        if self._probe is None:
            self._probe = self.make_probe()
        if self._probe is None:
            return None
        check: EfficacyCheck = self.processes.share(
            EfficacyCheck.of(step, slider_efficacy(self._probe))
        )
        self.checks.append(check)
        return check

    def state(self) -> list[dict[str, Any]]:
        """Return the checks as JSON."""
        return [asdict(check) for check in self.checks]

    def load_state(self, state: Sequence[dict[str, Any]]) -> None:
        """Take back what `state` returned."""
        self.checks = [EfficacyCheck(**check) for check in state]

    @property
    def reason(self) -> StopReason | None:
        """Why the run is over after its last check, None while it goes on."""
        if self.stop_when is None or not self.checks:
            return None
        return stop_reason(self.checks, self.stop_when)


def stop_reason(checks: Sequence[EfficacyCheck], wanted: StopWhenSection) -> StopReason | None:
    """Return why these checks end a run, None where they do not."""
    last = checks[-1]
    begin = f"Training ended itself after step {last.step}:"
    recent = checks[-wanted.patience :]
    if last.step >= wanted.dead_after and len(recent) == wanted.patience:
        for outcome in ("dead", "collapsed"):
            if all(check.verdict == outcome for check in recent):
                return StopReason(
                    outcome,
                    f"{begin} {wanted.patience} checks in a row found the slider {outcome} "
                    f"(length {last.relative_length:.3f}, alignment {last.alignment:.2f}).",
                )
    if last.verdict != "working":
        return None
    if wanted.strength is not None:
        if last.strength < wanted.strength:
            return None
        return StopReason(
            "converged",
            f"{begin} strength {last.strength:.3f} is the {wanted.strength:g} that was wanted.",
        )
    if len(checks) <= wanted.patience:
        return None
    before = checks[-1 - wanted.patience]
    if before.verdict == "working" and last.strength <= before.strength * (1 + wanted.gain):
        return StopReason(
            "converged",
            f"{begin} strength {last.strength:.3f} has grown by no more than {wanted.gain:.0%} "
            f"since step {before.step}.",
        )
    return None


def make_early_stop(
    recipe: Recipe, model: OpenModel, scale: RowScale, processes: Processes
) -> EarlyStop | None:
    """Return the checks that a recipe asks for, None where it asks for none.

    Raises:
        RecipeError: No concept has a direction that could be checked.
    """
    train = recipe.train
    if not train.efficacy_every:
        return None
    if not any(c.positive and c.negative for c in recipe.method.expanded_concepts):
        raise RecipeError(
            "train.efficacy_every: no concept says both positive and negative, so there is no"
            " direction to look along",
            "Leave it out; only sliders between two prompts are looked at while they train.",
        )
    return EarlyStop(
        lambda: make_probe(model.container, scale, recipe, model.drawn_embeds, most=MOST_CONCEPTS),
        every=train.efficacy_every,
        stop_when=train.stop_when,
        processes=processes,
    )
