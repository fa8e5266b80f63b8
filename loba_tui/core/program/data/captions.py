"""Captions: from bytes to text, and from a text to the variants that are trained on."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

import torch

from loba_tui.core.foreign_json import parse_json
from loba_tui.core.program import randomness
from loba_tui.core.recipe.sections.data import CaptionSection

MAX_CAPTION_BYTES = 64 * 1024
"""More than this is not a caption but some other file."""

_WILDCARD = re.compile(r"\{\{|\}\}|\{(?P<choices>[^{}|]*(?:\|[^{}|]*)+)\}")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class BadCaption(ValueError):
    """A caption cannot be used; the message says why."""


def decode_text(content: bytes, encoding: str) -> str:
    """Return a text file's content; the encoding "auto" is UTF-8, or whatever its mark says.

    Raises:
        BadCaption: The bytes are not in that encoding.
    """
    marked = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    chosen = (marked or "utf-8") if encoding == "auto" else encoding
    try:
        return content.decode("utf-8-sig" if chosen == "utf-8" else chosen)
    except UnicodeDecodeError as error:
        byte = content[error.start : error.start + 1].hex()
        raise BadCaption(
            f"byte 0x{byte} at {error.start} is not {chosen.upper()}{_guess(content)}"
        ) from error


def _guess(content: bytes) -> str:
    if content.count(0) > len(content) // 4:
        return "; it looks like UTF-16: set data.captions.encoding: utf-16"
    try:
        content.decode("cp1252")
    except UnicodeDecodeError:
        return ""
    return "; it looks like Windows-1252: set data.captions.encoding: cp1252"


def caption_of_json(text: str, settings: CaptionSection) -> str:
    """Return the caption in the text of a .json file.

    Raises:
        BadCaption: It is no JSON table, or has no caption under the recipe's key.
    """
    try:
        table = parse_json(text)
    except ValueError as error:
        raise BadCaption(f"not valid JSON: {error}") from error
    if not isinstance(table, dict):
        raise BadCaption("expected a JSON table")
    return caption_in(table, settings)


def caption_in(table: Mapping[str, Any], settings: CaptionSection) -> str:
    """Return the caption under the recipe's key: text, or a list of tags.

    Raises:
        BadCaption: There is none, or it is neither.
    """
    if settings.key not in table:
        keys = ", ".join(list(map(str, table))[:8]) or "none at all"
        raise BadCaption(f"it has no {settings.key!r} (it has {keys}); set data.captions.key")
    value = table[settings.key]
    if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
        return f"{settings.separator} ".join(value)
    if not isinstance(value, str):
        raise BadCaption(f"{settings.key!r} is not text")
    return value


def tidy(text: str) -> str:
    """Return a caption on one line; tokenizers read every run of white space as one space.

    Raises:
        BadCaption: It holds a character that no prompt can hold.
    """
    plain = " ".join(text.split())
    for place, character in enumerate(plain):
        if unicodedata.category(character) in ("Cc", "Cs"):
            raise BadCaption(f"character {place + 1} is the control code U+{ord(character):04X}")
    return plain


def variant(caption: str, settings: CaptionSection, seed: int, *key: int | str) -> str:
    """Return one variant of a tidy caption: wildcards drawn, tags shuffled, some left out.

    The trigger stands in front. `key` says which variant of which image.
    """
    if settings.wildcards:
        caption = without_wildcards(caption, randomness.generator(seed, "wildcards", *key))
    if settings.shuffle or settings.drop_tags:
        tags = [tag.strip() for tag in caption.split(settings.separator)]
        kept, others = tags[: settings.keep], tags[settings.keep :]
        draws = torch.rand(2, len(others), generator=randomness.generator(seed, "tags", *key))
        order = draws[0].argsort().tolist() if settings.shuffle else range(len(others))
        left = [others[i] for i in order if float(draws[1, i]) >= settings.drop_tags]
        caption = f"{settings.separator} ".join([*kept, *left])
    return f"{settings.trigger} {caption}".strip()


def num_variants(settings: CaptionSection) -> int:
    """Return how many variants of each caption there are."""
    varies = settings.shuffle or settings.drop_tags or settings.wildcards
    return settings.variants if varies else 1


def without_wildcards(caption: str, generator: torch.Generator) -> str:
    """Return a caption with one of the alternatives of each `{a|b}`, as kohya's trainer writes it.

    `{{` and `}}` are braces. Braces without a `|` between them, and those inside of others, stay.
    """

    def choose(match: re.Match[str]) -> str:
        if match["choices"] is None:
            return match.group()[0]
        choices = match["choices"].split("|")
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    return " ".join(_WILDCARD.sub(choose, caption).split())
