"""The recipe that an importer is writing: values, where each is from, and what was left behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loba_tui.client.recipes.imports.families import FlowFamily


@dataclass(frozen=True)
class LeftOver:
    """A setting that has no place in the recipe.

    Attributes:
        key: As the other tool calls it.
        reason: Why it is not carried over.
    """

    key: str
    value: Any
    reason: str

    @property
    def is_off(self) -> bool:
        """Whether it is switched off, so that nothing is lost without it."""
        return self.value in (None, False, 0, "", [], {}) or (
            isinstance(self.value, str)
            and self.value.strip().lower() in ("false", "none", "off", "0")
        )


class Draft:
    """Values by dotted key, with notes and origins.

    Args:
        tool: The tool whose files are read.

    Attributes:
        values: By dotted key; `method.concepts`, `data.sources` and `noise` are lists.
        notes: Why a value stands where it does, by dotted key.
        family: The flow-matching family that is trained; None for SD-XL, SD 1.x and 2.x.
    """

    def __init__(self, tool: str) -> None:
        self.tool = tool
        self.values: dict[str, Any] = {}
        self.notes: dict[str, list[str]] = {}
        self.left_overs: list[LeftOver] = []
        self.remarks: list[str] = []
        self.family: FlowFamily | None = None
        self._origins: dict[str, list[tuple[str, Any]]] = {}

    def put(
        self, key: str, value: Any, origin: tuple[str, Any] | None = None, note: str = ""
    ) -> None:
        """Set a value; None says nothing.

        Args:
            origin: The other tool's key and value.
            note: For the reader, where the value is not the very one that was there.
        """
        if value is None:
            return
        self.values[key] = value
        self._came_from(key, origin)
        if note:
            self.note(key, note)

    def add(self, key: str, item: Any, origin: tuple[str, Any] | None = None) -> None:
        """Append to a list."""
        self.values.setdefault(key, []).append(item)
        self._came_from(key, origin)

    def note(self, key: str, text: str) -> None:
        """Say something about a value, once."""
        notes = self.notes.setdefault(key, [])
        if text not in notes:
            notes.append(text)

    def remark(self, text: str) -> None:
        """Say something about the whole recipe, once."""
        if text not in self.remarks:
            self.remarks.append(text)

    def left(self, key: str, value: Any, reason: str) -> None:
        """Tell of a setting that is not carried over."""
        self.left_overs.append(LeftOver(key, value, reason))

    def drop(self, key: str, reason: str) -> None:
        """Take a value, or all values below a key, out again, and tell of where they came from."""
        for each in [k for k in self.values if k == key or k.startswith(f"{key}.")]:
            value = self.values.pop(each)
            self.notes.pop(each, None)
            for name, original in self._origins.pop(each, [(each, value)]):
                self.left(name, original, reason)

    def drop_item(self, key: str, index: int, reason: str) -> None:
        """Take an item out of a list again, and tell of it."""
        item = self.values[key].pop(index)
        self.left(f"{key}.{index}", item, reason)
        if not self.values[key]:
            del self.values[key]

    def _came_from(self, key: str, origin: tuple[str, Any] | None) -> None:
        if origin is not None and origin[1] is not None:
            origins = self._origins.setdefault(key, [])
            if origin not in origins:
                origins.append(origin)
