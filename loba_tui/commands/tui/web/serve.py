"""`loba tui --web`: the same dashboard in a browser, for `ssh -L`, through textual-serve.

Loopback is no border on a machine with several users, nor against pages in one's own browser. So
the port is held on both loopback addresses before an address is told (`localhost` is one or the
other), and everything that is served asks for a session (`sessions.py`, `pages.py`).
"""

from __future__ import annotations

import errno
import logging
import shlex
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from loba_tui.commands.tui.web.sessions import Sessions
from loba_tui.core.errors import ResourceError

WEB_DRIVER = "textual.drivers.web_driver:WebDriver"
"""What TEXTUAL_DRIVER is in a dashboard that textual-serve has started."""
_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
_SHUTDOWN_SECONDS = 1.0
"""How long the end of the server waits for open windows, before and after it closes them."""


def serve(arguments: Sequence[str], *, port: int, say: Callable[[str], None]) -> None:
    """Serve dashboards until Ctrl-C; each browser window gets one of its own.

    Args:
        arguments: Of `loba tui`, for each of them.
        port: On loopback.
        say: Told the addresses: one at first, and another one whenever one has been used.

    Raises:
        ResourceError: textual-serve is not installed, or the port is taken.
    """
    try:
        from aiohttp import web
        from textual_serve.server import Server
    except ImportError as error:
        raise ResourceError(
            "The dashboard can be served to a browser only with textual-serve.",
            "Install it: pip install 'loba-trainer[web]'",
        ) from error
    from loba_tui.commands.tui.web.pages import Pages, is_failure

    logging.getLogger("aiohttp.server").addFilter(is_failure)
    sessions = Sessions()

    def address() -> str:
        return f"http://127.0.0.1:{port}/?key={sessions.key}"

    pages = Pages(
        Server(command(arguments), title="LOBA"),
        sessions,
        cookie=f"loba_{port}",
        on_enter=lambda: say(f"A browser has been let in. For another one: {address()}"),
    )
    with ExitStack() as held:
        sockets = [held.enter_context(opened) for opened in listen(port)]
        say(address())
        # The near end of the tunnel: a literal address too, and none at all rather than another
        # user's listener there.
        tunnel = f"-o ExitOnForwardFailure=yes -L 127.0.0.1:{port}:127.0.0.1:{port}"
        say(f"from another machine first: ssh {tunnel} {socket.gethostname()}")
        # No log of requests: the addresses are secrets.
        web.run_app(
            pages.app(),
            sock=sockets,
            print=None,
            access_log=None,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )


def listen(port: int) -> list[socket.socket]:
    """Listen on 127.0.0.1 and, where there is IPv6, on ::1, so that nobody else can.

    Raises:
        ResourceError: Somebody listens on one of them.
    """
    sockets = [_listen(socket.AF_INET, "127.0.0.1", port)]
    port = sockets[0].getsockname()[1]
    try:
        sockets.append(_listen(socket.AF_INET6, "::1", port))
    except ResourceError as error:
        if not (isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_IPV6):
            sockets[0].close()
            raise
    return sockets


def command(arguments: Sequence[str]) -> str:
    """Return the line of the shell, quoted, that textual-serve starts for each window."""
    program = [sys.executable, "-P", "-m", "loba_tui.cli", "tui", *arguments]
    return shlex.join(["env", "COLORTERM=truecolor", *program])


def _listen(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    try:
        opened = socket.socket(family)
        try:
            # For a port that has just been left; two that listen still cannot share it.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.bind((host, port))
            opened.listen()
        except BaseException:
            opened.close()
            raise
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ResourceError(
            f"Port {port} of {host} cannot be used: {reason}.", "Take another one with --port."
        ) from error
    return opened
