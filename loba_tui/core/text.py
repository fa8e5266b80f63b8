"""Foreign text on its way to a screen or a log: `clean()` is the one gate.

File names, prompts, captions, metadata and recipe values may hold terminal escape sequences or
bidirectional overrides, which can recolour a screen, move its cursor, retitle its window or show a
name backwards. What passes here is plain.
"""

from __future__ import annotations

import difflib
import itertools
import re
import unicodedata
from collections.abc import Iterable

# ECMA-48: CSI … final byte; OSC, DCS, SOS, PM and APC up to BEL or ST; any other two-byte escape.
# An unterminated string sequence must not swallow the rest of the text: it loses its introducer.
# A string ends at the next introducer too, or a text of nothing else would be searched again and
# again.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90\x98\x9c-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]?"
)
_NEEDS_WORK = re.compile(r"[^ -~]")
_BREAKS = "\t\n\r\x0b\x0c\x85"
_SPACES = ("Zs", "Zl", "Zp")
# Letters and symbols by category, and yet nothing is seen of them: Hangul fillers, a blank braille.
_BLANK = "\u115f\u1160\u2800\u3164\uffa0"
# Zero-width joiners shape emoji and several scripts; every other format character is dropped,
# which covers the bidirectional overrides, embeddings, isolates and marks, and invisible tags.
_JOINERS = "\u200c\u200d"
# Control, format, surrogate, private use: none of them has a glyph of its own to show.
_DROPPED = ("Cc", "Cf", "Cs", "Co")
_MARKS = ("Mn", "Me", "Mc")
_MOST_MARKS = 4
"""Vietnamese, Thai and Hebrew put up to three on a letter; hundreds cover the lines above."""


def clean(text: object, *, limit: int | None = None, keep_newlines: bool = False) -> str:
    """Return `text` as printable characters that do nothing but stand where they are.

    Line breaks become spaces unless they are kept. Text of more than `limit` characters is cut to
    that many, and ends in "…".
    """
    cleaned = plain(str(text), "\n" if keep_newlines else "")
    if limit is not None and len(cleaned) > limit:
        return cleaned[: max(0, limit - 1)] + "…"
    return cleaned


def plain(text: str, kept: str) -> str:
    """Return `text` as `clean` does, with the characters in `kept` left as they are."""
    if _NEEDS_WORK.search(text) is None:
        return text
    # What stands alone in most texts that need work: line ends of lines that need none.
    if kept and _NEEDS_WORK.search(text.translate(dict.fromkeys(map(ord, kept)))) is None:
        return text
    found: list[str] = []
    num_marks = _MOST_MARKS  # a mark at the beginning would change what is written before it
    for character in _ESCAPES.sub("", text):
        if " " <= character <= "~" or character in kept:
            found.append(character)
            num_marks = 0
            continue
        shown = _shown(character)
        if not shown:
            continue
        if shown in _JOINERS or unicodedata.category(shown) in _MARKS:
            num_marks += 1
            if num_marks > _MOST_MARKS:
                continue
        else:
            num_marks = 0
        found.append(shown)
    return "".join(found)


def _shown(character: str) -> str:
    """Return what stands for a character: itself, a space, a sign for "unknown", or nothing."""
    category = unicodedata.category(character)
    if category in _SPACES or character in _BREAKS or character in _BLANK:
        return " "
    if category == "Cn":
        # Nothing is known of how wide an unassigned character is drawn.
        return "\ufffd"
    return character if character in _JOINERS or category not in _DROPPED else ""


def quote(value: object, *, limit: int = 60) -> str:
    """Return a recipe value as it would be shown in a message: text quoted, the rest as YAML."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a section" if value else "an empty section"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, str):
        return f"'{clean(value, limit=limit)}'"
    return clean(value, limit=limit)


def counted(number: object, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1: 1 layer, 6 layers."""
    return f"{clean(number)} {noun}{'' if number == 1 else 's'}"


def nearest(word: str, candidates: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the candidate that `word` most likely meant, or None."""
    known = list(candidates)
    found = difflib.get_close_matches(word, known, n=3, cutoff=cutoff)
    if found:
        # Of two that are as near, people get the beginning right: adamv is adamw, not radam.
        return max(found, key=lambda near: (_likeness(word, near), _shared_start(word, near)))
    # Case and separators are the usual slips: "K-LMS" for k_lms.
    folded = {re.sub(r"[^a-z0-9]", "", candidate.lower()): candidate for candidate in known}
    found = difflib.get_close_matches(
        re.sub(r"[^a-z0-9]", "", word.lower()), [key for key in folded if key], n=1, cutoff=cutoff
    )
    return folded[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the hint that offers the nearest known name; where none is near, another hint."""
    return offer(nearest(word, known)) or otherwise


def offer(meant: str | None) -> str:
    """Return the hint that offers what was meant; empty where that is not known."""
    return f"Did you mean {clean(meant)}?" if meant else ""


def _likeness(word: str, candidate: str) -> float:
    return difflib.SequenceMatcher(None, candidate, word).ratio()


def _shared_start(word: str, candidate: str) -> int:
    pairs = zip(word, candidate, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
