"""Where everything of a run lies on disk, and the ledger by which runs are found again."""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loba_tui.core.errors import RecipeError, ResourceError
from loba_tui.core.files import PRIVATE_DIR_MODE, open_to_append
from loba_tui.core.user_folders import user_folder

logger = logging.getLogger(__name__)


class Below:
    """A path below the folder of a run, as an attribute of `RunDir`."""

    def __init__(self, *parts: str) -> None:
        self._parts = parts

    def __get__(self, run_dir: RunDir, _owner: type | None = None) -> Path:
        return run_dir.path.joinpath(*self._parts)


@dataclass(frozen=True)
class RunDir:
    """The folder of one run; attributes name its files, whether they exist yet or not."""

    path: Path

    recipe = Below("recipe.yaml")  # the resolved recipe, written once
    origin = Below("origin.json")  # where a recipe from elsewhere was fetched from
    status = Below("status.json")  # phase and step; replaced atomically
    metrics = Below("metrics.jsonl")  # one record a step; append only
    events = Below("events.jsonl")  # everything that is not a step; append only
    log = Below("log.txt")  # the program's own output
    lock = Below("run.lock")  # its exclusive lock is held while a program owns the run
    control = Below("control")  # the folder that command files are dropped into
    changes = Below("steering.json")  # what was changed while the run went on, and at which steps
    checkpoints = Below("checkpoints")  # the folder of `step-000100/` folders
    samples = Below("samples")  # the folder of picture strips
    adapter_dir = Below("adapter")  # the folder of the finished adapter and its report
    adapter = Below("adapter", "adapter.safetensors")  # in diffusers/PEFT keys
    adapter_kohya = Below("adapter", "adapter.kohya.safetensors")  # in kohya keys
    # The folder that PEFT loads by itself; only some kinds of adapter have one.
    adapter_peft = Below("adapter", "peft")
    report = Below("adapter", "report.json")  # the measured effect
    report_picture = Below("adapter", "report.png")  # the same as a picture
    request = Below("request.json")  # what a program that does not train was started with

    @property
    def name(self) -> str:
        """The folder's own name, `<name>-<time>-<id>`."""
        return self.path.name

    def sample_strip(self, step: int) -> Path:
        """Return the picture strip drawn at a step."""
        return self.samples / f"step-{step:06d}.png"

    @classmethod
    def create(cls, parent: Path | str, name: str, *, ledger: Ledger | None = None) -> RunDir:
        """Make a new run folder `<name>-<YYYYmmdd-HHMMSS>-<4 hex digits>` under `parent`.

        Folders are readable by their owner only: prompts and samples are private.

        Raises:
            ResourceError: The folder cannot be made or written to.
        """
        stamp = time.strftime("%Y%m%d-%H%M%S")
        path = Path(parent).expanduser().absolute() / f"{name}-{stamp}-{secrets.token_hex(2)}"
        run_dir = cls(path)
        folders = (run_dir.control, run_dir.checkpoints, run_dir.samples, run_dir.adapter_dir)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=PRIVATE_DIR_MODE)
            for folder in folders:
                folder.mkdir(mode=PRIVATE_DIR_MODE)
        except OSError as error:
            raise ResourceError(
                f"The run folder {path} cannot be made: {error.strerror or error}.",
                "Choose a folder that can be written to with --out-dir, or free some space.",
            ) from error
        if ledger is not None:
            ledger.register(run_dir)
        return run_dir

    @classmethod
    def open(cls, path: Path | str) -> RunDir:
        """Return an existing run folder.

        Raises:
            RecipeError: The path is not a run folder.
        """
        run_dir = cls(Path(path).expanduser().absolute())
        # A recipe.yaml alone is any folder of recipes.
        is_prepared = run_dir.recipe.is_file() and run_dir.control.is_dir()
        if not (is_prepared or run_dir.status.is_file()):
            raise RecipeError(
                f"{path} is not a run folder: it has neither status.json nor control/.",
                "`loba runs ls` lists the runs that are known on this machine.",
            )
        return run_dir


def checkpoint_step(path: Path) -> int:
    """Return the step that a finished checkpoint's folder is named for."""
    return int(path.name[5:])


def checkpoint_folders(folder: Path) -> list[Path]:
    """Return the finished checkpoints in a run's `checkpoints`, oldest first."""
    paths = (path for path in folder.glob("step-*") if path.name[5:].isdecimal())
    return sorted(paths, key=checkpoint_step)


@dataclass(frozen=True)
class Ledger:
    """The list of all run folders of this user, one JSON object a line; append only.

    A lost or damaged ledger costs only the listing, so writing it never fails a run.
    """

    path: Path

    @classmethod
    def of_user(cls, environ: Mapping[str, str]) -> Ledger:
        """Return the ledger in the user's state folder."""
        return cls(user_folder(environ, "state") / "runs.jsonl")

    def register(self, run_dir: RunDir) -> None:
        """Append a run folder."""
        line = json.dumps({"path": str(run_dir.path), "time": time.time()}) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIR_MODE)
            descriptor = open_to_append(self.path)
            try:
                os.write(descriptor, line.encode("utf-8", "surrogateescape"))
            finally:
                os.close(descriptor)
        except OSError as error:
            logger.warning("the run is not listed in %s: %s", self.path, error)

    def runs(self) -> list[RunDir]:
        """Return the registered run folders that still exist, oldest first, each once."""
        try:
            text = self.path.read_text("utf-8", "surrogateescape")
        except OSError:
            return []
        found: dict[Path, RunDir] = {}
        for line in text.splitlines():
            try:
                path = Path(json.loads(line)["path"])
            except (ValueError, TypeError, KeyError):
                continue
            if path.is_dir():
                found[path] = RunDir(path)
        return list(found.values())
