"""The record of what was changed while a run went on: enough to do the same run again.

It lies beside the recipe as steering.json, goes into each checkpoint, and into the finished
adapter's metadata. A change made at step n holds from the step after n steps on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from loba_tui.core.errors import CorruptError
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.owned_files import OwnedFile
from loba_tui.core.run.control import LIVE_KEYS

_VERSION = 1
_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Change:
    """One setting that was changed after `step` steps."""

    step: int
    key: str
    old: Any
    new: Any


@dataclass(frozen=True)
class ChangeRecord:
    """All changes of a run in the order of their steps.

    Attributes:
        skipped: Steps that a rollback left out, as their draw gave no finite loss.
    """

    changes: tuple[Change, ...] = ()
    skipped: tuple[int, ...] = ()

    def with_change(self, change: Change) -> ChangeRecord:
        """Return the record with one more change, after those of its step.

        What was recorded of the same key for later steps goes: a run that has lost those steps goes
        on otherwise now.
        """
        kept = [each for each in self.changes if each.key != change.key or each.step <= change.step]
        return replace(self, changes=tuple(sorted((*kept, change), key=lambda each: each.step)))

    def with_skipped(self, step: int) -> ChangeRecord:
        """Return the record with one more step to leave out."""
        return replace(self, skipped=tuple(sorted({*self.skipped, step})))

    def until(self, step: int) -> ChangeRecord:
        """Return what had been changed when `step` steps were done."""
        return ChangeRecord(
            tuple(change for change in self.changes if change.step < step),
            tuple(skipped for skipped in self.skipped if skipped < step),
        )

    def legs(self, last_step: int) -> tuple[int, ...]:
        """Return the steps at which a run was finished, the last one included.

        More than one where a finished run was given more steps.
        """
        ends = [
            change.step
            for change in self.changes
            if change.key == "train.steps" and change.step == change.old < last_step
        ]
        return (*ends, last_step)

    def as_json(self) -> dict[str, Any]:
        """Return the content of steering.json."""
        return {
            "version": _VERSION,
            "changes": [asdict(change) for change in self.changes],
            "passed_over": list(self.skipped),
        }

    def text(self) -> str:
        """Return it as one line of JSON, the same for the same record; "" where it is empty."""
        if self == ChangeRecord():
            return ""
        return json.dumps(self.as_json(), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, data: object) -> ChangeRecord:
        """Read a record; raise ValueError where it is not one of this version."""
        if not isinstance(data, Mapping) or data.get("version") != _VERSION:
            raise ValueError(f"not a steering record of version {_VERSION}")
        try:
            changes = tuple(
                Change(_step(each["step"]), each["key"], each["old"], each["new"])
                for each in data["changes"]
            )
            skipped = tuple(_step(step) for step in data["passed_over"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a steering record: {error!r}") from error
        unknown = [change.key for change in changes if change.key not in list(LIVE_KEYS)]
        if unknown:
            raise ValueError(f"{unknown[0]!r} cannot be changed while a run goes on")
        return cls(changes, skipped)

    @classmethod
    def from_text(cls, text: str, origin: str) -> ChangeRecord:
        """Read what `text` returned.

        Raises:
            CorruptError: It is not a record.
        """
        if not text:
            return cls()
        try:
            return cls.from_json(parse_json(text))
        except ValueError as error:
            raise CorruptError(
                f"{origin}: its record of the steering cannot be read: {error}"
            ) from error

    @classmethod
    def read(cls, file: OwnedFile) -> ChangeRecord | None:
        """Read a steering.json, None where there is none.

        Raises:
            CorruptError: It is damaged.
        """
        try:
            content = file.read(_MAX_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CorruptError(f"{file} cannot be read: it {error.strerror}") from error
        return cls.from_text(content.decode("utf-8", "replace"), str(file))


def _step(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{value!r} is not a step")
    return value
