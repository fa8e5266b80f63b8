"""Batches of conditions and latents: a prompt's embeddings, an image's latent, its framing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from loba_tui.core.associate.device_copies import rows_of


@dataclass(frozen=True)
class PromptEmbeds:
    """Embeddings that a denoiser is conditioned on, one row a prompt.

    Attributes:
        embeds: Hidden states of the text encoders, (B, T, D).
        pooled: Pooled state, (B, P); None for families that have none.
        texts: The prompt of each row, by which encoders that are trained encode it again; None for
            a row that stands for no prompt. Empty where nobody has noted them.
        lengths: How many of the T states of each row are its prompt's, (B,) int64; zeros stand
            behind them. None where all states are read.
    """

    embeds: Tensor
    pooled: Tensor | None = None
    texts: tuple[str | None, ...] = ()
    lengths: Tensor | None = None

    def __len__(self) -> int:
        return self.embeds.shape[0]

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> PromptEmbeds:
        """Return the given rows; a single index keeps the batch dimension."""
        if isinstance(rows, int):
            rows = [rows]
        if not isinstance(rows, slice | Tensor):
            rows = [range(len(self))[row] for row in rows]
        texts = self.texts
        if texts:
            numbers = torch.arange(len(texts))[rows.cpu() if isinstance(rows, Tensor) else rows]
            texts = tuple(texts[number] for number in numbers)
        pooled = None if self.pooled is None else _rows(self.pooled, rows)
        lengths = None if self.lengths is None else _rows(self.lengths, rows)
        return PromptEmbeds(_rows(self.embeds, rows), pooled, texts, lengths)

    def select(self, indices: Sequence[int] | Tensor) -> PromptEmbeds:
        """Return the rows of the given indices, in that order, repeats allowed."""
        return self[indices]

    def of(self, *texts: str | None) -> PromptEmbeds:
        """Return the same rows with the prompts that they are of."""
        return replace(self, texts=texts)

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        non_blocking: bool = False,
    ) -> PromptEmbeds:
        """Return the same embeddings on a device and in a dtype; None leaves either as it is.

        Args:
            non_blocking: Do not wait for a copy from pinned memory.
        """

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype, non_blocking=non_blocking)

        pooled = None if self.pooled is None else moved(self.pooled)
        return replace(self, embeds=moved(self.embeds), pooled=pooled)

    def pinned(self) -> PromptEmbeds:
        """Return the same embeddings in main memory that a device copies from by itself."""
        pooled = None if self.pooled is None else self.pooled.cpu().pin_memory()
        return replace(self, embeds=self.embeds.cpu().pin_memory(), pooled=pooled)

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows."""
        tensors = [self.embeds] if self.pooled is None else [self.embeds, self.pooled]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def expand(self, num_rows: int) -> PromptEmbeds:
        """Return a single row repeated to a batch, without copying it."""
        pooled = None if self.pooled is None else self.pooled.expand(num_rows, -1)
        lengths = None if self.lengths is None else self.lengths.expand(num_rows)
        embeds = self.embeds.expand(num_rows, -1, -1)
        return PromptEmbeds(embeds, pooled, self.texts * num_rows, lengths)

    def rows(self) -> list[Tensor]:
        """Return the states (T, D) of each row that are its prompt's, T different for each."""
        if self.lengths is None:
            return list(self.embeds)
        return [
            row[:length] for row, length in zip(self.embeds, self.lengths.tolist(), strict=True)
        ]

    def mask(self) -> Tensor | None:
        """Return which states are prompts', (B, T) bool; None where all are."""
        if self.lengths is None:
            return None
        places = torch.arange(self.embeds.shape[1], device=self.embeds.device)
        return places[None] < self.lengths.to(places.device)[:, None]

    def as_long_as(self, length: int) -> PromptEmbeds:
        """Return rows of `length` states that mean the same.

        Where lengths are told, zeros are put behind them. Else the states of each row are repeated:
        to attention, states that all stand there equally often are the same as those states once.
        """
        own = self.embeds.shape[1]
        if length == own:
            return self
        if self.lengths is not None:
            embeds = torch.nn.functional.pad(self.embeds, (0, 0, 0, length - own))
            return replace(self, embeds=embeds)
        return replace(self, embeds=self.embeds.repeat(1, length // own, 1))

    @staticmethod
    def ragged(rows: Sequence[Tensor]) -> PromptEmbeds:
        """Return one batch of states (T, D), of a T of its own each."""
        lengths = torch.tensor([len(row) for row in rows])
        return PromptEmbeds(torch.nn.utils.rnn.pad_sequence(list(rows), True), lengths=lengths)

    @staticmethod
    def cat(parts: Sequence[PromptEmbeds]) -> PromptEmbeds:
        """Join rows of the same family into one batch, shorter ones made as long as the others."""
        parts = same_length(parts)
        pooled = [part.pooled for part in parts if part.pooled is not None]
        lengths = [part.lengths for part in parts if part.lengths is not None]
        texts = [text for part in parts for text in part.texts]
        return PromptEmbeds(
            torch.cat([part.embeds for part in parts]),
            torch.cat(pooled) if pooled else None,
            tuple(texts) if all(part.texts for part in parts) else (),
            torch.cat(lengths) if lengths else None,
        )


def _rows(tensor: Tensor, rows: slice | list[int] | Tensor) -> Tensor:
    return rows_of(tensor, rows) if isinstance(rows, list) else tensor[rows]


def same_length(parts: Sequence[PromptEmbeds]) -> list[PromptEmbeds]:
    """Return embeddings of prompts of any length, with as many states a row each."""
    own = [part.embeds.shape[1] for part in parts]
    length = math.lcm(*own) if parts[0].lengths is None else max(own)
    return [part.as_long_as(length) for part in parts]


@dataclass(frozen=True)
class LatentMoments:
    """The distribution that an image's latent is drawn from, scaled as the denoiser takes it.

    Attributes:
        mean: (B, C, h, w).
        std: As many; the same scaling is in it.
    """

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Return the latents that this standard normal noise (B, C, h, w) draws."""
        return self.mean + self.std * noise


@dataclass(frozen=True)
class Framing:
    """How each row's image was cut out of its file, for models that are told so (SD-XL).

    Such a model has learned what upscaled and cut images look like, and can be asked for neither
    (micro-conditioning, https://arxiv.org/abs/2307.01952, section 2.2).

    Attributes:
        original_size: Height and width of the image as it came, in pixels, (B, 2).
        crop_top_left: Top and left of the cut, in pixels of the image as it was scaled, (B, 2).
    """

    original_size: Tensor
    crop_top_left: Tensor

    def repeat(self, times: int) -> Framing:
        """Return all rows again and again."""
        return Framing(self.original_size.repeat(times, 1), self.crop_top_left.repeat(times, 1))
