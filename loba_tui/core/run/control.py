"""Commands from the terminal to a running program, as small files in its control folder.

A command is written under a temporary name and renamed into place, so it is never read in part.
The program takes all of them at a step boundary, in name order, and answers each by an event.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

from loba_tui.core.errors import ResourceError
from loba_tui.core.files import UnsafeFileError, unwritable
from loba_tui.core.owned_files import OwnedFile
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
_NAME = re.compile(r"[0-9]{8}-[0-9a-f]{8}\.json")


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
        RefusedError: The control folder is a link or the like.
        ResourceError: It cannot be written.
    """
    try:
        run_dir.control.make()
        waiting = _waiting(run_dir)
    except UnsafeFileError as error:
        raise unwritable(run_dir.control.path, error) from error
    except OSError as error:
        raise ResourceError(
            f"No command can be left in {run_dir.control}: {error.strerror or error}.",
            "Only the user who started a run can steer it.",
        ) from error
    # Counting on from what still waits keeps the order even when the clock is set back.
    number = 1 + max((int(file.name[:8]) for file in waiting), default=0)
    name = f"{number:08d}-{secrets.token_hex(4)}.json"
    record = {"version": RECORD_VERSION, "command": command.kind, "args": dict(command.args)}
    run_dir.control.file(name).replace(encode(record))
    return name.removesuffix(".json")


def take(run_dir: RunDir, *, on_refused: Callable[[str, str], None] | None = None) -> list[Command]:
    """Remove and return the waiting commands, oldest first.

    Args:
        on_refused: Called with file name and reason for each file that has the name of a command
            and is none. It is removed too; what has another name is not ours, and stays.
    """
    commands = []
    with contextlib.suppress(OSError):
        for file in _waiting(run_dir):
            try:
                commands.append(_read(file))
            except (OSError, ValueError) as error:
                if on_refused is not None:
                    on_refused(file.name, getattr(error, "strerror", None) or str(error))
            with contextlib.suppress(OSError):
                file.remove()
    return commands


def discard(run_dir: RunDir, *, before: float) -> int:
    """Remove commands that were sent before this wall time; return how many."""
    num = 0
    with contextlib.suppress(OSError):
        for file in _waiting(run_dir):
            with contextlib.suppress(OSError):
                if file.stat().st_mtime < before:
                    file.remove()
                    num += 1
    return num


def _waiting(run_dir: RunDir) -> list[OwnedFile]:
    names = run_dir.control.names()
    return [run_dir.control.file(name) for name in names if _NAME.fullmatch(name)]


def _read(file: OwnedFile) -> Command:
    record = decode(file.read(_MAX_BYTES))
    kind, args = record.get("command"), record.get("args", {})
    is_known = isinstance(kind, str) and kind in _KINDS and isinstance(args, dict)
    if record.get("version") != RECORD_VERSION or not is_known:
        raise ValueError("not a command of this version")
    return Command(cast(CommandKind, kind), args, file.name.removesuffix(".json"))
