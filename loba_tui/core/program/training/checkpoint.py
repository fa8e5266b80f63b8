"""Checkpoints: directories of safetensors and JSON that are either whole or not there.

A checkpoint is written under a temporary name, each file is fsynced, a manifest of sha256 sums is
written last, the directory is renamed into place and read back; only then are older ones pruned.
Nothing is ever unpickled. A damaged checkpoint is skipped and kept, never deleted.

Names beside `step-000100`, none of which is ever resumed from: `.tmp-` is being written, `.trash-`
being removed, `.replaced-` was good and makes way for another of its step, `.bad-` did not verify.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from loba_tui.core.errors import CorruptError, LobaError, ResourceError
from loba_tui.core.files import UnsafeFileError
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.program.processes import Processes
from loba_tui.core.run.directory import checkpoint_name, checkpoint_names, checkpoint_step

_MANIFEST = "manifest.json"
_STATE = "state.json"
_MAX_MANIFEST_BYTES = 64 * 1024
_MAX_FILE_BYTES = 64 * 2**30
# A run folder may come from elsewhere: nothing else is opened, and nothing outside the folder.
_FILE = re.compile(r"state\.json|\w+\.safetensors")
_LEFT_BEHIND = re.compile(r"\.(tmp|trash)-step-[0-9]+-[0-9]+")
_REPLACED = re.compile(r"\.replaced-(step-[0-9]+)-[0-9]+")
_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on exactly.

    Attributes:
        tensors: Named tensors by part ("adapter", "optimizer", "method"), one file a part.
        state: What is not a tensor, as plain JSON.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors; the rest is small."""
        return sum(
            tensor.numel() * tensor.element_size()
            for tensors in self.tensors.values()
            for tensor in tensors.values()
        )


@dataclass(frozen=True)
class CheckpointStore:
    """The `checkpoints/` folder of a run, which one process at a time writes to."""

    folder: OwnedFolder
    keep: int = field(default=2, kw_only=True)
    _is_good: dict[str, bool] = field(default_factory=dict, init=False)

    def has_any(self) -> bool:
        """Say whether a checkpoint was ever finished."""
        return bool(checkpoint_names(self.folder))

    def save(self, checkpoint: Checkpoint) -> OwnedFolder:
        """Write a checkpoint, verify it, prune older ones beyond `keep`, and return its folder.

        A checkpoint of this step that is there already is left if it is the same, and makes way
        if it is not.

        Raises:
            ResourceError: If it cannot be written; older checkpoints are untouched.
        """
        name = checkpoint_name(checkpoint.step)
        files = _files_of(checkpoint)
        try:
            if self.folder.parts:
                self.folder.make()
            self.tidy()
            if not self._has(name, files[_MANIFEST]):
                self._write(name, files)
            self._is_good[name] = True
        except (OSError, CorruptError) as error:
            raise ResourceError(
                f"the checkpoint of step {checkpoint.step} could not be written: {error}",
                "Check that disk and its free space; earlier checkpoints are kept.",
            ) from error
        self._prune()
        return self.folder.folder(name)

    def _write(self, name: str, files: Mapping[str, bytes]) -> None:
        staged = self.folder.folder(f".tmp-{name}-{os.getpid()}")
        try:
            staged.make()
            for file, content in files.items():
                staged.write_new(file, content)
            staged.sync()
            if self.folder.holds(name):
                kind = "replaced" if self._verifies(name) else "bad"
                self.folder.rename(name, self._unused_name(f".{kind}-{name}"))
            self.folder.rename(staged.name, name)
        except OSError:
            self.folder.discard(staged.name)
            raise
        self._is_good.pop(name, None)
        self.folder.sync()
        self._read(name)

    def _unused_name(self, name: str) -> str:
        candidates = (f"{name}-{number}" for number in itertools.count(1))
        return next(each for each in candidates if not self.folder.holds(each))

    def _has(self, name: str, manifest: bytes) -> bool:
        """Say whether a step is saved already, as it is after a save that failed at its end."""
        try:
            found = self.folder.folder(name).file(_MANIFEST).read(_MAX_MANIFEST_BYTES)
        except OSError:
            return False
        if found == manifest and self._verifies(name):
            self.folder.sync()
            return True
        return False

    def load_newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest checkpoint that verifies, and why newer ones were skipped.

        Raises:
            CorruptError: If there are checkpoints, but none verifies.
            ResourceError: If the disk does not let them be read.
        """
        skipped: list[str] = []
        kind: type[LobaError] = CorruptError
        for name in reversed(checkpoint_names(self.folder)):
            try:
                return self._read(name), skipped
            except OSError as error:
                kind = ResourceError
                skipped.append(f"{name}: {error}")
            except CorruptError as error:
                skipped.append(f"{name}: {error}")
        if skipped:
            raise kind(
                "no checkpoint of this run can be read: " + "; ".join(skipped),
                "Check the disk, and resume again."
                if kind is ResourceError
                else "Start the run anew; the damaged checkpoints are kept for inspection.",
            )
        return None, skipped

    def load_newest_of(self, processes: Processes) -> tuple[Checkpoint | None, list[str]]:
        """Return what `load_newest` does, on processes whose hosts may lack the folder too.

        The first one reads it, so that all go on from the same checkpoint, and hands it on.

        Raises:
            CorruptError: As `load_newest` does, on every process.
            ResourceError: The same.
        """
        found: tuple[Checkpoint | None, list[str]] | LobaError | None = None
        if processes.is_first:
            try:
                self.tidy()
                found = self.load_newest()
            except LobaError as error:
                if processes.num == 1:
                    raise
                found = error  # the others must not wait for ever
        found = processes.share(found)
        if isinstance(found, LobaError):
            raise found
        assert found is not None
        return found

    def tidy(self) -> None:
        """Clear up after a process that was killed while it saved; for the one that writes."""
        for name in self.folder.names():
            if _LEFT_BEHIND.fullmatch(name):
                self.folder.discard(name)
            elif (replaced := _REPLACED.fullmatch(name)) and not self.folder.holds(replaced[1]):
                # Killed between the two renames of a save.
                self.folder.rename(name, replaced[1])

    def _read(self, name: str) -> Checkpoint:
        contents = _read_verified(self.folder.folder(name))
        try:
            state = parse_json(contents.pop(_STATE))
            if state.pop("version") != _VERSION:
                raise CorruptError("it was written by another version of LOBA-Trainer")
            step = state.pop("step")
            tensors = {
                file.removesuffix(".safetensors"): load(content)
                for file, content in contents.items()
            }
        except SafetensorError as error:
            raise CorruptError(f"its tensors cannot be read: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptError(f"its {_STATE} is not that of a checkpoint") from error
        if step != checkpoint_step(name):
            raise CorruptError(f"it is of step {step}")
        self._is_good[name] = True
        return Checkpoint(step=step, tensors=tensors, state=state)

    def _verifies(self, name: str) -> bool:
        """Say whether a checkpoint is good, reading each of them at most once."""
        if name not in self._is_good:
            try:
                self._read(name)
            except (OSError, CorruptError):
                self._is_good[name] = False
        return self._is_good[name]

    def _prune(self) -> None:
        """Remove all but the newest that verify; what does not is no loss to keep, or to count."""
        with contextlib.suppress(OSError):  # the save is done, whatever becomes of older ones
            newest_first = reversed(checkpoint_names(self.folder))
            good = [name for name in newest_first if self._verifies(name)]
            replaced = filter(_REPLACED.fullmatch, self.folder.names())
            for name in [*good[self.keep :], *replaced]:
                self.folder.discard(name)


def _files_of(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return the files of a checkpoint by name, the one that vouches for the others last."""
    files = {
        f"{part}.safetensors": save({name: t.contiguous() for name, t in tensors.items()})
        for part, tensors in checkpoint.tensors.items()
    }
    header = {"version": _VERSION, "step": checkpoint.step, **checkpoint.state}
    files[_STATE] = json.dumps(header, indent=1).encode()
    manifest = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files[_MANIFEST] = json.dumps(manifest, indent=1).encode()
    return files


def _read_verified(folder: OwnedFolder) -> dict[str, bytes]:
    """Return the files of a checkpoint, each as its manifest has it."""
    try:
        manifest = parse_json(folder.file(_MANIFEST).read(_MAX_MANIFEST_BYTES))
        if not isinstance(manifest, dict) or not all(map(_FILE.fullmatch, manifest)):
            raise CorruptError("its manifest is not that of a checkpoint")
        contents = {name: folder.file(name).read(_MAX_FILE_BYTES) for name in manifest}
    except UnsafeFileError as error:
        raise CorruptError(f"{error.filename} {error.strerror}") from error
    except FileNotFoundError as error:
        raise CorruptError(f"incomplete ({os.path.basename(error.filename)} is missing)") from error
    except ValueError as error:
        raise CorruptError("its manifest is not valid JSON") from error
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != manifest[name]:
            raise CorruptError(f"{name} does not match its sha256 sum")
    return contents
