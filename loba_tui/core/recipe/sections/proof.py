"""The recipe's `proof` section: how the result is measured."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, model_validator

from loba_tui.core.recipe.sections.attacks import AttacksSection
from loba_tui.core.recipe.sections.calibrate import CalibrateSection
from loba_tui.core.recipe.sections.data import Fraction, NonEmptyStr, Section
from loba_tui.core.recipe.sections.method import Choice, Preserved


class ProofSection(Section):
    """How the result is measured at the end of the run."""

    enabled: bool = True
    prompts: tuple[NonEmptyStr, ...] = Field((), description="held-out prompts; empty: sample's")
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (1000,)
    measure: Choice | None = Field(None, description="null leaves the model-free figures only")
    preserve: tuple[Preserved, ...] = Field(
        (), description="labels and numbers that must not change"
    )
    region: tuple[Fraction, Fraction, Fraction, Fraction] | None = Field(
        None, description="left, top, right, bottom (0 to 1) of where images are to change"
    )
    erased: NonEmptyStr | None = Field(
        None, description="for erasers: the label by which measure tells what is to be gone"
    )
    others: dict[str, Annotated[tuple[NonEmptyStr, ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="held-out prompts that must go on working, by the label measure is to give",
    )
    calibrate: CalibrateSection | None = Field(
        None, description="sets the adapter's strength before it is measured; null leaves it alone"
    )

    attacks: AttacksSection | None = Field(
        None, description="for erasers: tries to bring the erased concept back; null tries nothing"
    )

    @model_validator(mode="after")
    def _others_stand_beside_an_erased_label(self) -> ProofSection:
        if self.erased is not None and self.measure is None:
            raise ValueError("erased needs measure: the measure that gives this label")
        if self.others and self.erased is None:
            raise ValueError("others needs erased: they stand beside what is to be gone")
        if self.attacks is not None and self.erased is None:
            raise ValueError("attacks needs erased: the label of what is not to come back")
        if self.attacks is not None and not self.enabled:
            raise ValueError("attacks needs enabled: true: it is a part of the proof")
        return self

    @model_validator(mode="after")
    def _calibrating_needs_a_measured_slider(self) -> ProofSection:
        if self.calibrate is None:
            return self
        if self.measure is None or self.erased is not None:
            raise ValueError("calibrate needs measure, of what a slider moves, and no erased")
        if not self.enabled:
            raise ValueError("calibrate needs enabled: true: it is a part of the proof")
        if held := set(self.calibrate.prompts) & set(self.prompts):
            raise ValueError(f"calibrate has a prompt of the proof, {min(held)!r}: take another")
        return self
