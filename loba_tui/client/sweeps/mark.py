"""The mark that a run of a sweep carries: which sweep it belongs to, and what varies in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loba_tui.core.foreign_json import parse_object
from loba_tui.core.names import text_problem
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.records import RECORD_VERSION, encode

_MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep, and what varies in it."""

    number: int
    run: RunDir
    values: Mapping[str, str]


@dataclass(frozen=True)
class SweepMark:
    """The content of a run's sweep.json.

    Attributes:
        sweep: The sweep's folder.
        number: Which of its runs this is, from 1.
        values: What varies, by key, as the user wrote it.
    """

    sweep: Path
    number: int
    values: Mapping[str, str]

    def write(self, run_dir: RunDir) -> None:
        """Put the mark on a run; OSError where its folder does not take it."""
        record = {
            "version": RECORD_VERSION,
            "sweep": str(self.sweep),
            "number": self.number,
            "values": dict(self.values),
        }
        run_dir.sweep.replace(encode(record), sync=True)

    def of(self, run_dir: RunDir) -> SweepRun:
        """Return the run that carries it as one of its sweep."""
        return SweepRun(self.number, run_dir, self.values)

    @classmethod
    def read(cls, run_dir: RunDir) -> SweepMark | None:
        """Return the mark of a run; None where it has none, or one that cannot be used."""
        try:
            record = parse_object(run_dir.sweep.read(_MAX_BYTES))
            path, number = Path(record["sweep"]), int(record["number"])
            values = {str(key): str(value) for key, value in record["values"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return None
        is_usable = path.is_absolute() and not text_problem(str(path))
        return cls(path, number, values) if is_usable else None
