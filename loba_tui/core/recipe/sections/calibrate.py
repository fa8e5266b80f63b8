"""The recipe's `proof.calibrate` section: the effect that a scale is to have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from loba_tui.core.recipe.sections.data import NonEmptyStr, Section


class CalibrateSection(Section):
    """Makes a scale have a certain effect, by a factor in the adapter's weights."""

    at: Annotated[float, Field(gt=0, le=20)] = Field(
        1.0, description="scale that is to have the effect, and minus it that on the other side"
    )
    ratio: PositiveFloat | None = Field(
        None, description="mean of proof.measure at the scale over that at 0; 1 over it at minus"
    )
    difference: float | None = Field(
        None, description="mean of proof.measure at the scale minus that at 0; for color_axis"
    )
    saturation: bool = Field(
        False, description="the scale is the end of the range that is monotone and unbroken"
    )
    prompts: tuple[NonEmptyStr, ...] = Field(
        (), description="drawn for it, not the proof's; empty: concepts' targets, or captions"
    )
    samples: PositiveInt = Field(
        24, description="images at each scale, about: at most 12 prompts, and seeds to fill up"
    )

    @model_validator(mode="after")
    def _asks_for_one_thing(self) -> CalibrateSection:
        if (self.ratio is not None) + (self.difference is not None) + self.saturation != 1:
            raise ValueError("calibrate needs one of ratio, difference and saturation: true")
        if self.ratio == 1 or self.difference == 0:
            raise ValueError("calibrate asks for no effect: a ratio of 1, or a difference of 0")
        return self
