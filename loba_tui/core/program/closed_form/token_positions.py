"""Which token of one prompt stands where a token of another does.

An edit in closed form changes hidden states token by token, so "a red circle" and "a blue circle",
or "a circle" and "a large circle", have to be laid side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher


@dataclass(frozen=True)
class Match:
    """Positions in two prompts that belong together; `same_word` where the token is the same."""

    source: int
    target: int
    same_word: bool


def match_tokens(source: Sequence[int], target: Sequence[int]) -> list[Match]:
    """Return for every token of `source` but the first its counterpart in `target`.

    A replaced word's tokens are matched from their ends, because its last token is the one that has
    read all of it; a word that `target` lacks is matched with the token before the gap, or with the
    one after it where that would be the start token, which has read nothing.

    Args:
        source: Token ids, the start and end tokens included.
        target: The same of the other prompt.
    """
    matches = []
    matcher = SequenceMatcher(a=source, b=target, autojunk=False)
    for kind, first, last, other_first, other_last in matcher.get_opcodes():
        for position in range(first, last):
            from_end = last - position
            counterpart = max(other_last - from_end, other_first)
            if other_first == other_last:
                counterpart = other_first - 1 if other_first > 1 else other_first
            matches.append(Match(position, counterpart, kind == "equal"))
    return [match for match in matches if match.source > 0]


def padding(source: Sequence[int], target: Sequence[int], length: int) -> list[Match]:
    """Return the positions up to `length` that are padding in both prompts."""
    return [Match(p, p, True) for p in range(max(len(source), len(target)), length)]
