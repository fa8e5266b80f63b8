"""Draws with a recipe's own sampler, negative prompt and resolution, and writes picture strips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_files.text_encoders import ScaledEmbeddings
from loba_tui.core.program.adapter_layers.strength import RowScale
from loba_tui.core.program.open_model import Embeddings, batch_of
from loba_tui.core.program.sampling.images import Progress, sample_scales
from loba_tui.core.program.sampling.strip import strip, strip_png
from loba_tui.core.recipe.schema import Recipe


@dataclass(frozen=True)
class Grid:
    """Images to draw: every prompt with every seed at every scale."""

    prompts: Sequence[str]
    seeds: Sequence[int]
    scales: Sequence[float]

    @classmethod
    def of_samples(cls, recipe: Recipe) -> Grid:
        """Return the grid of a recipe's sample section."""
        return cls(recipe.sample_prompts, recipe.sample.seeds, recipe.sample.scales)

    def lies_in(self, other: Grid) -> bool:
        """Say whether another grid has every image of this one."""
        return all(
            set(own) <= set(theirs) for own, theirs in zip(self.axes, other.axes, strict=True)
        )

    @property
    def axes(self) -> tuple[Sequence[str], Sequence[int], Sequence[float]]:
        """Prompts, seeds and scales: the first three dimensions of the images."""
        return self.prompts, self.seeds, self.scales


@dataclass(frozen=True)
class DrawnGrid:
    """The images (num_prompts, num_seeds, num_scales, H, W, 3) of a grid, in [0, 1]."""

    grid: Grid
    images: np.ndarray

    def part(self, grid: Grid) -> np.ndarray:
        """Return the images of a grid that lies in this one."""
        axes = zip(self.grid.axes, grid.axes, strict=True)
        places = [[list(own).index(each) for each in wanted] for own, wanted in axes]
        return self.images[np.ix_(*places)]


def draw_grid(
    container: ModelContainer,
    scale: RowScale,
    recipe: Recipe,
    embeds: Embeddings,
    grid: Grid,
    *,
    progress: Progress | None = None,
    plugins: Plugins,
) -> np.ndarray:
    """Return the images (num_prompts, num_seeds, num_scales, H, W, 3) of a grid, in [0, 1].

    Args:
        container: The model, with the adapter attached.
        embeds: Of the grid's prompts and of the recipe's negative prompt.
    """
    rows, negative = _conditions(container, recipe, embeds, grid)
    return sample_scales(
        container,
        scale,
        rows,
        scales=grid.scales,
        seeds=grid.seeds,
        settings=recipe.sample,
        negative=negative,
        resolution=recipe.train.resolution,
        progress=progress,
        plugins=plugins,
    )


_Rows = PromptEmbeds | list[PromptEmbeds]


def _conditions(
    container: ModelContainer, recipe: Recipe, embeds: Embeddings, grid: Grid
) -> tuple[_Rows, _Rows | None]:
    """Return rows of the prompts and of the negative one; of each scale if encoders are adapted."""
    negative = recipe.sample.negative_prompt
    if not isinstance(embeds, ScaledEmbeddings):
        # "" means the model's own unconditional embeddings.
        return batch_of(embeds, grid.prompts), embeds[negative] if negative else None
    # Those are of the empty prompt, which adapted encoders encode too, or zeros, which they do not.
    unconditional = negative or container.unconditional_prompt
    wanted = [*grid.prompts, *([] if unconditional is None else [unconditional])]
    by_scale = [embeds.at(scale, wanted) for scale in grid.scales]
    embeds.release()
    rows = [batch_of(each, grid.prompts) for each in by_scale]
    if unconditional is None:
        return rows, None
    empty = container.empty_embeds()
    return rows, [each.get(unconditional, empty) for each in by_scale]


def negative_at(
    container: ModelContainer, recipe: Recipe, embeds: Embeddings, scale: float
) -> PromptEmbeds:
    """Return the row of the recipe's negative prompt, as the model encodes it at a scale."""
    negative = recipe.sample.negative_prompt
    if not isinstance(embeds, ScaledEmbeddings):
        return embeds[negative] if negative else container.empty_embeds()
    unconditional = negative or container.unconditional_prompt
    if unconditional is None:
        return container.empty_embeds()
    return embeds.at(scale, [unconditional]).get(unconditional, container.empty_embeds())


def grid_png(images: np.ndarray, grid: Grid) -> bytes:
    """Return a grid's images as one picture, a PNG."""
    return strip_png(strip(images, scales=grid.scales, prompts=grid.prompts, seeds=grid.seeds))
