"""Checkpoints: directories of safetensors and JSON that are either whole or not there.

A checkpoint is written under a temporary name, each file is fsynced, a manifest of sha256 sums is
written last, the directory is renamed into place and read back; only then are older ones pruned.
Nothing is ever unpickled. A damaged checkpoint is skipped and kept, never deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from loba_tui.core.errors import CorruptError, ResourceError

_MANIFEST = "manifest.json"
_STATE = "state.json"
_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on exactly.

    Attributes:
        step: Steps that are done.
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


class CheckpointStore:
    """The `checkpoints/` folder of a run."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self._folder = folder
        self._keep = keep

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step lies."""
        return self._folder / f"step-{step:06d}"

    def has_any(self) -> bool:
        """Say whether a checkpoint was ever finished."""
        return bool(self._paths())

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, verify it, then prune older ones beyond `keep`.

        Raises:
            ResourceError: If it cannot be written; older checkpoints are untouched.
        """
        final = self.path(checkpoint.step)
        staged = self._folder / f".tmp-{final.name}-{os.getpid()}"
        files = {
            f"{part}.safetensors": save({name: t.contiguous() for name, t in tensors.items()})
            for part, tensors in checkpoint.tensors.items()
        }
        header = {"version": _VERSION, "step": checkpoint.step, **checkpoint.state}
        files[_STATE] = json.dumps(header, indent=1).encode()
        manifest = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        files[_MANIFEST] = json.dumps(manifest, indent=1).encode()  # last: it vouches for the rest
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir()
            for name, content in files.items():
                _write_synced(staged / name, content)
            _sync_directory(staged)
            if final.exists():  # the same step, saved before an interruption
                os.rename(final, self._unused_name(final))
            os.rename(staged, final)
            _sync_directory(self._folder)
            self._read(final)
        except OSError as error:
            shutil.rmtree(staged, ignore_errors=True)
            raise ResourceError(
                f"the checkpoint of step {checkpoint.step} could not be written: {error}",
                "Free space on that disk; earlier checkpoints are kept.",
            ) from error
        self._prune()
        return final

    def load_newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest checkpoint that verifies, and why newer ones were skipped.

        Raises:
            CorruptError: If there are checkpoints, but none verifies.
        """
        skipped: list[str] = []
        for path in self._paths():
            try:
                return self._read(path), skipped
            except (OSError, CorruptError) as error:
                skipped.append(f"{path.name}: {error}")
        if skipped:
            raise CorruptError(
                "no checkpoint of this run can be read: " + "; ".join(skipped),
                "Start the run anew; the damaged checkpoints are kept for inspection.",
            )
        return None, skipped

    def _paths(self) -> list[Path]:
        """Return finished checkpoint folders, newest first."""
        if not self._folder.is_dir():
            return []
        paths = [path for path in self._folder.glob("step-*") if path.name[5:].isdigit()]
        return sorted(paths, key=lambda path: int(path.name[5:]), reverse=True)

    @staticmethod
    def _unused_name(path: Path) -> Path:
        return next(
            candidate
            for number in range(1, 10_000)
            if not (candidate := path.with_name(f".replaced-{path.name}-{number}")).exists()
        )

    def _read(self, path: Path) -> Checkpoint:
        try:
            manifest = json.loads((path / _MANIFEST).read_bytes())
            contents = {name: (path / str(name)).read_bytes() for name in manifest}
        except FileNotFoundError as error:
            raise CorruptError(
                f"incomplete ({Path(str(error.filename)).name} is missing)"
            ) from error
        except ValueError as error:
            raise CorruptError("its manifest is not valid JSON") from error
        for name, content in contents.items():
            if hashlib.sha256(content).hexdigest() != manifest[name]:
                raise CorruptError(f"{name} does not match its sha256 sum")
        state = json.loads(contents.pop(_STATE))
        if state.pop("version") != _VERSION:
            raise CorruptError("it was written by another version of LOBA-Trainer")
        tensors = {name.removesuffix(".safetensors"): load(data) for name, data in contents.items()}
        return Checkpoint(step=state.pop("step"), tensors=tensors, state=state)

    def _prune(self) -> None:
        for path in self._paths()[self._keep :]:
            shutil.rmtree(path, ignore_errors=True)
        for path in self._folder.glob(".replaced-*"):
            shutil.rmtree(path, ignore_errors=True)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
