"""Training data of each micro-step, as latents: a function of seed and index alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from loba_tui.core.associate.device_copies import sent
from loba_tui.core.associate.embeds import Framing
from loba_tui.core.program import randomness
from loba_tui.core.program.data.batches import Arrangement, SampleOrder, Unit
from loba_tui.core.program.data.captions import num_variants, variant
from loba_tui.core.program.data.images import crop_corner, decode, decode_mask, fit
from loba_tui.core.program.data.items import read_file
from loba_tui.core.program.data.latents import Latents
from loba_tui.core.program.data.loader import Ahead
from loba_tui.core.program.data.validate import Image
from loba_tui.core.recipe.sections.data import DataSection


@dataclass(frozen=True)
class DataBatch:
    """The rows of one micro-step on this process.

    Attributes:
        latents: One tensor (B, C, h, w) for plain images; two for pairs, the lower strength first.
        scales: Strengths of each of them, B numbers; 0 for plain images.
        prompts: Caption of each row; None stands for the empty prompt.
        masks: (B, 1, h, w), 1 where it is trained; None where no row has a mask.
        weights: (B,) weight of each row's loss.
        rows: Place of each row in the global batch.
        framing: How each row's images were cut out of their files; None where models are to be told
            of whole images of the bucket's size.
    """

    latents: tuple[Tensor, ...]
    scales: tuple[tuple[float, ...], ...]
    prompts: tuple[str | None, ...]
    masks: Tensor | None
    weights: Tensor
    rows: tuple[int, ...]
    framing: Framing | None = None


class TrainingData(Protocol):
    """A source of batches."""

    def batch(self, index: int) -> DataBatch:
        """Return this process's rows of micro-step `index`."""
        ...


@dataclass(frozen=True)
class Cut:
    """How an image is cut to its bucket."""

    place: tuple[float, float] = (0.5, 0.5)
    mirrored: bool = False


@dataclass(frozen=True)
class Row:
    """Choices that make one row of a micro-step; small, and the same in every process.

    Attributes:
        place: In the global batch.
        chosen: Which of the unit's images.
        cut: The same for all of them.
        prompt: None stands for the empty prompt.
    """

    place: int
    unit: Unit
    chosen: tuple[int, ...]
    cut: Cut
    prompt: str | None


class Rows(Protocol):
    """Says what each row of each micro-step is made of."""

    def rows(self, index: int, _places: Sequence[int]) -> list[Row]:
        """Return the given rows of micro-step `index`."""
        ...


class Plan:
    """Says what each row of each micro-step is made of; no pixel is touched here."""

    def __init__(
        self, arrangement: Arrangement, data: DataSection, *, seed: int, global_batch_size: int
    ) -> None:
        self._units = arrangement.units
        self._data = data
        self._seed = seed
        self.order = SampleOrder(arrangement, batch_size=global_batch_size, seed=seed)

    def rows(self, index: int, places: Sequence[int]) -> list[Row]:
        """Return the given rows of micro-step `index`."""
        units = self.order.units(index)
        return [self._row(index, place, self._units[units[place]]) for place in places]

    def _row(self, index: int, place: int, unit: Unit) -> Row:
        data, seed = self._data, self._seed
        draws = torch.rand(5, generator=randomness.generator(seed, "row", index, place)).tolist()
        spot = (draws[0], draws[1]) if data.crop == "random" else (0.5, 0.5)
        cut = Cut(spot, mirrored=data.flip and draws[2] < 0.5)
        prompt = None
        if draws[3] >= data.captions.dropout:
            which = int(draws[4] * num_variants(data.captions))
            # "" is the empty prompt as well: it is conditioned on as the pipeline does it.
            prompt = self.caption(unit, which) or None
        return Row(place, unit, self._chosen(unit, index, place), cut, prompt)

    def _chosen(self, unit: Unit, index: int, place: int) -> tuple[int, ...]:
        """Return two of a unit's strengths, one below the other; all there is of a plain image."""
        count = len(unit.images)
        if count <= 2:
            return tuple(range(count))
        generator = randomness.generator(self._seed, "pair", index, place)
        return tuple(sorted(torch.randperm(count, generator=generator)[:2].tolist()))

    def caption(self, unit: Unit, which: int) -> str:
        """Return a variant of a unit's caption."""
        settings, key = self._data.captions, unit.images[0].item.key
        if unit.is_prior:
            settings = settings.model_copy(update={"trigger": ""})
        return variant(unit.caption, settings, self._seed, unit.images[0].item.source, key, which)

    def prompts(self) -> list[str]:
        """Return every caption that training can ask for, each once."""
        count = num_variants(self._data.captions)
        found = [self.caption(unit, which) for unit in self._units for which in range(count)]
        return [prompt for prompt in dict.fromkeys(found) if prompt]


class Decoder:
    """Reads images and masks and cuts them to their buckets; what workers run ahead."""

    def __init__(self, plan: Rows, data: DataSection, places: Sequence[int]) -> None:
        self._plan, self._data, self._places = plan, data, places

    def __getitem__(self, index: int) -> list[list[Tensor]]:
        """Return the pixels of each image of each row of micro-step `index`."""
        rows = self._plan.rows(index, self._places)
        return [
            [self.pixels(row.unit.images[i], row.unit, row.cut) for i in row.chosen] for row in rows
        ]

    def pixels(self, image: Image, unit: Unit, cut: Cut) -> Tensor:
        """Return an image (3, H, W) uint8 as it is cut for its bucket."""
        data = self._data
        content = image.item.read()
        decoded = decode(content, max_megapixels=data.max_megapixels, alpha=data.alpha)
        cut_out = fit(decoded.image, unit.bucket, place=cut.place, mirrored=cut.mirrored)
        return torch.from_numpy(np.ascontiguousarray(cut_out.transpose(2, 0, 1)))

    def mask(self, row: Row, factor: int) -> Tensor | None:
        """Return a row's mask (1, h, w) at the size of its latents; None where it has none."""
        data = self._data
        # Images of one scene share a mask: any of their sources may have it.
        files = [image.item.mask_file for image in row.unit.images if image.item.mask_file]
        if not files:
            return None
        content = read_file(files[0])
        decoded = decode_mask(content, max_megapixels=data.max_megapixels, invert=data.mask.invert)
        width, height = row.unit.bucket
        size = (width // factor, height // factor)
        pixels = fit(decoded.image, size, place=row.cut.place, mirrored=row.cut.mirrored)
        mask = torch.from_numpy(pixels.astype(np.float32) / 255)[None]
        return data.mask.floor + (1 - data.mask.floor) * mask


class ImageData:
    """Batches of a real data set.

    `places` are this process's rows of the global batch; `factor` is pixels a latent,
    along each side.
    """

    def __init__(
        self,
        plan: Rows,
        data: DataSection,
        store: Latents,
        *,
        places: Sequence[int],
        factor: int,
        device: torch.device,
    ) -> None:
        self._plan, self._data, self._store = plan, data, store
        self._places, self._factor, self._device = places, factor, device
        self._decoder = Decoder(plan, data, places)
        self._masks: dict[tuple[str, Cut], Tensor | None] = {}
        # Cached latents need no pixels, so that nothing is to be computed ahead.
        self._ahead = Ahead(self._decoder, num_workers=data.workers)

    def batch(self, index: int) -> DataBatch:
        """Return this process's rows of micro-step `index`."""
        rows = self._plan.rows(index, self._places)
        ahead = self._ahead[index] if self._data.cache == "none" else None
        latents = []
        for which in range(len(rows[0].chosen)):
            one = [
                self._latent(row, which, None if ahead is None else ahead[place][which])
                for place, row in enumerate(rows)
            ]
            latents.append(sent(torch.stack(one), self._device))
        masks = [self._mask(row) for row in rows]
        weights = [self._data.prior_weight if row.unit.is_prior else 1.0 for row in rows]
        return DataBatch(
            latents=tuple(latents),
            scales=tuple(
                tuple(row.unit.scales[row.chosen[which]] or 0.0 for row in rows)
                for which in range(len(latents))
            ),
            prompts=tuple(row.prompt for row in rows),
            masks=self._stack_masks(masks, latents[0]),
            weights=sent(torch.tensor(weights), self._device),
            rows=tuple(row.place for row in rows),
            framing=self._framing(rows),
        )

    def _framing(self, rows: Sequence[Row]) -> Framing | None:
        if self._data.size_conditioning == "bucket":
            return None
        sizes, corners = [], []
        for row in rows:  # images of one scene are of one size
            width, height = row.unit.images[0].size
            sizes.append((height, width))
            place, mirrored = row.cut.place, row.cut.mirrored
            left, top = crop_corner((width, height), row.unit.bucket, place, mirrored=mirrored)
            corners.append((top, left))
        return Framing(
            sent(torch.tensor(sizes), self._device), sent(torch.tensor(corners), self._device)
        )

    def _latent(self, row: Row, which: int, pixels: Tensor | None) -> Tensor:
        image = row.unit.images[row.chosen[which]]

        def make() -> Tensor:
            made = pixels if pixels is not None else self._decoder.pixels(image, row.unit, row.cut)
            return made.float() / 255

        return self._store.latent(image, cut_settings(self._data, row.unit, row.cut), make)

    def _mask(self, row: Row) -> Tensor | None:
        """Return a row's mask; those of cuts that come again are read once."""
        if self._data.crop == "random":
            return self._decoder.mask(row, self._factor)
        key = (row.unit.images[0].item.name, row.cut)
        if key not in self._masks:
            self._masks[key] = self._decoder.mask(row, self._factor)
        return self._masks[key]

    def _stack_masks(self, masks: Sequence[Tensor | None], like: Tensor) -> Tensor | None:
        # Wherever there are masks at all, every process and every step has some.
        if all(source.masks is None for source in self._data.sources):
            return None
        whole = torch.ones(1, *like.shape[2:])
        stacked = torch.stack([whole if mask is None else mask for mask in masks])
        return sent(stacked, self._device)


def cut_settings(data: DataSection, unit: Unit, cut: Cut) -> dict[str, str | int | float | bool]:
    """Return all that is done to an image's pixels before they are encoded."""
    width, height = unit.bucket
    return {
        "width": width,
        "height": height,
        "left": cut.place[0],
        "top": cut.place[1],
        "mirrored": cut.mirrored,
        "alpha": data.alpha,
    }


class StandInData:
    """Batches of the right shapes and of no content, to find out what a method computes.

    `latent_shape` is (C, h, w).
    """

    def __init__(
        self, data: DataSection, latent_shape: tuple[int, int, int], batch_size: int
    ) -> None:
        scales = sorted({source.scale for source in data.sources if source.scale is not None})
        self._scales = (scales[0], scales[-1]) if len(scales) > 1 else (0.0,)
        self._has_masks = any(source.masks is not None for source in data.sources)
        self._shape, self._batch_size = latent_shape, batch_size

    def batch(self, index: int) -> DataBatch:
        """Return rows of small numbers."""
        rows = self._batch_size
        one = torch.full((rows, *self._shape), 0.01)
        mask = torch.full((rows, 1, *self._shape[1:]), 0.5)
        return DataBatch(
            latents=tuple(one.clone() for _ in self._scales),
            scales=tuple((scale,) * rows for scale in self._scales),
            prompts=(None,) * rows,
            masks=mask if self._has_masks else None,
            weights=torch.ones(rows),
            rows=tuple(range(rows)),
        )


def fixed_cuts(data: DataSection) -> tuple[Cut, ...]:
    """Return the cuts that occur where crops are not random."""
    return (Cut(), Cut(mirrored=True)) if data.flip else (Cut(),)
