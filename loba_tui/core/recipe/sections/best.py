"""The recipe's `save.best` section: which step's adapter is kept besides the checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from loba_tui.core.recipe.sections.data import NonEmptyStr, Section
from loba_tui.core.recipe.sections.method import Choice

MEASURED = "measured_"
Figure = Literal[
    "validation_loss",
    "efficacy_strength",
    "efficacy_alignment",
    "efficacy_symmetry",
    "efficacy_leakage",
    "measured_mean",
    "measured_effect",
    "measured_rho",
    "measured_share",
]
_LEAST = ("validation_loss", "efficacy_leakage", "measured_share")


class BestSection(Section):
    """Keeps the adapter of the step at which a figure was best; the earlier one of equals."""

    by: Figure = Field(
        "validation_loss",
        description="validation_loss and efficacy_… are taken where they are logged; of drawn"
        " images measured_mean is the measure at scale 1, measured_effect its difference between"
        " the ends of sample.scales, measured_rho its rank correlation with the scale, and"
        " measured_share how many images show label at scale 1",
    )
    mode: Literal["min", "max"] | None = Field(
        None, description="null: min for losses, leakage and shares, max for others but the mean"
    )
    use: Literal["best", "last"] = Field(
        "best", description="which adapter is exported and proven at the end"
    )
    every: PositiveInt | None = Field(None, description="measured_…: steps between measurements")
    measure: Choice | None = Field(None, description="measured_…: null is proof.measure")
    label: NonEmptyStr | None = Field(None, description="measured_share: null is proof.erased")
    prompts: tuple[NonEmptyStr, ...] = Field(
        (), description="measured_…: what is drawn, not the proof's; empty: sample's"
    )
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (100,)

    @property
    def is_measured(self) -> bool:
        """Whether the figure is read off images that are drawn for it."""
        return self.by.startswith(MEASURED)

    @property
    def is_least(self) -> bool:
        """Whether less is better."""
        return self.mode == "min" if self.mode is not None else self.by in _LEAST

    @model_validator(mode="after")
    def _says_what_is_measured(self) -> BestSection:
        if self.is_measured and self.every is None:
            raise ValueError(f"{self.by} needs every: the steps between measurements")
        if self.by == "measured_mean" and self.mode is None:
            raise ValueError("measured_mean needs mode: whether min or max is better")
        if not self.is_measured and (self.every or self.measure or self.label or self.prompts):
            raise ValueError("every, measure, label and prompts are for the figures measured_…")
        if self.label is not None and self.by != "measured_share":
            raise ValueError("label is for measured_share")
        return self
