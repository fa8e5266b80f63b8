"""Layers that a transformer runs on the tokens of all rows at once, one row's after another's.

They see (tokens of all rows, width) and no batch; where rows differ, as in an adapter's strength,
one has to know how many tokens each row has there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

_NOTE = "loba_joined_tokens"


def note_joined_tokens(transformer: nn.Module, count: Callable[..., Sequence[int]]) -> None:
    """Have a transformer note, at each call, how many tokens of each row are joined.

    Args:
        count: Takes what the transformer's forward takes.
    """

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        setattr(module, _NOTE, tuple(count(*args, **kwargs)))

    transformer.register_forward_pre_hook(note, with_kwargs=True)


def joined_tokens(transformer: nn.Module) -> tuple[int, ...] | None:
    """Return the tokens of each row in the present call; None where no layer joins them."""
    return getattr(transformer, _NOTE, None)
