"""A draft as a commented recipe, and what was left behind as a table."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from loba_tui.client.recipes.imports.draft import Draft, LeftOver
from loba_tui.core.recipe.schema import (
    RECIPE_VERSION,
    BaseModelSection,
    Recipe,
    SampleSection,
    TrainSection,
)
from loba_tui.core.recipe.sections.data import DataSection
from loba_tui.core.recipe.yaml_tree import resolve_scalar
from loba_tui.core.redact import without_secrets
from loba_tui.core.text import clean

_SECTIONS: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        "base_model": BaseModelSection,
        "data": DataSection,
        "sample": SampleSection,
        "train": TrainSection,
    }
)
WIDTH = 100
_MOST_VALUE = 200
# Colons, hashes and brackets could mean something else; these cannot.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9 _./-]*[A-Za-z0-9]|[A-Za-z]")


def recipe_text(draft: Draft, sources: Sequence[str]) -> str:
    """Return a draft as YAML with comments; it need not be valid yet.

    Args:
        sources: What the files are called that it was made from.
    """
    tree = nested(draft.values)
    lines = [*_header(draft, sources), f"version: {RECIPE_VERSION}"]
    for section in Recipe.model_fields:
        if section == "version" or section not in tree:
            continue
        if isinstance(tree[section], dict | list):
            lines.append("")
        lines += _entry(section, tree[section], (section,), "", draft.notes)
    return "\n".join([*lines, *_footer(draft)]) + "\n"


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted key as sections within each other."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, last = key.split(".")
        section = tree
        for step in sections:
            section = section.setdefault(step, {})
        section[last] = value
    return tree


def shown(value: Any) -> str:
    """Return a foreign value on one line, as JSON has it, without what looks like a secret."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return clean(without_secrets(text), limit=_MOST_VALUE) or "''"


def left_over_rows(left_overs: Sequence[LeftOver]) -> list[tuple[str, str, str]]:
    """Return key, value and reason of each setting that was left, without those that are off."""
    rows = [
        (clean(without_secrets(e.key)), shown(e.value), clean(without_secrets(e.reason)))
        for e in left_overs
        if not e.is_off
    ]
    return list(dict.fromkeys(rows))


def off_keys(left_overs: Sequence[LeftOver]) -> list[str]:
    """Return the settings that were left and are off: nothing is lost without them."""
    keys = (
        f"{clean(without_secrets(each.key))} ({shown(each.value)})"
        for each in left_overs
        if each.is_off
    )
    return list(dict.fromkeys(keys))


def table_lines(draft: Draft) -> Iterator[str]:
    """Yield what was left behind as lines for a terminal."""
    rows = left_over_rows(draft.left_overs)
    if rows:
        yield f"Not carried over from {draft.tool}:"
        head = ("their key", "value", "why")
        key_width = min(44, max(len(row[0]) for row in [head, *rows]))
        value_width = min(32, max(len(row[1]) for row in [head, *rows]))
        for key, value, reason in [head, *rows]:
            cut = value if len(value) <= value_width else value[: value_width - 1] + "…"
            yield f"  {key:{key_width}}  {cut:{value_width}}  {reason}"
    off = off_keys(draft.left_overs)
    if off:
        yield from textwrap.wrap(
            f"Off there, so nothing is lost: {', '.join(off)}", WIDTH, subsequent_indent="  "
        )
    if not rows and not off:
        yield "Everything was carried over."


def _header(draft: Draft, sources: Sequence[str]) -> Iterator[str]:
    names = ", ".join(clean(without_secrets(name)) for name in sources)
    yield from _comment(f"Imported from {names}, a configuration of {draft.tool}.")
    for remark in draft.remarks:
        yield from _comment(remark)
    yield "# What could not be carried over stands at the end."


def _footer(draft: Draft) -> Iterator[str]:
    rows = left_over_rows(draft.left_overs)
    off = off_keys(draft.left_overs)
    yield ""
    if not rows and not off:
        yield from _comment("Everything was carried over.")
        return
    if rows:
        yield from _comment(f"Not carried over from {draft.tool}:")
    for key, value, reason in rows:
        yield from _comment(f"{key}: {value}", indent=2)
        yield from _comment(f"→ {reason}", indent=6)
    if off:
        yield from _comment(f"Off there, so nothing is lost: {', '.join(off)}")


def _comment(text: str, pad: str = "", indent: int = 0) -> list[str]:
    start = f"{pad}# {' ' * indent}"
    return textwrap.wrap(
        clean(without_secrets(text)),
        WIDTH,
        initial_indent=start,
        subsequent_indent=f"{start}  " if indent else start,
        break_on_hyphens=False,
        break_long_words=False,  # a path has to be found again
    )


def _entry(
    key: str, value: Any, path: tuple[str, ...], pad: str, notes: Mapping[str, list[str]]
) -> Iterator[str]:
    """Yield the lines of one key, its notes above it."""
    dotted = ".".join(path)
    for note in notes.get(dotted, ()):
        yield from _comment(note, pad)
    has_notes = any(noted.startswith(f"{dotted}.") for noted in notes)
    if isinstance(value, dict) and value and (has_notes or not _is_short(value)):
        yield f"{pad}{key}:"
        for name, item in _ordered(value, path):
            yield from _entry(name, item, (*path, name), pad + "  ", notes)
    elif isinstance(value, list) and value and not _is_short(value):
        yield f"{pad}{key}:"
        for item in value:
            yield from _item(item, pad + "  ")
    else:
        yield f"{pad}{key}: {_inline(value)}"


def _ordered(section: Mapping[str, Any], path: tuple[str, ...]) -> list[tuple[str, Any]]:
    """Return a section's keys as the schema has them; options of a drop-in after its name."""
    declared = (
        list(_SECTIONS[path[0]].model_fields) if len(path) == 1 and path[0] in _SECTIONS else []
    )

    def place(pair: tuple[str, Any]) -> tuple[bool, bool, int]:
        key = pair[0]
        index = declared.index(key) if key in declared else len(declared)
        return key == "concepts", key != "name", index

    return sorted(section.items(), key=place)


def _item(item: Any, pad: str) -> Iterator[str]:
    if not isinstance(item, dict) or _is_short(item):
        yield f"{pad}- {_inline(item)}"
        return
    mark = "- "
    for key, value in item.items():
        yield f"{pad}{mark}{key}: {_inline(value)}"
        mark = "  "


def _is_short(value: Any) -> bool:
    """Say whether a list or a choice reads well on one line."""
    parts = value.values() if isinstance(value, dict) else value
    if any(isinstance(part, dict) for part in parts):
        return False
    if isinstance(value, dict) and "name" not in value:
        return len(_inline(value)) < 60 and bool({"path"} & set(value))
    return len(_inline(value)) < 60 and not any(" " in str(part) for part in parts)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        pairs = sorted(value.items(), key=lambda pair: pair[0] != "name")
        return "{" + ", ".join(f"{key}: {_inline(item)}" for key, item in pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, str):
        is_plain = _PLAIN.fullmatch(value) and isinstance(resolve_scalar(value), str)
        return value if is_plain else _quoted(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e9:
        return str(int(value))
    return json.dumps(value)


def _quoted(text: str) -> str:
    """Return a text in quotes; what YAML does not take as it is is written as an escape."""
    escaped = json.dumps(text, ensure_ascii=False)
    return "".join(
        letter
        if letter.isprintable()
        else f"\\u{ord(letter):04x}"
        if ord(letter) < 0x10000
        else f"\\U{ord(letter):08x}"
        for letter in escaped
    )
