"""The signals that ask a program to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from types import FrameType
from typing import Any

from loba_tui.core.errors import ExitCode

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopFlag:
    """Set by SIGINT, SIGTERM and SIGUSR1; a second SIGINT ends the process at once.

    A context manager: it takes the signals over, and gives their handlers back at its end. SIGHUP
    is ignored meanwhile, since a lost terminal is no reason to stop.

    Python runs a handler in the main thread alone, and not while that is in C code, as in a
    collective. The number of each signal is therefore also written to a socket, from where any
    thread that asks for `is_set` learns of it.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._was_handled = False
        self._before: dict[int, Any] = {}
        self._receiver: socket.socket | None = None
        self._sender: socket.socket | None = None
        self._wakeup_before = -1

    @property
    def is_set(self) -> bool:
        """Whether a signal has come, be it handled yet or not."""
        receiver = self._receiver
        if not self._is_set and receiver is not None:
            with contextlib.suppress(OSError):  # nothing is there to read, or it is closed
                came = receiver.recv(64)
                self._is_set = any(number in _SIGNALS for number in came)
        return self._is_set

    def __enter__(self) -> StopFlag:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._handle)
        self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._receiver, self._sender = socket.socketpair()
        for end in (self._receiver, self._sender):
            end.setblocking(False)
        wakeup = self._sender.fileno()
        self._wakeup_before = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_error: object) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        for end in (self._receiver, self._sender):
            if end is not None:
                end.close()
        self._receiver = self._sender = None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._was_handled and number == signal.SIGINT:
            os._exit(ExitCode.INTERRUPTED)
        self._is_set = self._was_handled = True
