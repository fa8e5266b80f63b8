"""The pages of `loba tui --web` and the guard before them, around textual-serve's windows.

textual-serve's own routes are not used: they stand at fixed paths, list the folder of static files,
and offer downloads, which the dashboard does not have. Here `/` takes a key, and everything else
lies below the path of a session (`sessions.py`):

    /?key=KEY           opens a session
    /SESSION/           the page
    /SESSION/ws         the socket of one window, for which a dashboard is started
    /SESSION/static/…   scripts and styles of textual-serve
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable

import aiohttp_jinja2
import jinja2
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from textual_serve.server import Server

from loba_tui.commands.tui.web.sessions import Session, Sessions

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Any port: at the near end of `ssh -L` it may be another one. A name that is not of loopback has
# been pointed here by a foreign page (DNS rebinding).
_HOSTS = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?")
_NOT_LET_IN = (
    "This address lets nobody in: its key has been used, or its session has ended.\n"
    "A new address stands in the terminal in which `loba tui --web` runs.\n"
)
_ENTER = """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url=/{path}/">
<title>LOBA</title>
<a href="/{path}/">To the dashboard</a>
"""
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# textual-serve's page has its script inside; the fonts that it names at Google stay unloaded.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self' ws://{host}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Pages:
    """The handlers of all requests."""

    def __init__(
        self, textual: Server, sessions: Sessions, *, cookie: str, on_enter: Callable[[], None]
    ) -> None:
        """Guard a server's windows.

        Args:
            textual: Only its windows and files are used.
            sessions: Who is let in.
            cookie: The name of the cookie.
            on_enter: Called when a key has been used up.
        """
        self._textual = textual
        self._sessions = sessions
        self._cookie = cookie
        self._on_enter = on_enter
        folder = textual.statics_path
        self._files = {
            path.relative_to(folder).as_posix(): path
            for path in folder.rglob("*")
            if path.is_file()
        }

    def app(self) -> web.Application:
        """Return the web application."""
        app = web.Application(middlewares=[self._guard()])
        aiohttp_jinja2.setup(app, loader=jinja2.FileSystemLoader(self._textual.templates_path))
        app.add_routes(
            [
                # A HEAD request, as some programs send to look at a link, must not use the key up.
                web.get("/", self._enter, allow_head=False),
                web.get("/{session}/", self._page),
                web.get("/{session}/ws", self._window),
                web.get("/{session}/static/{name:.+}", self._static),
            ]
        )
        app.on_response_prepare.append(_add_headers)
        return app

    def _guard(self) -> object:
        @web.middleware
        async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
            if not _HOSTS.fullmatch(request.host):
                raise web.HTTPForbidden(text="This is served to 127.0.0.1 only.\n")
            origin = request.headers.get("Origin")
            if origin is not None and origin != f"http://{request.host}":
                raise web.HTTPForbidden(text="This page belongs to another site.\n")
            if request.path != "/":
                self._session(request)
            return await handler(request)

        return guard

    def _session(self, request: web.Request) -> Session:
        path = request.path.removeprefix("/").partition("/")[0]
        session = self._sessions.find(path, request.cookies.get(self._cookie, ""))
        if session is None:
            raise web.HTTPForbidden(text=_NOT_LET_IN)
        return session

    async def _enter(self, request: web.Request) -> web.Response:
        if "prefetch" in request.headers.get("Sec-Purpose", ""):
            # A browser that looks ahead while the address is typed would use the key up.
            raise web.HTTPForbidden(text="The key is taken when the page is opened.\n")
        session = self._sessions.exchange(request.query.get("key", ""))
        if session is None:
            raise web.HTTPForbidden(text=_NOT_LET_IN)
        # A page that leads on, and no redirection: the next request then comes from this site, so
        # that the strict cookie is sent although the address was clicked in a page of another one
        # (a terminal in a browser), and the key is not part of any address that is kept.
        answer = web.Response(text=_ENTER.format(path=session.path), content_type="text/html")
        answer.set_cookie(
            self._cookie, session.cookie, path=f"/{session.path}/", httponly=True, samesite="Strict"
        )
        self._on_enter()
        return answer

    async def _page(self, request: web.Request) -> web.Response:
        # The browser's own address, because behind `ssh -L` the port may be another one.
        here = f"{request.host}/{self._session(request).path}"
        answer = aiohttp_jinja2.render_template(
            "app_index.html",
            request,
            {
                "font_size": 16,
                "app_websocket_url": f"ws://{here}/ws",
                "config": {"static": {"url": f"http://{here}/static/"}},
                "application": {"name": self._textual.title},
            },
        )
        answer.headers["Content-Security-Policy"] = _PAGE_POLICY.format(host=request.host)
        return answer

    async def _static(self, request: web.Request) -> web.StreamResponse:
        path = self._files.get(request.match_info["name"])
        if path is None:
            raise web.HTTPNotFound
        return web.FileResponse(path)

    async def _window(self, request: web.Request) -> web.StreamResponse:
        if "Origin" not in request.headers:
            raise web.HTTPForbidden(text="A window is opened by the page.\n")
        session = self._session(request)
        with self._sessions.window(session) as seconds:
            async with asyncio.timeout(seconds):
                return await self._textual.handle_websocket(request)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


def is_failure(record: logging.LogRecord) -> bool:
    """Return whether a record of aiohttp's tells of more than of a request that is no HTTP.

    Whoever is on the machine can send such requests, and would fill the terminal.
    """
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
