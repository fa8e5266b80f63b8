"""The figures of a recipe while it is edited, asked of a program process that stays.

The terminal never loads torch, and starting what does takes seconds. So one process is started when
an editor opens, in the background, and answers every change; it ends with this one.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from loba_tui.core.foreign_json import parse_json
from loba_tui.core.run import launch
from loba_tui.core.text import clean

SECTIONS = ("learning_rate", "timesteps", "noise", "layers", "needs")


@dataclass(frozen=True)
class Answer:
    """One section of what a recipe comes to, or that something went wrong.

    Attributes:
        number: What `ask` returned for the recipe; 0 is the process itself.
        section: One of SECTIONS; empty for the recipe, or the process, as a whole.
        data: The section as `loba plan --json` has it; None where there is an error.
    """

    number: int
    section: str = ""
    data: Mapping[str, Any] | None = None
    error: str = ""


class PlanClient:
    """Asks a process of its own, and hands the answers on as they come.

    Args:
        on_answer: Called from a thread of this client.
        environ: The process's environment; None hands on this one's.
    """

    def __init__(
        self,
        on_answer: Callable[[Answer], object],
        *,
        program: Sequence[str] = launch.PROGRAM,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._on_answer = on_answer
        self._argv = [*program, "--plans"]
        self._environ = None if environ is None else dict(environ)
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._number = 0

    @property
    def pid(self) -> int | None:
        """The process's number while there is one."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process, if there is none; this takes no time, its first answer does."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            try:
                process = subprocess.Popen(
                    self._argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                    # Ctrl-C in the terminal is not for it; the end of its stdin is what ends it.
                    start_new_session=True,
                    env=self._environ,
                )
            except OSError as error:
                self._on_answer(Answer(0, error=f"it cannot be started: {error.strerror}"))
                return
            self._process = process
        log: deque[str] = deque(maxlen=20)
        assert process.stdout is not None
        assert process.stderr is not None
        threads = [
            threading.Thread(target=log.extend, args=(process.stderr,), daemon=True),
            threading.Thread(target=self._read, args=(process, process.stdout, log), daemon=True),
        ]
        for thread in threads:
            thread.start()

    def ask(self, recipe: str) -> int:
        """Ask what a recipe's text comes to, and return the number that the answers will have."""
        self.start()
        with self._lock:
            self._number += 1
            process, number = self._process, self._number
            if process is not None and process.stdin is not None:
                # Where it has ended, the thread that reads from it says so.
                with suppress(OSError):
                    process.stdin.write(json.dumps({"id": number, "recipe": recipe}) + "\n")
                    process.stdin.flush()
        return number

    def close(self) -> None:
        """End the process."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
        process.terminate()
        threading.Thread(target=process.wait, daemon=True).start()

    def _read(self, process: subprocess.Popen[str], stream: IO[str], log: deque[str]) -> None:
        for line in stream:
            answer = _parse(line)
            if answer is not None:
                self._on_answer(answer)
        code = process.wait()
        with self._lock:
            wanted = self._process is process
        if wanted:  # else it was closed from here
            last = next((each for each in reversed(log) if each.strip()), "").strip()
            reason = f"it ended with {code}" + (f": {clean(last, limit=200)}" if last else "")
            self._on_answer(Answer(0, error=reason))


def _parse(line: str) -> Answer | None:
    """Return the answer of a record, None for one that answers nothing."""
    try:
        record = parse_json(line)
        number = record["id"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(number, int):
        return None
    section, data = record.get("section", ""), record.get("data")
    error = clean(record.get("error", ""), keep_newlines=True)
    if section not in ("", *SECTIONS) or not (isinstance(data, dict) or error):
        return None
    return Answer(number, section, data if isinstance(data, dict) else None, error)
