"""A tool's settings, ticked off one by one: what nobody asked for is told of at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from loba_tui.client.recipes.imports.draft import Draft

_TRUE = frozenset(["true", "yes", "on", "1"])
_FALSE = frozenset(["false", "no", "off", "0", ""])
_NOTHING = frozenset(["", "none", "null"])


class Settings:
    """A mapping whose keys are taken by name, each with its value's type checked.

    Args:
        values: Keys and values as the file has them.
        draft: Where values that cannot be used are told of.
        prefix: What stands before a key where it is named, such as `train.`.
    """

    def __init__(self, values: Any, draft: Draft, prefix: str = "") -> None:
        self._values: dict[str, Any] = dict(values) if isinstance(values, Mapping) else {}
        self._draft = draft
        self._prefix = prefix
        self._seen: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def keys(self) -> list[str]:
        """Return all keys, taken or not."""
        return list(self._values)

    def named(self, key: str) -> str:
        """Return what a key is called in messages."""
        return self._prefix + key

    def raw(self, *names: str) -> Any:
        """Return the value of the first name that has one; None where none has."""
        found = None
        for name in names:
            value = self._values.get(name)
            if isinstance(value, str) and value.strip().lower() in _NOTHING:
                # An empty text is one, such as an empty prompt, unless another name says more.
                value = value if name == names[-1] and not value else None
            if value is None:
                self._seen.add(name)
            elif found is None:
                found = value
                self._seen.add(name)
        return found

    def origin(self, *names: str) -> tuple[str, Any]:
        """Return the first of the names that has a value, as it is called, with the value."""
        name = next((each for each in names if each in self), names[0])
        return self.named(name), self._values.get(name)

    def text(self, *names: str) -> str | None:
        """Return a text; a number counts as one. None where there is none."""
        value = self.raw(*names)
        if isinstance(value, bool | dict | list):
            self._refuse(names, "expected a text")
            return None
        return None if value is None else str(value)

    def number(self, *names: str) -> float | None:
        """Return a number, which may be written as text; None where there is none."""
        value = self.raw(*names)
        if value is None or value == "":
            return None
        number = as_number(value)
        if number is None:
            is_variable = isinstance(value, str) and value[:1] in ("$", "%")
            reason = "a variable that is not set here" if is_variable else "expected a number"
            self._refuse(names, reason)
        return number

    def whole(self, *names: str) -> int | None:
        """Return a whole number; None where there is none."""
        number = self.number(*names)
        if number is None:
            return None
        if number != int(number):
            self._refuse(names, "expected a whole number")
            return None
        return int(number)

    def flag(self, *names: str) -> bool | None:
        """Return whether something is on; None where the file does not say."""
        value = self.raw(*names)
        if value is None or isinstance(value, bool):
            return value
        word = str(value).strip().lower()
        if word in _TRUE | _FALSE and not isinstance(value, dict | list):
            return word in _TRUE
        self._refuse(names, "expected true or false")
        return None

    def part(self, name: str) -> Settings:
        """Return the settings of a section; empty where there is none."""
        value = self.raw(name)
        if value is not None and not isinstance(value, dict):
            self._refuse((name,), "expected a section")
        return Settings(value, self._draft, f"{self.named(name)}.")

    def parts(self, name: str) -> list[Settings]:
        """Return the settings of each section of a list."""
        value = self.raw(name)
        if value is not None and not isinstance(value, list):
            self._refuse((name,), "expected a list")
            return []
        start = self.named(name)
        return [
            Settings(item, self._draft, f"{start}.{index}.")
            for index, item in enumerate(value or ())
        ]

    def leave(self, names: Iterable[str], reason: str) -> None:
        """Tell of keys that a recipe has no place for."""
        for name in names:
            if name in self._values and name not in self._seen:
                self._seen.add(name)
                self._draft.left(self.named(name), self._values[name], reason)

    def leave_rest(self, reasons: Mapping[str, str] | None = None) -> None:
        """Tell of every key that was not asked for."""
        for name in self._values:
            reason = (reasons or {}).get(name, "there is no such setting here")
            self.leave([name], reason)

    def _refuse(self, names: Iterable[str], reason: str) -> None:
        self._draft.left(*self.origin(*names), reason)


def as_number(value: Any) -> float | None:
    """Return a finite number of a reasonable size, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < 1e15 else None
