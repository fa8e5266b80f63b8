"""Commands from the terminal to a running program, as small files in its control folder.

A command is written under a temporary name and renamed into place, so it is never read in part.
The program takes all of them at a step boundary, in name order, and answers each by an event.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from loba_tui.core.errors import ResourceError
from loba_tui.core.files import PRIVATE_DIR_MODE, write_atomically
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.records import RECORD_VERSION, decode, encode

CommandKind = Literal[
    "pause", "resume", "save", "sample", "stop", "set", "unload", "offload", "onload"
]
_KINDS: frozenset[str] = frozenset(get_args(CommandKind))

MEMORY_KINDS = frozenset({"unload", "offload", "onload"})
"""Commands about one component of the base model."""


LIVE_KEYS: Mapping[str, Literal["loop", "bound"]] = MappingProxyType(
    {
        "optimizer.lr": "bound",
        "train.steps": "loop",
        "method.preserve_weight": "bound",
        "sample.every": "loop",
        "save.every": "loop",
    }
)
"""A recipe's keys that `set` can change while a run goes on, and who takes a new value over.

That is the training loop, which asks for it at each step, or an object of the run that is bound to
it. A key of `method` is an option of the method.
"""

# A command is a few words; anything longer was not written by us.
_MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class Command:
    """Something the user wants of a running program.

    Args:
        args: Of `set`: `key`, one of LIVE_KEYS, and `value`. Of MEMORY_KINDS: `component`.
        id: The name that `send` returned; the answering event repeats it.
    """

    kind: CommandKind
    args: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default="", compare=False)


def send(run_dir: RunDir, command: Command) -> str:
    """Leave a command for the program and return the name by which the answer refers to it.

    Raises:
        ResourceError: The control folder cannot be written.
    """
    try:
        run_dir.control.mkdir(mode=PRIVATE_DIR_MODE, exist_ok=True)
        waiting = _waiting(run_dir.control)
    except OSError as error:
        raise ResourceError(
            f"No command can be left in {run_dir.control}: {error.strerror or error}.",
            "Only the user who started a run can steer it.",
        ) from error
    # Counting on from what still waits keeps the order even when the clock is set back.
    number = 1 + max((_number(path) for path in waiting), default=0)
    name = f"{number:08d}-{secrets.token_hex(4)}.json"
    record = {"version": RECORD_VERSION, "command": command.kind, "args": dict(command.args)}
    write_atomically(run_dir.control / name, encode(record))
    return name.removesuffix(".json")


def take(run_dir: RunDir, *, on_refused: Callable[[str, str], None] | None = None) -> list[Command]:
    """Remove and return the waiting commands, oldest first.

    Args:
        on_refused: Called with file name and reason for each file that is not a command; such
            files are removed too.
    """
    commands = []
    with contextlib.suppress(FileNotFoundError):
        for path in _waiting(run_dir.control):
            try:
                commands.append(_read(path))
            except (OSError, ValueError) as error:
                if on_refused is not None:
                    on_refused(path.name, str(error))
            with contextlib.suppress(OSError):
                path.unlink()
    return commands


def discard(run_dir: RunDir, *, before: float) -> int:
    """Remove commands that were sent before this wall time; return how many."""
    num = 0
    with contextlib.suppress(FileNotFoundError):
        for path in _waiting(run_dir.control):
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime < before:
                    path.unlink()
                    num += 1
    return num


def _waiting(control: Path) -> list[Path]:
    with os.scandir(control) as entries:
        names = sorted(entry.name for entry in entries)
    return [control / name for name in names if name.endswith(".json") and name[0] != "."]


def _number(path: Path) -> int:
    digits = path.name.partition("-")[0]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 8 else 0


def _read(path: Path) -> Command:
    # O_NOFOLLOW and O_NONBLOCK: a link or a named pipe put here must not lead or block us.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, _MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"longer than {_MAX_BYTES} bytes")
    record = decode(content)
    kind, args = record.get("command"), record.get("args", {})
    if record.get("version") != RECORD_VERSION or kind not in _KINDS or not isinstance(args, dict):
        raise ValueError("not a command of this version")
    return Command(kind, args, path.name.removesuffix(".json"))
