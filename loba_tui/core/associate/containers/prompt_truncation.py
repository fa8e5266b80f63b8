"""Prompts that are longer than what a text encoder reads: what is at their ends has no effect."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from loba_tui.core.associate.containers.tokenizers import has_tokenizer, open_tokenizer
from loba_tui.core.text import clean

_MOST_NAMED, _MOST_CHARACTERS = 3, 60
# Where a pipeline has several, the last one reads the most of a prompt.
_TOKENIZERS = ("tokenizer_3", "tokenizer_2", "tokenizer")


def truncated_tails(
    tokenizer: Any, prompts: Iterable[str], most: int | None = None
) -> dict[str, str]:
    """Return of each prompt that does not fit the end that is not read.

    Args:
        most: Tokens that are read; None for all that the tokenizer gives.
    """
    wanted = list(dict.fromkeys(prompts))
    if not wanted:
        return {}
    most = tokenizer.model_max_length if most is None else most
    # Not verbose: that would warn of sequences that are too long in words for programmers.
    rows = tokenizer(wanted, truncation=False, verbose=False).input_ids
    # The last token that is read is the end token.
    return {
        prompt: tokenizer.decode(ids[most - 1 : -1]).strip()
        for prompt, ids in zip(wanted, rows, strict=True)
        if len(ids) > most
    }


def tails_of_chats(
    tokenizer: Any, prompts: Iterable[str], chat: Callable[[str], str], most: int
) -> dict[str, str]:
    """Return of each prompt whose chat does not fit the end that is not read.

    Args:
        chat: Returns the text around a prompt, and the prompt in it.
        most: Tokens of a chat that are read.
    """
    wanted = list(dict.fromkeys(prompts))
    if not wanted:
        return {}
    rows = tokenizer([chat(prompt) for prompt in wanted], truncation=False, verbose=False).input_ids
    around = chat("\0").split("\0")
    behind = len(tokenizer([around[-1]], add_special_tokens=False).input_ids[0])
    return {
        prompt: tokenizer.decode(ids[most : len(ids) - behind]).strip()
        for prompt, ids in zip(wanted, rows, strict=True)
        if len(ids) - behind > most
    }


def describe_truncation(tails: Mapping[str, str], most: int) -> str:
    """Return which prompts do not fit; `most` is the number of tokens that are read."""
    named = [f"{_shown(p)} loses {_shown(tail)}" for p, tail in list(tails.items())[:_MOST_NAMED]]
    more = len(tails) - len(named)
    are = "1 prompt is" if len(tails) == 1 else f"{len(tails)} prompts are"
    return (
        f"{are} longer than the {most - 2} tokens that this model reads, and what is at the end"
        f" has no effect: {'; '.join(named)}{f'; and {more} more' if more else ''}"
    )


def tokenizer_of(folder: Path) -> Any | None:
    """Return the tokenizer in a diffusers folder, without its model; None where it has none."""
    for name in _TOKENIZERS:
        if has_tokenizer(folder / name):
            return open_tokenizer(folder / name)
    return None


def _shown(text: str) -> str:
    plain = clean(text)
    return repr(plain if len(plain) <= _MOST_CHARACTERS else f"{plain[:_MOST_CHARACTERS]}…")
