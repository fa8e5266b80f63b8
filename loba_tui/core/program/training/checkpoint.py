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
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from loba_tui.core.errors import CorruptError, LobaError, ResourceError
from loba_tui.core.files import discard_folder, sync_directory, write_file
from loba_tui.core.run.directory import checkpoint_folders, checkpoint_step

_MANIFEST = "manifest.json"
_STATE = "state.json"
_MAX_MANIFEST_BYTES = 64 * 1024
# A run folder may come from elsewhere: nothing else is opened, and nothing outside the folder.
_FILE = re.compile(r"state\.json|\w+\.safetensors")
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

    folder: Path
    keep: int = field(default=2, kw_only=True)
    _is_good: dict[str, bool] = field(default_factory=dict, init=False)

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step lies."""
        return self.folder / f"step-{step:06d}"

    def has_any(self) -> bool:
        """Say whether a checkpoint was ever finished."""
        return bool(checkpoint_folders(self.folder))

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, verify it, then prune older ones beyond `keep`.

        A checkpoint of this step that is there already is left if it is the same, and makes way
        if it is not.

        Raises:
            ResourceError: If it cannot be written; older checkpoints are untouched.
        """
        final = self.path(checkpoint.step)
        files = _files_of(checkpoint)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.tidy()
            if not self._has(final, files[_MANIFEST]):
                self._write(final, files)
            self._is_good[final.name] = True
        except (OSError, CorruptError) as error:
            raise ResourceError(
                f"the checkpoint of step {checkpoint.step} could not be written: {error}",
                "Check that disk and its free space; earlier checkpoints are kept.",
            ) from error
        self._prune()
        return final

    def _write(self, final: Path, files: Mapping[str, bytes]) -> None:
        staged = self.folder / f".tmp-{final.name}-{os.getpid()}"
        try:
            staged.mkdir()
            for name, content in files.items():
                write_file(staged / name, content)
            sync_directory(staged)
            if final.exists():
                kind = "replaced" if self._verifies(final) else "bad"
                final.rename(_unused_name(final.with_name(f".{kind}-{final.name}")))
            staged.rename(final)
        except OSError:
            discard_folder(staged)
            raise
        self._is_good.pop(final.name, None)
        sync_directory(self.folder)
        self._read(final)

    def _has(self, final: Path, manifest: bytes) -> bool:
        """Say whether a step is saved already, as it is after a save that failed at its end."""
        try:
            is_same = (final / _MANIFEST).read_bytes() == manifest
        except OSError:
            return False
        if is_same and self._verifies(final):
            sync_directory(self.folder)
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
        for path in reversed(checkpoint_folders(self.folder)):
            try:
                return self._read(path), skipped
            except OSError as error:
                kind = ResourceError
                skipped.append(f"{path.name}: {error}")
            except CorruptError as error:
                skipped.append(f"{path.name}: {error}")
        if skipped:
            raise kind(
                "no checkpoint of this run can be read: " + "; ".join(skipped),
                "Check the disk, and resume again."
                if kind is ResourceError
                else "Start the run anew; the damaged checkpoints are kept for inspection.",
            )
        return None, skipped

    def tidy(self) -> None:
        """Clear up after a process that was killed while it saved; for the one that writes."""
        for path in [*self.folder.glob(".tmp-*"), *self.folder.glob(".trash-*")]:
            discard_folder(path)
        for path in sorted(self.folder.glob(".replaced-*")):
            original = path.with_name(path.name.removeprefix(".replaced-").rpartition("-")[0])
            if not original.exists():  # killed between the two renames of a save
                path.rename(original)

    def _read(self, path: Path) -> Checkpoint:
        contents = _read_verified(path)
        try:
            state = json.loads(contents.pop(_STATE))
            if state.pop("version") != _VERSION:
                raise CorruptError("it was written by another version of LOBA-Trainer")
            step = state.pop("step")
            tensors = {
                name.removesuffix(".safetensors"): load(content)
                for name, content in contents.items()
            }
        except SafetensorError as error:
            raise CorruptError(f"its tensors cannot be read: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptError(f"its {_STATE} is not that of a checkpoint") from error
        if step != checkpoint_step(path):
            raise CorruptError(f"it is of step {step}")
        self._is_good[path.name] = True
        return Checkpoint(step=step, tensors=tensors, state=state)

    def _verifies(self, path: Path) -> bool:
        """Say whether a checkpoint is good, reading each of them at most once."""
        if path.name not in self._is_good:
            try:
                self._read(path)
            except (OSError, CorruptError):
                self._is_good[path.name] = False
        return self._is_good[path.name]

    def _prune(self) -> None:
        """Remove all but the newest that verify; what does not is no loss to keep, or to count."""
        with contextlib.suppress(OSError):  # the save is done, whatever becomes of older ones
            newest_first = reversed(checkpoint_folders(self.folder))
            good = [path for path in newest_first if self._verifies(path)]
            for path in [*good[self.keep :], *self.folder.glob(".replaced-*")]:
                discard_folder(path)


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


def _read_verified(path: Path) -> dict[str, bytes]:
    """Return the files of a checkpoint, each as its manifest has it."""
    try:
        with (path / _MANIFEST).open("rb") as stream:
            manifest = json.loads(stream.read(_MAX_MANIFEST_BYTES))
        if not isinstance(manifest, dict) or not all(map(_FILE.fullmatch, manifest)):
            raise CorruptError("its manifest is not that of a checkpoint")
        contents = {name: (path / name).read_bytes() for name in manifest}
    except FileNotFoundError as error:
        raise CorruptError(f"incomplete ({Path(str(error.filename)).name} is missing)") from error
    except (ValueError, RecursionError) as error:
        raise CorruptError("its manifest is not valid JSON") from error
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != manifest[name]:
            raise CorruptError(f"{name} does not match its sha256 sum")
    return contents


def _unused_name(path: Path) -> Path:
    candidates = (path.with_name(f"{path.name}-{number}") for number in range(1, 10_000))
    return next(candidate for candidate in candidates if not candidate.exists())
