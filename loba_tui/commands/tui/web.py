"""`loba tui --web`: the same dashboard in a browser, for `ssh -L`, through textual-serve.

Loopback is no border on a machine with several users, nor against pages in one's own browser. So
every request needs the key that stands in the address which is printed, its Host must be a name of
loopback, and a socket must be opened by the served page itself.
"""

from __future__ import annotations

import secrets
import shlex
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from loba_tui.core.errors import ResourceError

HOST = "127.0.0.1"
_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
WEB_DRIVER = "textual.drivers.web_driver:WebDriver"
"""What TEXTUAL_DRIVER is in a dashboard that textual-serve has started."""


def serve(arguments: Sequence[str], *, port: int, say: Callable[[str], None]) -> None:
    """Serve dashboards until Ctrl-C; each browser window gets one of its own.

    Args:
        arguments: Of `loba tui`, for each of them.
        port: On loopback.
        say: Told the address.

    Raises:
        ResourceError: textual-serve is not installed, or the port is taken.
    """
    try:
        from textual_serve.server import Server
    except ImportError as error:
        raise ResourceError(
            "The dashboard can be served to a browser only with textual-serve.",
            "Install it: pip install 'loba-trainer[web]'",
        ) from error
    _require_free(port)
    key = secrets.token_urlsafe(18)

    class Guarded(Server):
        """A server that lets in whoever has the key."""

        def initialize_logging(self) -> None:
            """Write nothing: addresses in a log would hold the key."""

        async def _make_app(self) -> Any:
            made = await super()._make_app()
            made.middlewares.append(_guard(key, cookie=f"loba_{port}"))
            return made

        async def on_startup(self, app: Any) -> None:
            say(f"http://localhost:{port}/?key={key}")
            host = socket.gethostname()
            say(f"from another machine first: ssh -L {port}:localhost:{port} {host}")

        async def handle_index(self, request: Any) -> Any:
            # Behind `ssh -L` the browser may know this under another port.
            self.public_url = f"http://{request.host}"
            return await super().handle_index(request)

    Guarded(_command(arguments), host=HOST, port=port, title="LOBA").serve()


def _guard(key: str, *, cookie: str) -> Any:
    """Return the middleware that turns everybody away who has neither the key nor its cookie."""
    from aiohttp import web

    @web.middleware
    async def guarded(request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        if request.host.rpartition(":")[0] not in _NAMES and request.host not in _NAMES:
            return web.Response(status=403, text="This is served to localhost only.\n")
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"http://{request.host}":
            return web.Response(status=403, text="This page belongs to another site.\n")
        if _is_same(request.query.get("key", ""), key):
            answer = web.Response(status=303, headers={"Location": "/"})
            answer.set_cookie(cookie, key, httponly=True, samesite="Strict")
            return answer
        if not _is_same(request.cookies.get(cookie, ""), key):
            text = "Open the whole address that `loba tui --web` has printed, key included.\n"
            return web.Response(status=403, text=text)
        return await handler(request)

    return guarded


def _command(arguments: Sequence[str]) -> str:
    program = [sys.executable, "-P", "-m", "loba_tui.cli", "tui", *arguments]
    return shlex.join(["env", "COLORTERM=truecolor", *program])


def _is_same(given: str, key: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "replace"), key.encode())


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ResourceError(
                f"Port {port} cannot be used: {reason}.", "Take another one with --port."
            ) from error
