"""Where everything of a run lies on disk, and the ledger by which runs are found again."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loba_tui.core.errors import RecipeError, RefusedError, ResourceError
from loba_tui.core.file_sources import Source
from loba_tui.core.files import PRIVATE_DIR_MODE, UnsafeFileError, open_to_append
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.names import text_problem
from loba_tui.core.owned_files import OwnedFile, OwnedFolder
from loba_tui.core.text import clean
from loba_tui.core.user_folders import user_folder, with_home

logger = logging.getLogger(__name__)

_MARKER = b"This folder is a run of LOBA-Trainer. `loba runs rm` may delete it.\n"
_MAX_STATUS_BYTES = 4 * 1024 * 1024
_CHECKPOINT = re.compile(r"step-[0-9]{1,12}")
_FEW = 5
_TRIES = 20


class FileBelow:
    """A file below the folder of a run, as an attribute of `RunDir`."""

    def __init__(self, *parts: str) -> None:
        self._parts = parts

    def __get__(self, run_dir: RunDir, _owner: type | None = None) -> OwnedFile:
        return OwnedFile(run_dir.path, self._parts)


class FolderBelow:
    """A folder below the folder of a run, as an attribute of `RunDir`."""

    def __init__(self, *parts: str) -> None:
        self._parts = parts

    def __get__(self, run_dir: RunDir, _owner: type | None = None) -> OwnedFolder:
        return OwnedFolder(run_dir.path, self._parts)


@dataclass(frozen=True)
class RunDir:
    """The folder of one run; attributes are its files, whether they exist yet or not.

    It may be a stranger's: nothing below `path` is opened but through these attributes.
    """

    path: Path

    folder = FolderBelow()  # the run's folder itself
    marker = FileBelow(".loba-run")  # says that the folder is a run's, and so may be deleted
    recipe = FileBelow("recipe.yaml")  # the resolved recipe, written once
    origin = FileBelow("origin.json")  # where a recipe from elsewhere was fetched from
    sweep = FileBelow("sweep.json")  # the sweep that it belongs to, and what varies in it
    status = FileBelow("status.json")  # phase and step; replaced atomically
    metrics = FileBelow("metrics.jsonl")  # one record a step; append only
    events = FileBelow("events.jsonl")  # everything that is not a step; append only
    log = FileBelow("log.txt")  # the program's own output
    launch = FileBelow("launch.json")  # how many processes train it, and on which hosts
    lock = FileBelow("run.lock")  # its exclusive lock is held while a program owns the run
    control = FolderBelow("control")  # the folder that command files are dropped into
    ranks = FolderBelow("ranks")  # the folder of `000.json`, one for each process of several
    changes = FileBelow("steering.json")  # what was changed while the run went on, and when
    checkpoints = FolderBelow("checkpoints")  # the folder of `step-000100/` folders
    samples = FolderBelow("samples")  # the folder of picture strips
    best = FolderBelow("best")  # the folder of the adapter of the best step so far
    best_adapter = FileBelow("best", "adapter.safetensors")
    adapter_dir = FolderBelow("adapter")  # the folder of the finished adapter and its report
    adapter = FileBelow("adapter", "adapter.safetensors")  # in diffusers/PEFT keys
    adapter_kohya = FileBelow("adapter", "adapter.kohya.safetensors")  # a UNet's in kohya keys
    adapter_comfy = FileBelow("adapter", "adapter.comfy.safetensors")  # a transformer's, ComfyUI's
    # The folder that PEFT loads by itself; only some kinds of adapter have one.
    adapter_peft = FolderBelow("adapter", "peft")
    report = FileBelow("adapter", "report.json")  # the measured effect
    report_picture = FileBelow("adapter", "report.png")  # the same as a picture
    costs = FileBelow("adapter", "costs.csv")  # an edit's costs, by concept and by prompt
    costs_picture = FileBelow("adapter", "costs.png")  # the same as a picture
    request = FileBelow("request.json")  # what a program that does not train was started with

    @property
    def name(self) -> str:
        """The folder's own name, `<name>-<time>-<id>`."""
        return self.path.name

    @property
    def adapter_other(self) -> OwnedFile:
        """The finished adapter for other tools than diffusers."""
        return self.adapter_comfy if self.adapter_comfy.is_there() else self.adapter_kohya

    def sample_strip(self, step: int) -> OwnedFile:
        """Return the picture strip drawn at a step."""
        return self.samples.file(f"step-{step:06d}.png")

    def strips(self) -> list[OwnedFile]:
        """Return the pictures in `samples`, oldest step first."""
        try:
            names = self.samples.names()
        except OSError:
            return []
        return [self.samples.file(name) for name in names if name.endswith(".png")]

    @classmethod
    def create(cls, parent: Path | str, name: str, *, ledger: Ledger | None = None) -> RunDir:
        """Make a new run folder `<name>-<YYYYmmdd-HHMMSS>-<4 hex digits>` under `parent`.

        Folders are readable by their owner only: prompts and samples are private.

        Raises:
            ResourceError: The folder cannot be made or written to.
        """
        run_dir = cls(new_folder(parent, name))
        try:
            run_dir.prepare()
            run_dir.checkpoints.make()
        except OSError as error:
            raise _not_made(run_dir.path, error) from error
        if ledger is not None:
            ledger.register(run_dir)
        return run_dir

    @classmethod
    def open(cls, path: Path | str) -> RunDir:
        """Return an existing run folder; a link that the user names is followed to it.

        Raises:
            RecipeError: The path is not a run folder.
            RefusedError: It is one with a link, a pipe or the like in place of its records.
        """
        run_dir = cls(_plain(Path(os.path.realpath(with_home(path)))))
        for file in (run_dir.recipe, run_dir.status):
            try:
                file.stat()
            except UnsafeFileError as error:
                raise run_dir.refusal([f"{file.name} {error.strerror}"]) from error
            except OSError:
                continue
        # A recipe.yaml alone is any folder of recipes.
        is_prepared = run_dir.recipe.is_there() and run_dir.control.is_there()
        if not (is_prepared or run_dir.status.is_there()):
            raise RecipeError(
                f"{path} is not a run folder: it has neither status.json nor control/.",
                "`loba runs ls` lists the runs that are known on this machine.",
            )
        return run_dir

    def prepare(self) -> None:
        """Make the folders that a program writes to, and the marker, where they are missing.

        Raises:
            OSError: They cannot be made.
        """
        for folder in (self.control, self.samples, self.adapter_dir):
            folder.make()
        if not self.folder.holds(self.marker.name):
            with contextlib.suppress(FileExistsError):
                self.folder.write_new(self.marker.name, _MARKER, sync=False)

    def is_ours(self) -> bool:
        """Say whether it carries the marker of a run, or what only a program of ours leaves."""
        try:
            return self.marker.read(len(_MARKER)) == _MARKER
        except OSError:
            pass
        try:
            status = parse_json(self.status.read(_MAX_STATUS_BYTES))
            has_status = status["version"] == 1 and isinstance(status["phase"], str)
        except (OSError, ValueError, KeyError, TypeError):
            return False
        # A run of before there was a marker.
        return has_status and (self.recipe.is_there() or self.request.is_there())

    def require_safe(self) -> None:
        """Examine the whole folder before it is worked on.

        Raises:
            RefusedError: Something in it is not this user's own file or folder.
        """
        found = list(itertools.islice(self.folder.unsafe_entries(), _FEW + 1))
        if found:
            raise self.refusal(found)

    def refusal(self, found: Sequence[str]) -> RefusedError:
        """Return the error about what is in the folder and must not be."""
        more = " and more" if len(found) > _FEW else ""
        listed = "; ".join(clean(each, limit=160) for each in found[:_FEW])
        return RefusedError(
            f"{clean(self.path)} is not used, as it could reach files outside: {listed}{more}.",
            "A run's folder holds plain files of your own, and no links. Remove what is named, or "
            "copy the rest to a folder of your own.",
        )


def run_of(adapter: Path) -> RunDir | None:
    """Return the run whose folder an adapter file is in, None for one that is no run's."""
    run_dir = RunDir(Path(os.path.abspath(adapter)).parent.parent)
    return run_dir if run_dir.recipe.is_there() else None


def adapter_source(path: Path) -> Source:
    """Return the adapter file at a path, guarded where it is in the folder of a run."""
    run_dir = run_of(path)
    return path if run_dir is None else run_dir.folder.folder(path.parent.name).file(path.name)


def adapter_named(path: Path) -> Source:
    """Return the adapter file at a path, or of the run whose folder is there.

    Raises:
        RecipeError: It is a folder, and no run's.
    """
    return RunDir.open(path).adapter if path.is_dir() else adapter_source(path)


def new_folder(parent: Path | str, name: str) -> Path:
    """Make a new folder `<name>-<YYYYmmdd-HHMMSS>-<4 hex digits>` under `parent`, for its owner.

    Raises:
        ResourceError: It cannot be made.
    """
    path = _plain(with_home(parent).absolute() / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _made_with_digits(path)
    except OSError as error:
        raise _not_made(path, error) from error


def _not_made(path: Path, error: OSError) -> ResourceError:
    return ResourceError(
        f"The run folder {path} cannot be made: {error.strerror or error}.",
        "Choose a folder that can be written to with --out-dir, or free some space.",
    )


def _made_with_digits(begin: Path) -> Path:
    """Make a folder whose name goes on with four digits; a thousand a second have some twice."""
    for tries_left in reversed(range(_TRIES)):
        path = begin.with_name(f"{begin.name}-{secrets.token_hex(2)}")
        try:
            path.mkdir(mode=PRIVATE_DIR_MODE)
        except FileExistsError:
            if not tries_left:
                raise
        else:
            break
    return path


def _is_plain(path: Path) -> bool:
    """Say whether a path can stand in a line of text; bytes of no alphabet do no harm there."""
    return not text_problem(str(path).encode("utf-8", "replace").decode())


def _plain(path: Path) -> Path:
    if not _is_plain(path):
        raise RefusedError(
            f"{clean(path)} has a control character in its name.", "Give the folder another name."
        )
    return path


def checkpoint_name(step: int) -> str:
    """Return the name of a finished checkpoint's folder."""
    return f"step-{step:06d}"


def checkpoint_step(name: str) -> int:
    """Return the step that a finished checkpoint's folder is named for."""
    return int(name[5:])


def checkpoint_names(folder: OwnedFolder) -> list[str]:
    """Return the finished checkpoints in a run's `checkpoints`, oldest first."""
    return sorted(filter(_CHECKPOINT.fullmatch, folder.names()), key=checkpoint_step)


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
                path = Path(parse_json(line)["path"])
                is_usable = path.is_absolute() and _is_plain(path)
                is_folder = is_usable and stat.S_ISDIR(os.lstat(path).st_mode)
            except (OSError, ValueError, TypeError, KeyError):
                continue
            if is_folder:
                found[path] = RunDir(path)
        return list(found.values())
