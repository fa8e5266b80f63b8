"""The gate that everything printed passes: no control character, no secret, no forged line.

`PlainStream` stands in the place of stdout and stderr: of the command, where it is installed by
`gated`, and of the program, whose output is a run's log.txt. What draws on the terminal for a
purpose, such as a line that rewrites itself, takes the stream below by `beneath`, and cleans by
itself what it draws. The dashboard has the terminal to itself and passes by this gate, too.

What C code writes to the descriptors 1 and 2 cannot be caught here; such output is in log.txt as it
was written, and is cleaned when the log is shown.
"""

from __future__ import annotations

import atexit
import logging
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from loba_tui.core.redact import Redactor
from loba_tui.core.text import clean, plain

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_CONTINUED = "  | "
"""Before what is no record of its own but could be taken for one."""
# As LOG_FORMAT begins a record, and as any other tool would begin one.
_LIKE_A_RECORD = re.compile(
    r"\s*(?:\d{4}-\d\d-\d\d[ T]\d\d:\d\d|\[?(?:DEBUG|INFO|WARN|ERROR|CRIT))"
)
_MOST_WAITING = 64 * 1024


class PlainStream:
    """A text stream that lets only plain text through, without secrets.

    Line ends and tabs are kept. A text that comes in pieces is looked at line by line: a secret or
    an escape sequence may be cut anywhere.

    Args:
        stream: Gets the text; also what has no character in its encoding, as an escape.
        redactor: Knows the secrets.
        is_log: Keep an unfinished line until it ends or the process does, take a progress bar's
            return for the end of one, and mark lines that look like a record of the log.
    """

    def __init__(self, stream: TextIO, redactor: Redactor, *, is_log: bool = False) -> None:
        self.beneath = stream
        self._redactor = redactor
        self._is_log = is_log
        # Of each thread its own: two that print at once must not end each other's lines.
        self._waiting = threading.local()

    def write(self, text: str) -> int:
        """Write text, and return its length."""
        if not isinstance(text, str):
            raise TypeError(f"expected text, not {type(text).__name__}")
        whole = getattr(self._waiting, "text", "") + text
        if self._is_log:
            whole = whole.replace("\r\n", "\n").replace("\r", "\n")
        end = whole.rfind("\n") + 1
        if len(whole) - end > _MOST_WAITING:
            whole += "\n" if self._is_log else ""
            end = len(whole)
        self._waiting.text = whole[end:]
        if end:
            self._emit(whole[:end])
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand everything on; in a log, an unfinished line may be half a secret and waits."""
        if not self._is_log:
            self.finish()
        self.beneath.flush()

    def finish(self) -> None:
        """Write an unfinished line."""
        rest = getattr(self._waiting, "text", "")
        self._waiting.text = ""
        if rest:
            self._emit(rest + "\n" if self._is_log else rest)

    def write_record(self, line: str) -> None:
        """Write a record of the log, whose lines are known to be what they look like."""
        self.finish()
        self._put(self._redactor.text(line) + "\n")
        self.beneath.flush()

    def _emit(self, text: str) -> None:
        text = plain(self._redactor.text(text), "\n\t")
        if self._is_log:
            text = "".join(map(_marked, text.splitlines(keepends=True)))
        self._put(text)

    def _put(self, text: str) -> None:
        try:
            self.beneath.write(text)
        except UnicodeEncodeError:
            encoding = self.beneath.encoding
            self.beneath.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def __getattr__(self, name: str) -> Any:
        """Leave everything else to the stream, but not its way for bytes, which passes no gate."""
        if name in ("buffer", "detach", "reconfigure"):
            raise AttributeError(name)
        return getattr(self.beneath, name)


class RecordFormatter(logging.Formatter):
    """Formats a record of the log as one line, and what more it says as lines that are marked."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record; a line end in a message begins no line that looks like a record."""
        lines = super().format(record).splitlines()
        shown = [clean(line) for line in lines] or [""]
        return "\n".join([shown[0], *(_CONTINUED + line for line in shown[1:])])


class RecordHandler(logging.Handler):
    """Writes records to stderr, as it is at that time, past the marking of what looks like one."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(RecordFormatter(LOG_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        stream = cast(TextIO | PlainStream, sys.stderr)
        try:
            line = self.format(record)
            if isinstance(stream, PlainStream):
                stream.write_record(line)
            else:
                stream.write(line + "\n")
                stream.flush()
        except Exception:  # noqa: BLE001 - as logging's own handlers do it
            self.handleError(record)


def start_log(environ: Mapping[str, str]) -> None:
    """Have all that this process prints pass the gate, for the rest of its life, as a log."""
    redactor = Redactor.of(environ)
    for name in ("stdout", "stderr"):
        gate = PlainStream(getattr(sys, name), redactor, is_log=True)
        setattr(sys, name, gate)
        atexit.register(gate.finish)


def beneath(stream: TextIO) -> TextIO:
    """Return the stream below the gate, for those who draw and clean by themselves."""
    return stream.beneath if isinstance(stream, PlainStream) else stream


@contextmanager
def gated(environ: Mapping[str, str]) -> Iterator[None]:
    """Have all that this process prints meanwhile pass the gate."""
    redactor = Redactor.of(environ)
    before = sys.stdout, sys.stderr
    gates = [cast(TextIO, PlainStream(stream, redactor)) for stream in before]
    sys.stdout, sys.stderr = gates
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(RecordFormatter("%(message)s"))
    try:
        yield
    finally:
        for gate in gates:
            with suppress(OSError, ValueError):  # whoever read it is gone
                gate.flush()
        # Typer puts a stream of its own there where the reader is gone; it has to stay.
        if sys.stdout is gates[0]:
            sys.stdout = before[0]
        if sys.stderr is gates[1]:
            sys.stderr = before[1]


@contextmanager
def ungated() -> Iterator[None]:
    """Let what draws progress bars have the terminal; none of it may be foreign text."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(beneath, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _marked(line: str) -> str:
    return _CONTINUED + line if _LIKE_A_RECORD.match(line) else line
