"""Text encoders that a run trains: what they encode, with gradients for its steps and without.

An encoder's LoRA has the strength of the row that its prompt is for, as the denoiser's has. What
the base model is asked for is encoded before that LoRA is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_layers.strength import AdapterScale

_Pair = tuple[str | None, float]
"""A prompt and the adapter's strength."""


@dataclass(frozen=True)
class TrainedText:
    """The text encoders of a model with a LoRA each.

    Attributes:
        encoders: Those that have one, by their component's name.
        is_held: Whether steps leave the LoRA as the run's start has made it.
    """

    container: ModelContainer
    encoders: Mapping[str, nn.Module]
    is_held: bool = False
    _kept: dict[_Pair, PromptEmbeds] = field(default_factory=dict, repr=False)

    is_trained = True  # a LoRA that steps leave alone is calibrated all the same

    @cached_property
    def _scales(self) -> list[AdapterScale]:
        return [AdapterScale(encoder) for encoder in self.encoders.values()]

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters, by component and name."""
        return {
            f"{component}.{name}": parameter
            for component, encoder in self.encoders.items()
            for name, parameter in encoder.named_parameters()
            if parameter.requires_grad
        }

    def of_student(self, prompts: PromptEmbeds, strengths: Tensor | float) -> PromptEmbeds:
        """Return rows at a strength each, encoded anew with gradients unless the LoRA is held.

        Rows that stand for no prompt stay as they are.

        Args:
            prompts: B rows whose `texts` are noted, or one for all strengths.
            strengths: (B,) or one for all rows.

        Raises:
            RecipeError: Nobody noted of which prompts the rows are.
        """
        given = torch.as_tensor(strengths).reshape(-1).tolist()
        num_rows = max(len(given), len(prompts))
        if len(prompts.texts) != len(prompts):
            raise RecipeError(
                "adapter.text_encoders: the method trains on embeddings of no prompt",
                "A method of one's own says of which prompts they are: PromptEmbeds.of.",
            )
        prompts = prompts if len(prompts) == num_rows else prompts.expand(num_rows)
        given = given if len(given) == num_rows else given * num_rows
        wanted = list(zip(prompts.texts, given, strict=True))
        encoded = self._held_pairs(wanted) if self.is_held else self._encode_pairs(wanted)
        return PromptEmbeds.cat(
            [encoded[pair] if pair in encoded else prompts[n] for n, pair in enumerate(wanted)]
        )

    def _encode_pairs(self, pairs: Sequence[_Pair]) -> dict[_Pair, PromptEmbeds]:
        encoded: dict[_Pair, PromptEmbeds] = {}
        for strength in dict.fromkeys(strength for _, strength in pairs):
            named = dict.fromkeys(text for text, each in pairs if each == strength)
            texts = [text for text in named if text is not None]
            if not texts:
                continue
            with self.at(strength):
                rows = self.container.encode_prompts(texts, with_grad=True)
            encoded |= {(text, strength): rows[n] for n, text in enumerate(texts)}
        return encoded

    def _held_pairs(self, pairs: Sequence[_Pair]) -> dict[_Pair, PromptEmbeds]:
        """Return rows by prompt and strength, each encoded once."""
        missing = [pair for pair in dict.fromkeys(pairs) if pair not in self._kept]
        for strength in dict.fromkeys(strength for _, strength in missing):
            texts = [text for text, each in missing if each == strength and text is not None]
            # Alone: a run that resumes asks for other prompts together.
            with self.at(strength):
                rows = self.container.encode_alone(texts)
            self._kept.update(
                {(text, strength): row for text, row in zip(texts, rows, strict=True)}
            )
        return self._kept

    def encode(self, prompts: Sequence[str], scale: float) -> list[PromptEmbeds]:
        """Return one row a prompt at a strength, without gradients."""
        with self.at(scale):
            rows = self.container.encode_prompts(prompts)
        return [rows[n] for n in range(len(prompts))]

    @contextmanager
    def at(self, strength: float) -> Iterator[None]:
        """Have the encoders encode at a strength inside a `with` block."""
        with ExitStack() as stack:
            for scale in self._scales:
                stack.enter_context(scale(strength))
            yield


def trained_text(text: object) -> TrainedText | None:
    """Return text encoders that are trained, and None for others and for none."""
    return text if isinstance(text, TrainedText) else None
