"""In what two recipes differ: key by key what they mean, line by line how they are written."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from loba_tui.core.recipe.problems import dotted
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.text import clean


@dataclass(frozen=True)
class Difference:
    """A key that two recipes do not agree on.

    `sides` has its value on the `left` and on the `right`, less one where it is not given.
    """

    key: str
    sides: Mapping[str, Any]

    @property
    def line(self) -> str:
        """Return it for reading, plain text."""
        texts = {name: _written(side) for name, side in self.sides.items()}
        left, right = (texts.get(name, "(not given)") for name in ("left", "right"))
        return f"{clean(self.key, limit=120)}: {left} -> {right}"

    def record(self) -> dict[str, Any]:
        """Return it as JSON holds it; a side that does not have the key lacks it here too."""
        return {"key": self.key, **self.sides}


def differences(left: Recipe, right: Recipe) -> list[Difference]:
    """Return every key that two resolved recipes differ in, in the recipe's order."""
    return list(_between(left.model_dump(mode="json"), right.model_dump(mode="json"), ()))


def _between(left: Any, right: Any, path: tuple[str | int, ...]) -> Iterator[Difference]:
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        for key in [*left, *(key for key in right if key not in left)]:
            here = (*path, key)
            if key in left and key in right:
                yield from _between(left[key], right[key], here)
            else:
                name, side = ("left", left) if key in left else ("right", right)
                yield Difference(dotted(here), {name: side[key]})
    elif _is_listing(left) and _is_listing(right) and len(left) == len(right):
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            yield from _between(one, other, (*path, index))
    elif left != right:
        yield Difference(dotted(path), {"left": left, "right": right})


def _is_listing(value: Any) -> bool:
    """Say whether a value is a list of sections: these are compared one by one."""
    return isinstance(value, list) and any(isinstance(item, Mapping) for item in value)


def _written(value: Any) -> str:
    return clean(json.dumps(value, ensure_ascii=False), limit=160)


def text_diff(before: str, after: str, *, context: int = 2) -> list[str]:
    """Return a unified diff of two texts without its head; empty if they are the same."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=context, lineterm="")
    return [clean(line) for line in list(lines)[2:]]
