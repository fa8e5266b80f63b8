"""Images at fixed cuts and captions, each once at every one of some fixed timesteps."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.program.data.batches import Unit
from loba_tui.core.program.data.buckets import Size
from loba_tui.core.program.data.captions import variant
from loba_tui.core.program.data.latents import Latents
from loba_tui.core.program.data.training_data import Cut, ImageData, Row
from loba_tui.core.recipe.sections.data import DataSection

_CAPTIONS = {"shuffle": False, "drop_tags": 0.0, "dropout": 0.0}


def fixed(data: DataSection) -> DataSection:
    """Return the section with nothing in it that is drawn anew each time."""
    captions = data.captions.model_copy(update=_CAPTIONS)
    # Few images at one cut each: they are kept where training makes its own anew.
    cache = "memory" if data.cache == "none" else data.cache
    plain = {"crop": "center", "flip": False, "captions": captions, "cache": cache, "workers": 0}
    return data.model_copy(update=plain)


@dataclass(frozen=True)
class FixedImages:
    """Images whose loss is evaluated again and again.

    Attributes:
        data: As `fixed` returns it.
        num_timesteps: Micro-step `index` is at timestep `index % num_timesteps`.
        batch_size: Most rows of a micro-step.
    """

    data: DataSection
    units: tuple[Unit, ...]
    num_timesteps: int
    batch_size: int
    seed: int

    @property
    def num_rows(self) -> list[int]:
        """Rows of each micro-step."""
        return [len(batch) for batch in self._batches() for _ in range(self.num_timesteps)]

    def prompts(self) -> list[str]:
        """Return every caption, each once."""
        return [prompt for prompt in dict.fromkeys(map(self._prompt, self.units)) if prompt]

    def rows(self, index: int, _places: Sequence[int]) -> list[Row]:
        """Return the rows of micro-step `index`."""
        which, turn = divmod(index, self.num_timesteps)
        return [
            Row(place, unit, _pair(unit, turn), Cut(), self._prompt(unit))
            for place in self._batches()[which]
            for unit in (self.units[place],)
        ]

    def batches(self, container: ModelContainer, store: Latents) -> ImageData:
        """Return the batches, once the images are encoded."""
        return ImageData(
            self,
            self.data,
            store,
            places=(),
            factor=container.resolution // container.latent_shape()[-1],
            device=container.device,
        )

    def _batches(self) -> list[list[int]]:
        """Return the units of each batch: of one bucket, and of as many images each."""
        alike: dict[tuple[Size, int], list[int]] = defaultdict(list)
        for number, unit in enumerate(self.units):
            alike[unit.bucket, len(unit.images)].append(number)
        return [
            members[start : start + self.batch_size]
            for _, members in sorted(alike.items())
            for start in range(0, len(members), self.batch_size)
        ]

    def _prompt(self, unit: Unit) -> str | None:
        first = unit.images[0].item
        caption = variant(unit.caption, self.data.captions, self.seed, first.source, first.key, 0)
        return caption or None


def _pair(unit: Unit, turn: int) -> tuple[int, ...]:
    """Return two of a unit's strengths, another two at each timestep; all of a plain image."""
    count = len(unit.images)
    if count <= 2:
        return tuple(range(count))
    pairs = list(itertools.combinations(range(count), 2))
    return pairs[turn % len(pairs)]
