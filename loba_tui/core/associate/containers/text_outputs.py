"""Where a constant can be added to what a CLIP text encoder gives the denoiser."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextOutput:
    """One encoder's part of the states that the denoiser reads, and of the pooled state.

    Modules are called as adapter files call them: `text_model.encoder…`.

    Attributes:
        component: The encoder's name in the pipeline.
        tokenizer: Its tokenizer's.
        states: The module that writes the states last: what its bias gains, every state gains.
        linear: The last linear layer before them: itself, or one that a norm stands behind.
        columns: How many columns of the states are this encoder's, after those before it.
        pooled: The norm before `projection`, whose bias moves the pooled state by a constant; None
            where the pooled state is not this encoder's.
        projection: The linear layer that makes the pooled state of it.
    """

    component: str
    tokenizer: str
    states: str
    linear: str
    columns: int
    pooled: str | None = None
    projection: str | None = None
