"""The folder of a sweep: its record, its table, its picture, and the runs below it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from loba_tui.client.runs.resolve import find_named
from loba_tui.client.runs.start import make_run
from loba_tui.client.sweeps.mark import SweepMark, SweepRun
from loba_tui.client.sweeps.variants import Variant
from loba_tui.core.errors import CorruptError, RecipeError
from loba_tui.core.files import unwritable
from loba_tui.core.foreign_json import parse_object
from loba_tui.core.owned_files import OwnedFile
from loba_tui.core.run.directory import Ledger, RunDir, new_folder
from loba_tui.core.run.records import RECORD_VERSION, finite
from loba_tui.core.text import clean

_MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the runs of a sweep are started; a resume repeats it.

    Attributes:
        recipe: The file that varies.
        engine: Who starts the runs: `queue` on this machine, `ray`, or a scheduler that a script
            was printed for.
        slots: As `--slots` gave them, resolved.
        retries: How many times a run is resumed after its process was killed.
        environ: What every run's environment differs by.
    """

    recipe: str
    engine: str
    slots: tuple[str, ...]
    retries: int
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """A sweep that was made."""

    path: Path
    settings: Settings
    runs: tuple[SweepRun, ...]
    created: float

    @property
    def name(self) -> str:
        """Return its folder's own name."""
        return self.path.name

    @property
    def keys(self) -> list[str]:
        """Return what varies."""
        return list(self.runs[0].values) if self.runs else []

    def file(self, name: str) -> OwnedFile:
        """Return a file in the sweep's folder."""
        return OwnedFile(self.path, (name,))

    def write(self, results: Sequence[Mapping[str, Any]] = ()) -> None:
        """Write sweep.json, with the results as far as there are any.

        Raises:
            ResourceError: The folder does not take it.
        """
        settings = {each.name: getattr(self.settings, each.name) for each in fields(Settings)}
        record = {
            "version": RECORD_VERSION,
            **settings,
            "created": self.created,
            "runs": [
                {"number": each.number, "folder": each.run.name, "values": dict(each.values)}
                for each in self.runs
            ],
            "results": list(results),
        }
        text = json.dumps(finite(record), indent=1, allow_nan=False) + "\n"
        self.save("sweep.json", text.encode())

    def save(self, name: str, content: bytes) -> None:
        """Write a file of the sweep.

        Raises:
            ResourceError: The folder does not take it.
        """
        try:
            self.file(name).replace(content, sync=True)
        except OSError as error:
            raise unwritable(self.path / name, error) from error

    @classmethod
    def open(cls, path: Path) -> Sweep:
        """Return the sweep in a folder.

        Raises:
            RecipeError: There is none.
            CorruptError: Its record cannot be used.
        """
        path = path.absolute()
        try:
            text = OwnedFile(path, ("sweep.json",)).read(_MAX_BYTES)
        except OSError as error:
            raise RecipeError(
                f"{clean(path)} is not the folder of a sweep: it has no sweep.json.",
                "`loba sweeps ls` lists the sweeps of this machine.",
            ) from error
        try:
            record = parse_object(text)
            if record["version"] != RECORD_VERSION:
                raise ValueError(f"not of version {RECORD_VERSION}")
            settings = Settings(
                recipe=str(record["recipe"]),
                engine=str(record["engine"]),
                slots=tuple(map(str, record["slots"])),
                retries=int(record["retries"]),
                environ={str(key): str(value) for key, value in record["environ"].items()},
            )
            runs = tuple(_run(path, each) for each in record["runs"])
            return cls(path, settings, runs, float(record["created"]))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise CorruptError(
                f"{clean(path)}/sweep.json is not the record of a sweep: {clean(error)}.",
                "Its runs can still be used one by one: `loba runs ls`.",
            ) from error


def _run(sweep: Path, record: Mapping[str, Any]) -> SweepRun:
    folder = str(record["folder"])
    if folder != Path(folder).name or folder in ("", ".", ".."):
        raise ValueError("a run's folder is not in the sweep's")
    values = {str(key): str(value) for key, value in record["values"].items()}
    return SweepRun(int(record["number"]), RunDir(sweep / folder), values)


def make_sweep(
    variants: Sequence[Variant], settings: Settings, out_dir: Path, name: str, ledger: Ledger
) -> Sweep:
    """Make the folders of a sweep and of all its runs.

    Raises:
        ResourceError: One cannot be made.
    """
    path = new_folder(out_dir, name)
    width = len(str(len(variants)))
    runs = []
    for number, variant in enumerate(variants, start=1):
        run_dir = make_run(variant.recipe, path, ledger, label=f"{number:0{width}d}")
        try:
            SweepMark(path, number, variant.values).write(run_dir)
        except OSError as error:
            raise unwritable(run_dir.sweep.path, error) from error
        runs.append(SweepRun(number, run_dir, variant.values))
    sweep = Sweep(path, settings, tuple(runs), time.time())
    sweep.write()
    return sweep


def known_sweeps(ledger: Ledger) -> list[Path]:
    """Return the folders of the sweeps that runs of this user belong to, oldest first."""
    marks = [SweepMark.read(run_dir) for run_dir in ledger.runs()]
    return list(dict.fromkeys(mark.sweep for mark in marks if mark is not None))


def find_sweep(wanted: str, ledger: Ledger) -> Sweep:
    """Return the sweep meant by a folder, the unique start of a known one's name, or `last`.

    Raises:
        RecipeError: There is no such sweep.
        CorruptError: Its record cannot be used.
    """
    if Path(wanted).is_dir():
        return Sweep.open(Path(wanted))
    known = {path.name: path for path in known_sweeps(ledger)}
    return Sweep.open(find_named(wanted, known, kind="sweep"))
