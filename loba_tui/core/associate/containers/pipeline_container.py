"""Base of all containers: components in memory, and prompts that are encoded in batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from loba_tui.core.associate.containers.base import ComponentMemory
from loba_tui.core.associate.containers.codec import AutoencoderCodec
from loba_tui.core.associate.containers.prompt_reading import PromptReading
from loba_tui.core.associate.containers.prompt_truncation import truncated_tails
from loba_tui.core.associate.embeds import PromptEmbeds

_MOVED = ("_hf_hook", "_block_offload")
"""Attributes by which accelerate's hooks, and a `BlockOffload`, mark a network that they move."""
PROMPTS_AT_ONCE = 32
_CPU = torch.device("cpu")


class PipelineContainer(AutoencoderCodec, ABC):
    """A `ModelContainer` but for what a kind of denoiser, or a family, has of its own.

    Its `text_encoders` are the components that are dropped once all prompts are encoded.
    """

    family: str
    text_encoders: tuple[str, ...]

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        revision: str | None = None,
        *,
        resolution: int | None = None,
    ) -> None:
        """Take a loaded pipeline.

        Args:
            revision: The commit of the hub that was loaded.
            resolution: The side of the images that the model was made for, where it says so beside
                its configuration.
        """
        self.pipeline = pipeline
        self.revision = revision
        self._told_resolution = resolution
        self.memory: ComponentMemory | None = None
        self.home: torch.device | None = None
        self.slices_vae = self.tiles_vae = False
        self.reading = PromptReading()
        self.trains_text_encoders = False
        self._tokenizer = pipeline.tokenizer
        self._empty: PromptEmbeds | None = None

    @property
    @abstractmethod
    def unconditional_prompt(self) -> str | None:
        """The prompt that stands where none is given; None where that is zeros."""

    @abstractmethod
    def _encode(self, prompts: list[str]) -> PromptEmbeds:
        """Return what the pipeline's own `encode_prompt` does, one row a prompt."""

    @abstractmethod
    def zero_embeds(self) -> PromptEmbeds:
        """Return one row of zeros of the shape that a prompt's embeddings have, (1, T, D)."""

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes, also while it is offloaded."""
        if self.home is not None:
            return self.home
        modules = [m for m in self.pipeline.components.values() if isinstance(m, nn.Module)]
        if any(hasattr(module, "_hf_hook") for module in modules):
            return self.pipeline._execution_device
        return next((place for m in modules if (place := _place_of(m)) is not None), _CPU)

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        """The noise schedule the model was trained with, as diffusers writes it."""
        return self.pipeline.scheduler.config

    def encode_prompts(self, prompts: Sequence[str], *, with_grad: bool = False) -> PromptEmbeds:
        """Return one row a prompt, as the pipeline conditions its positive half."""
        self.require(*self.text_encoders)
        with torch.set_grad_enabled(with_grad):
            return PromptEmbeds.cat(self._encoded_parts(prompts)).of(*prompts)

    def _encoded_parts(self, prompts: Sequence[str]) -> list[PromptEmbeds]:
        """Return all rows, in batches."""
        starts = range(0, len(prompts), PROMPTS_AT_ONCE)
        return [self._encode(list(prompts[at : at + PROMPTS_AT_ONCE])) for at in starts]

    def encode_alone(self, prompts: Sequence[str]) -> list[PromptEmbeds]:
        """Return one row a prompt, to the bit as if no other were encoded; without gradients."""
        return [self.encode_prompts([prompt]) for prompt in prompts]

    def tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each prompt, start and end included, padding not."""
        found: list[list[int]] = self._tokenizer(
            list(prompts), truncation=True, max_length=self.most_tokens
        ).input_ids
        return found

    def word_tokens(self, word: str, encoder: str) -> list[int]:
        """Return the token ids of a word, or of several, as they are inside of a prompt."""
        tokenizer = getattr(self.pipeline, encoder.replace("text_encoder", "tokenizer"))
        found: list[int] = tokenizer([word], add_special_tokens=False).input_ids[0]
        return found

    @property
    def most_tokens(self) -> int:
        """Tokens of a prompt that are read, start and end included."""
        return int(self._tokenizer.model_max_length)

    def prompts_read_once(self) -> AbstractContextManager[None]:
        """Change nothing: what a transformer makes of the prompt differs at every step."""
        return nullcontext()

    def truncated_tails(self, prompts: Sequence[str]) -> dict[str, str]:
        """Return of each prompt that is longer than what is read the end that has no effect."""
        if self.reading.long_prompts == "chunks":
            return {}
        return truncated_tails(self._tokenizer, prompts)

    def empty_embeds(self) -> PromptEmbeds:
        """Return the one row that the pipeline uses when no negative prompt is given."""
        if self._empty is None:
            prompt = self.unconditional_prompt
            if prompt is None:
                self._empty = self.zero_embeds().of(None)
            else:
                self._empty = self.encode_prompts([prompt])
        return self._empty

    def adopt_empty(self, row: PromptEmbeds) -> None:
        """Take the embeddings of `unconditional_prompt`, so that no encoder is needed for it."""
        self._empty = row

    def release_text_encoders(self) -> None:
        """Drop the text encoders; `empty_embeds` and sampling from embeddings go on working."""
        self.empty_embeds()
        if self.trains_text_encoders:
            return
        names = self.text_encoders
        here = [name for name in names if getattr(self.pipeline, name) is not None]
        if self.memory is not None and here:
            self.memory.drop(here)
        else:
            self.pipeline.register_modules(**dict.fromkeys(names))

    def require(self, *components: str) -> None:
        """Have components of the pipeline in memory and on the device before they are used."""
        wanted = [name for name in components if self._is_away(getattr(self.pipeline, name))]
        if wanted and self.memory is not None:
            self.memory.bring(wanted)
        gone = [name for name in components if getattr(self.pipeline, name) is None]
        if gone:
            raise RuntimeError(f"{' and '.join(gone)} was released, and nobody can load it again")
        if "vae" in components:  # it may have been loaded anew
            self.pipeline.vae.use_slicing = self.slices_vae
            self.pipeline.vae.use_tiling = self.tiles_vae

    def _is_away(self, module: nn.Module | None) -> bool:
        if module is None:
            return True
        # Where hooks move a component or its blocks, they do so when these are called.
        is_moved = any(hasattr(module, mark) for mark in _MOVED)
        return not is_moved and _place_of(module) != self.device


def _place_of(module: nn.Module) -> torch.device | None:
    """Return where a network is by its first parameter; None where it has none.

    diffusers' own `device` asks every layer for hooks first, and each prediction asks for it.
    """
    first = next(module.parameters(), None)
    return None if first is None else first.device
