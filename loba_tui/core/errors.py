"""Every error a user can meet, and the exit code that each one ends the process with."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes; part of the public contract."""

    DONE = 0
    BUG = 1
    RECIPE = 2
    DATA = 3
    RESOURCES = 4
    NUMERICS = 5
    IN_USE = 6
    CORRUPT = 7
    REFUSED = 8
    RESUMABLE = 75
    INTERRUPTED = 130


class LobaError(Exception):
    """Something the user can act on; shown as a message, never as a traceback.

    A path, a name or a value in a message may hold line ends: only those between `lines` are ours,
    so that no file's name adds a line that looks like one of this program.

    Args:
        message: What is wrong, with file, key and value where there are any.
        hint: What to do about it, as one sentence.
        lines: What follows the message, each on a line of its own.
    """

    exit_code = ExitCode.BUG

    def __init__(self, message: str, hint: str = "", *, lines: Sequence[str] = ()) -> None:
        self.message = "\n".join(map(_one_line, (message, *lines)))
        self.hint = _one_line(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


class RecipeError(LobaError):
    """The recipe or the command line cannot be used as written."""

    exit_code = ExitCode.RECIPE


class DataError(LobaError):
    """Images, captions or prompts cannot be used."""

    exit_code = ExitCode.DATA


class ResourceError(LobaError):
    """Memory, disk or a device that was asked for is not there."""

    exit_code = ExitCode.RESOURCES


class NumericsError(LobaError):
    """A loss, gradient or weight is not finite, or an adapter does nothing."""

    exit_code = ExitCode.NUMERICS


class InUseError(LobaError):
    """Another process owns what this one needs."""

    exit_code = ExitCode.IN_USE


class CorruptError(LobaError):
    """A checkpoint, an adapter or a model file is damaged."""

    exit_code = ExitCode.CORRUPT


class RefusedError(LobaError):
    """Refused for safety: unsafe file format, untrusted plugin, path outside its root."""

    exit_code = ExitCode.REFUSED


class Stopped(LobaError):
    """The user stopped what cannot be resumed."""

    exit_code = ExitCode.INTERRUPTED


class Interrupted(LobaError):
    """The run was asked to stop; its state is saved and it can be resumed."""

    exit_code = ExitCode.RESUMABLE


class PeerLost(LobaError):
    """A process that trains together with this one does not answer; the run can be resumed.

    Args:
        rank: Which one; None where that is not known.
        host: Its machine; "" where that is not known.
    """

    exit_code = ExitCode.RESUMABLE

    def __init__(
        self, message: str, hint: str = "", *, rank: int | None = None, host: str = ""
    ) -> None:
        super().__init__(message, hint)
        self.rank = rank
        self.host = host
