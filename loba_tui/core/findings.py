"""Findings of an examination: one line each, and together an exit code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from loba_tui.core.errors import ExitCode

# From the worst on: lost work, then what can do harm, then what only stops a run.
_WORST_FIRST = (
    ExitCode.CORRUPT,
    ExitCode.REFUSED,
    ExitCode.NUMERICS,
    ExitCode.RESOURCES,
    ExitCode.IN_USE,
    ExitCode.DATA,
    ExitCode.RECIPE,
    ExitCode.BUG,
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        state: `ok`, `note` where it is as it is, `bad` where something has to be done.
        exit_code: What a bad one ends the command with.
    """

    check: str
    state: Literal["ok", "note", "bad"]
    message: str
    hint: str = ""
    exit_code: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return a plain object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Finding:
        """Return the finding of such an object; raise TypeError or ValueError if it is none."""
        if not isinstance(data, dict):
            raise TypeError("a finding is an object")
        return cls(**data)


def bad(check: str, message: str, hint: str, code: ExitCode) -> Finding:
    """Return a finding that something has to be done about."""
    return Finding(check, "bad", message, hint, int(code))


def worst_code(findings: Iterable[Finding]) -> ExitCode:
    """Return the exit code of the worst finding; DONE if nothing is bad."""
    codes = {finding.exit_code for finding in findings if finding.state == "bad"}
    return next((code for code in _WORST_FIRST if code in codes), ExitCode.DONE)
