"""How prompts are read: in how many chunks, and whether parentheses are weights.

A CLIP text encoder reads 77 tokens: a start, 75 of the prompt, an end. A longer prompt is cut
there, or read in chunks of 75 with a start and an end each, whose states stand one after another.
The pooled state is the first chunk's.

Weights are written as in A1111's web UI: `(a)` is 1.1, `[a]` is 1 / 1.1, `(a:1.3)` is 1.3, and a
bracket after a backslash is a bracket. The states of a token are multiplied by its weight, and all
states of a chunk are scaled so that their mean stays what it was. Start, end and padding have the
weight 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

_STRONGER = 1.1
_MOST_NESTED = 32
_NUMBER = r"[+-]?(?:\d{1,3}(?:\.\d{0,6})?|\.\d{1,6})"
_PIECE = re.compile(
    r"\\[\\()\[\]]"
    r"|(?P<open>[(\[])"
    rf"|:\s*(?P<weight>{_NUMBER})\s*\)"
    r"|(?P<close>[)\]])"
    r"|[^\\()\[\]:]+"
    r"|[\\:]"
)


@dataclass(frozen=True)
class PromptReading:
    """How the prompts of a recipe are read."""

    long_prompts: Literal["cut", "chunks"] = "cut"
    weights: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is what every pipeline does by itself."""
        return self == PromptReading()

    def tokens(self, tokenizer: Any, prompt: str) -> WeightedTokens:
        """Return a prompt's tokens and their weights, without start, end and padding."""
        ids: list[int] = []
        weights: list[float] = []
        for text, weight in weighted_parts(prompt) if self.weights else [(prompt, 1.0)]:
            # As a list: of a single text it warns that it is long, in words for programmers.
            (found,) = tokenizer([text], add_special_tokens=False, verbose=False).input_ids
            ids += found
            weights += [weight] * len(found)
        if self.long_prompts == "cut":
            most = tokenizer.model_max_length - 2
            ids, weights = ids[:most], weights[:most]
        return WeightedTokens(ids, weights)


@dataclass(frozen=True)
class WeightedTokens:
    """The tokens of a prompt, and the weight of each."""

    ids: Sequence[int]
    weights: Sequence[float]

    def chunks(self, length: int) -> list[WeightedTokens]:
        """Return it in pieces of at most `length` tokens, one of none where there are none."""
        starts = range(0, max(len(self.ids), 1), length)
        return [
            WeightedTokens(self.ids[i : i + length], self.weights[i : i + length]) for i in starts
        ]


def weighted_parts(prompt: str) -> list[tuple[str, float]]:
    """Return the texts of a prompt with their weights, neighbours of one weight as one.

    A parenthesis that is not closed counts to the end; one that was not opened is text.
    """
    parts: list[tuple[str, float]] = []
    opened: list[tuple[str, int]] = []

    def multiply(start: int, factor: float) -> None:
        parts[start:] = [(text, weight * factor) for text, weight in parts[start:]]

    for match in _PIECE.finditer(prompt):
        piece = match.group()
        if match["open"] and len(opened) < _MOST_NESTED:
            opened.append((piece, len(parts)))
        elif match["weight"] and opened and opened[-1][0] == "(":
            multiply(opened.pop()[1], float(match["weight"]))
        elif match["close"] and opened and opened[-1][0] == {")": "(", "]": "["}[piece]:
            bracket, start = opened.pop()
            multiply(start, _STRONGER if bracket == "(" else 1 / _STRONGER)
        else:
            # A backslash with what follows it is an escape; one alone is text.
            is_escape = piece.startswith("\\") and len(piece) == 2
            parts.append((piece[1] if is_escape else piece, 1.0))
    for bracket, start in reversed(opened):
        multiply(start, _STRONGER if bracket == "(" else 1 / _STRONGER)
    merged: list[tuple[str, float]] = []
    for text, weight in parts:
        if merged and merged[-1][1] == weight:
            text = merged.pop()[0] + text
        merged.append((text, weight))
    return merged


def token_rows(tokenizer: Any, chunks: Sequence[WeightedTokens]) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask, (N, T) both, as the tokenizer itself would pad them."""
    length = tokenizer.model_max_length
    ids, mask = [], []
    for chunk in chunks:
        row = [tokenizer.bos_token_id, *chunk.ids, tokenizer.eos_token_id]
        missing = length - len(row)
        ids.append(row + [tokenizer.pad_token_id] * missing)
        mask.append([1] * len(row) + [0] * missing)
    return torch.tensor(ids), torch.tensor(mask)


def weighted(states: Tensor, chunks: Sequence[WeightedTokens]) -> Tensor:
    """Return the states (N, T, D) of chunks, each token's times its weight, their mean restored."""
    if all(weight == 1.0 for chunk in chunks for weight in chunk.weights):
        return states
    factors = torch.ones(states.shape[:2], dtype=torch.float32)
    for row, chunk in zip(factors, chunks, strict=True):
        row[1 : 1 + len(chunk.weights)] = torch.tensor(chunk.weights)
    changed = states.float() * factors[..., None].to(states.device)
    before, after = (each.float().mean(dim=(1, 2), keepdim=True) for each in (states, changed))
    # A mean of nothing cannot be restored.
    ratio = torch.where(after.abs() > 1e-6 * before.abs(), before / after, 1.0)
    return (changed * ratio).to(states.dtype)
