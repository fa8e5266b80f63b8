"""The recipe's `validation` section: the loss on what is not trained on, at fixed noise."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from loba_tui.core.recipe.sections.data import DataSource, Section
from loba_tui.core.recipe.sections.method import Concept

Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class ValidationSection(Section):
    """Held-out images or concepts, and at which noise and timesteps the loss on them is taken."""

    every: PositiveInt = Field(50, description="steps between evaluations; the last step has one")
    share: Share | None = Field(
        None, description="of the images in data, this share is held out of training"
    )
    sources: tuple[DataSource, ...] = Field(
        (), description="images that are held out instead; read, captioned and cut as data says"
    )
    concepts: tuple[Concept, ...] = Field(
        (), description="held-out concepts, for methods that train on prompts"
    )
    timesteps: PositiveInt = Field(
        8, description="of each image or concept: the middles of as many equal shares of all"
    )
    most: PositiveInt = Field(16, description="held-out images or concepts that are evaluated")
    training_loss: bool = Field(
        True, description="evaluate as many that are trained on too: the gap tells overfitting"
    )
    seed: NonNegativeInt = Field(0, description="of noise, and of which images share holds out")

    @cached_property
    def expanded_concepts(self) -> tuple[Concept, ...]:
        """All held-out concepts with their placeholders filled in."""
        return tuple(concept for template in self.concepts for concept in template.expand())

    @model_validator(mode="after")
    def _holds_one_thing_out(self) -> ValidationSection:
        if (self.share is not None) + bool(self.sources) + bool(self.concepts) != 1:
            raise ValueError(
                "validation needs one of share and sources, which are images, and concepts"
            )
        return self
