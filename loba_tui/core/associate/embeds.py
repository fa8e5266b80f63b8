"""Batches of conditions and latents: a prompt's embeddings, an image's latent, its framing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class PromptEmbeds:
    """Embeddings that a denoiser is conditioned on, one row a prompt.

    Attributes:
        embeds: Hidden states of the text encoders, (B, T, D).
        pooled: Pooled state, (B, P); None for families that have none.
        texts: The prompt of each row, by which encoders that are trained encode it again; None for
            a row that stands for no prompt. Empty where nobody has noted them.
    """

    embeds: Tensor
    pooled: Tensor | None = None
    texts: tuple[str | None, ...] = ()

    def __len__(self) -> int:
        return self.embeds.shape[0]

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> PromptEmbeds:
        """Return the given rows; a single index keeps the batch dimension."""
        if isinstance(rows, int):
            rows = [rows]
        elif not isinstance(rows, slice | Tensor):
            rows = list(rows)
        texts = self.texts
        if texts:
            numbers = torch.arange(len(texts))[rows.cpu() if isinstance(rows, Tensor) else rows]
            texts = tuple(texts[number] for number in numbers)
        pooled = None if self.pooled is None else self.pooled[rows]
        return PromptEmbeds(self.embeds[rows], pooled, texts)

    def select(self, indices: Sequence[int] | Tensor) -> PromptEmbeds:
        """Return the rows of the given indices, in that order, repeats allowed."""
        return self[indices]

    def of(self, *texts: str | None) -> PromptEmbeds:
        """Return the same rows with the prompts that they are of."""
        return replace(self, texts=texts)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> PromptEmbeds:
        """Return the same embeddings on a device and in a dtype; None leaves either as it is."""
        pooled = None if self.pooled is None else self.pooled.to(device=device, dtype=dtype)
        return PromptEmbeds(self.embeds.to(device=device, dtype=dtype), pooled, self.texts)

    def expand(self, num_rows: int) -> PromptEmbeds:
        """Return a single row repeated to a batch, without copying it."""
        pooled = None if self.pooled is None else self.pooled.expand(num_rows, -1)
        return PromptEmbeds(self.embeds.expand(num_rows, -1, -1), pooled, self.texts * num_rows)

    def repeated_to(self, length: int) -> PromptEmbeds:
        """Return the states of each row again and again, `length` of them.

        To attention, states that all stand there equally often are the same as those states once.
        """
        times = length // self.embeds.shape[1]
        return self if times == 1 else replace(self, embeds=self.embeds.repeat(1, times, 1))

    @staticmethod
    def cat(parts: Sequence[PromptEmbeds]) -> PromptEmbeds:
        """Join rows of the same family into one batch; shorter ones are repeated."""
        parts = same_length(parts)
        pooled = [part.pooled for part in parts if part.pooled is not None]
        texts = [text for part in parts for text in part.texts]
        return PromptEmbeds(
            torch.cat([part.embeds for part in parts]),
            torch.cat(pooled) if pooled else None,
            tuple(texts) if all(part.texts for part in parts) else (),
        )


def same_length(parts: Sequence[PromptEmbeds]) -> list[PromptEmbeds]:
    """Return embeddings of prompts of any number of chunks with as many states a row each."""
    length = math.lcm(*(part.embeds.shape[1] for part in parts))
    return [part.repeated_to(length) for part in parts]


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
