"""`loba runs watch`: a process that finds notices and delivers them, with no dashboard open.

    python -m loba_tui.client.notify.watcher

One of these is started by itself where a webhook is set and a run is started; it ends when no run
is alive any more. A lock sees to it that a webhook is told of everything once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

from loba_tui.client.notify.delivery import FILE, Settings, payload, send, terminal_bytes
from loba_tui.client.notify.notices import Notice, NoticeFinder
from loba_tui.core.errors import LobaError, ResourceError
from loba_tui.core.files import PRIVATE_DIR_MODE, PRIVATE_FILE_MODE, take_lock
from loba_tui.core.output import beneath
from loba_tui.core.redact import Redactor
from loba_tui.core.run.directory import Ledger
from loba_tui.core.run.launch import start_detached
from loba_tui.core.text import clean
from loba_tui.core.user_folders import user_folder

POLL_SECONDS = 2.0
_PATIENCE_SECONDS = 60.0
"""How long a watcher that was started by itself waits for a first or another run."""


def settings_path(environ: Mapping[str, str]) -> Path:
    """Return where the user's settings lie."""
    return user_folder(environ, "config") / FILE


class Notifier:
    """Looks at runs and tells.

    Args:
        environ: Where things lie, and which secrets no webhook may get.
        out: Gets a line for each notice, and the terminal's bell where it is one.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        settings: Settings,
        out: TextIO,
        *,
        post: Callable[..., str] = send,
    ) -> None:
        self._environ, self._settings, self._out, self._post = environ, settings, out, post
        self._ledger = Ledger.of_user(environ)
        self._redactor = Redactor.of(environ)
        self.finder = NoticeFinder(self._ledger)
        self._lock: int | None = None

    def hold(self) -> bool:
        """Take the lock that makes this the watcher that tells the webhook; say whether it is."""
        path = self._ledger.path.with_name("watch.lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIR_MODE)
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE_MODE)
            take_lock(self._lock)
        except BlockingIOError:
            self.close()
            return False
        except OSError as error:
            raise ResourceError(f"{path} cannot be written: {error.strerror}.") from error
        return True

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def look(self) -> list[Notice]:
        """Tell what has happened since the last look, and return it."""
        found = [n for n in self.finder.look() if n.kind in self._settings.events]
        for notice in found:
            self._tell(notice)
        return found

    def _tell(self, notice: Notice) -> None:
        stamp = time.strftime("%H:%M:%S")
        self._out.write(f"{stamp}  {notice.kind:12}{clean(notice.text)}\n")
        if self._out.isatty():
            # The bell and the notification are escape sequences, around a text that is cleaned.
            self._out.flush()
            beneath(self._out).write(terminal_bytes(self._settings, notice, self._environ))
        self._out.flush()
        if self._settings.webhook and self._lock is not None:
            problem = self._post(self._settings.webhook, payload(notice, self._redactor))
            if problem:
                self._out.write(f"{stamp}  {clean(problem)}\n")
                self._out.flush()


def ensure(environ: Mapping[str, str]) -> bool:
    """Start a watcher of its own where a webhook is set; say whether one was started.

    It must never keep a run from starting, so nothing is raised; a second one ends by itself.
    """
    try:
        if not Settings.load(settings_path(environ)).webhook:
            return False
        argv = [sys.executable, "-P", "-m", "loba_tui.client.notify.watcher"]
        # Detached, it outlives the terminal, as the runs do.
        start_detached(argv, os.open(os.devnull, os.O_WRONLY), environ=environ)
    except (LobaError, OSError):
        return False
    return True


def stay(notifier: Notifier, *, patience: float | None) -> None:
    """Watch until nothing is alive for `patience` seconds; None watches for ever."""
    idle_since = time.monotonic()
    while True:
        notifier.look()
        if notifier.finder.num_alive:
            idle_since = time.monotonic()
        elif patience is not None and time.monotonic() - idle_since > patience:
            return
        time.sleep(POLL_SECONDS)


def main() -> int:
    """Watch in the background, and tell the webhook; end at once where another one does."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    notifier = Notifier(os.environ, Settings.load(settings_path(os.environ)), sys.stdout)
    if not notifier.hold():
        return 0
    try:
        stay(notifier, patience=_PATIENCE_SECONDS)
    finally:
        notifier.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
