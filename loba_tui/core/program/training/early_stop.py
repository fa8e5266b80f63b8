"""Looks at what the adapter does while it trains, and says when training has nothing left to do.

A look costs a few dozen UNet rows without gradients, takes no randomness from the run and leaves no
trace in it: a watched run has the same bits as one that is not. What is decided depends on the
figures of the looks alone, which a checkpoint keeps, so that a resumed run ends at the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loba_tui.core.program.evaluation.efficacy.probe import EfficacyProbe
from loba_tui.core.program.evaluation.efficacy.slider import (
    SliderEfficacy,
    Verdict,
    slider_efficacy,
)
from loba_tui.core.program.processes import Processes
from loba_tui.core.recipe.schema import StopWhenSection

MOST_CONCEPTS = 4
"""Concepts of a look, at four timesteps each: 32 UNet rows, or 48 with preserve prompts."""


@dataclass(frozen=True)
class Look:
    """The figures of one look, the weaker side's where there are two.

    Attributes:
        step: Steps that were done.
        strength: Length along the wanted direction per unit of scale.
        alignment: Cosine with the wanted direction.
        relative_length: Length of the change in any direction, per unit of scale.
        symmetry: Cosine of one side with the other's opposite.
        leakage: None where the recipe names nothing to preserve.
        verdict: What these amount to.
    """

    step: int
    strength: float
    alignment: float
    relative_length: float
    symmetry: float
    leakage: float | None
    verdict: Verdict

    @classmethod
    def of(cls, step: int, figures: SliderEfficacy) -> Look:
        """Return a look with the figures after `step` steps."""
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
class Ending:
    """Why a run ends before its last step."""

    outcome: str
    message: str


class Watch:
    """The looks of a run so far."""

    def __init__(
        self,
        make_probe: Callable[[], EfficacyProbe | None],
        *,
        every: int,
        stop_when: StopWhenSection | None = None,
        processes: Processes | None = None,
    ) -> None:
        """Begin without a look.

        Args:
            make_probe: Called for the first look; None where there is nothing to look at.
            every: Steps between looks.
            stop_when: What ends the run; None lets it go on.
            processes: All take the first one's figures, so that all decide alike.
        """
        self._make_probe = make_probe
        self._probe: EfficacyProbe | None = None
        self._every = every
        self._stop_when = stop_when
        self._processes = processes or Processes()
        self.looks: list[Look] = []

    def is_due(self, step: int) -> bool:
        """Say whether a look belongs after `step` steps."""
        return step % self._every == 0

    def look(self, step: int) -> Look | None:
        """Measure the adapter as it is now."""
        if self._probe is None:
            self._probe = self._make_probe()
        if self._probe is None:
            return None
        look: Look = self._processes.share(Look.of(step, slider_efficacy(self._probe)))
        self.looks.append(look)
        return look

    @property
    def num_unet_rows(self) -> int:
        """UNet rows that the looks have cost so far, the making of the probe among them."""
        return self._probe.num_unet_rows if self._probe is not None else 0

    def state(self) -> list[dict[str, Any]]:
        """Return the looks as JSON."""
        return [asdict(look) for look in self.looks]

    def load_state(self, state: Sequence[dict[str, Any]]) -> None:
        """Take back what `state` returned."""
        self.looks = [Look(**look) for look in state]

    @property
    def ending(self) -> Ending | None:
        """Why the run is over after its last look, None while it goes on."""
        if self._stop_when is None or not self.looks:
            return None
        return judge_looks(self.looks, self._stop_when)


def judge_looks(looks: Sequence[Look], wanted: StopWhenSection) -> Ending | None:
    """Return why these looks end a run, None where they do not."""
    last = looks[-1]
    recent = looks[-wanted.patience :]
    if last.step >= wanted.dead_after and len(recent) == wanted.patience:
        for outcome in ("dead", "collapsed"):
            if all(look.verdict == outcome for look in recent):
                return Ending(
                    outcome,
                    f"Training ended itself after step {last.step}: {wanted.patience} looks in a "
                    f"row found the slider {outcome} (length {last.relative_length:.3f}, "
                    f"alignment {last.alignment:.2f}).",
                )
    if last.verdict != "working":
        return None
    if wanted.strength is not None:
        if last.strength < wanted.strength:
            return None
        return Ending(
            "converged",
            f"Training ended itself after step {last.step}: strength {last.strength:.3f} is the "
            f"{wanted.strength:g} that was wanted.",
        )
    if len(looks) <= wanted.patience:
        return None
    before = looks[-1 - wanted.patience]
    if before.verdict == "working" and last.strength <= before.strength * (1 + wanted.gain):
        return Ending(
            "converged",
            f"Training ended itself after step {last.step}: strength {last.strength:.3f} has grown "
            f"by no more than {wanted.gain:.0%} since step {before.step}.",
        )
    return None
