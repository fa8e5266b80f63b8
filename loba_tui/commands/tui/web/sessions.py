"""Who may see the dashboard in a browser: one key at a time, and the sessions that keys opened.

A session has two secrets. Its path stands in the address of every page of it; its cookie is kept by
the browser. Browsers send a cookie to all ports of a host, but only below the path that it was set
for, and no other server learns that path. So neither secret reaches another user's server on
another port, and neither is enough alone.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

IDLE_SECONDS = 3600.0
"""How long a session lasts without a request and without an open window."""
LONGEST_SECONDS = 24 * 3600.0
"""How long a session lasts at most; its open windows are closed then."""


def _secret() -> str:
    # 192 bits: guesses are hopeless, so they need not be counted. A lock after failed tries would
    # let everybody on the machine lock its owner out.
    return secrets.token_urlsafe(24)


@dataclass
class Session:
    """One browser that has been let in; times are of the clock of its `Sessions`."""

    ends: float
    last_used: float
    path: str = field(default_factory=_secret)
    cookie: str = field(default_factory=_secret)
    num_windows: int = 0


class Sessions:
    """The key that opens the next session, and the sessions that are open."""

    def __init__(
        self,
        *,
        idle_seconds: float = IDLE_SECONDS,
        longest_seconds: float = LONGEST_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.key = _secret()
        """What opens one session; another one stands here afterwards."""
        self._open: list[Session] = []
        self._idle_seconds = idle_seconds
        self._longest_seconds = longest_seconds
        self._clock = clock

    def exchange(self, key: str) -> Session | None:
        """Use the key up for a new session; None for any other key."""
        if not _is_same(key, self.key):
            return None
        self.key = _secret()
        now = self._clock()
        session = Session(ends=now + self._longest_seconds, last_used=now)
        self._open.append(session)
        return session

    def find(self, path: str, cookie: str) -> Session | None:
        """Return the open session that has both secrets, and count this as a use of it."""
        now = self._clock()
        self._open = [session for session in self._open if not self._is_over(session, now)]
        for session in self._open:
            if _is_same(path, session.path) and _is_same(cookie, session.cookie):
                session.last_used = now
                return session
        return None

    @contextmanager
    def window(self, session: Session) -> Iterator[float]:
        """Keep a session from being idle meanwhile; yields in how many seconds it ends."""
        session.num_windows += 1
        try:
            yield max(0.0, session.ends - self._clock())
        finally:
            session.num_windows -= 1
            session.last_used = self._clock()

    def _is_over(self, session: Session, now: float) -> bool:
        is_idle = not session.num_windows and now >= session.last_used + self._idle_seconds
        return is_idle or now >= session.ends


def _is_same(given: str, secret: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "replace"), secret.encode())
