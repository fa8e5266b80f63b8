"""What tests of `loba tui --web` share: a server of its pages, and what visits it."""

from __future__ import annotations

import re
import shlex
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from textual_serve.server import Server

from loba_tui.commands.tui.web.pages import Pages
from loba_tui.commands.tui.web.serve import listen
from loba_tui.commands.tui.web.sessions import Sessions

# Speaks as a dashboard does to textual-serve: says hello, and ends when it is told to quit.
STAND_IN = """
import sys
out, given = sys.stdout.buffer, sys.stdin.buffer
out.write(b"__GANGLION__\\nD" + (5).to_bytes(4, "big") + b"hello")
out.flush()
while len(head := given.read(5)) == 5:
    if b'"quit"' in given.read(int.from_bytes(head[1:], "big")):
        break
"""


@dataclass
class Served:
    """A server of the pages, and how often it has been entered."""

    port: int
    sessions: Sessions
    entered: list[str] = field(default_factory=list)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def cookie(self) -> str:
        return f"loba_{self.port}"


@asynccontextmanager
async def served(sessions: Sessions | None = None) -> AsyncIterator[Served]:
    """Serve stand-ins of the dashboard on a port that the system chooses."""
    sockets = listen(0)
    it = Served(sockets[0].getsockname()[1], sessions or Sessions())
    textual = Server(shlex.join([sys.executable, "-c", STAND_IN]), title="LOBA")
    pages = Pages(
        textual, it.sessions, cookie=it.cookie, on_enter=lambda: it.entered.append(it.sessions.key)
    )
    runner = web.AppRunner(pages.app(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        for opened in sockets:
            await web.SockSite(runner, opened).start()
        yield it
    finally:
        await runner.cleanup()


def browser() -> aiohttp.ClientSession:
    """Return a client that keeps cookies as a browser does: by host and path, for all ports."""
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.CookieJar(unsafe=True), timeout=aiohttp.ClientTimeout(30)
    )


async def enter(client: aiohttp.ClientSession, base: str, key: str) -> str:
    """Use a key, and return the address of the page to which it leads."""
    async with client.get(f"{base}/", params={"key": key}) as answer:
        text = await answer.text()
        assert answer.status == 200, text
    found = re.search(r'url=(/[\w-]+/)"', text)
    assert found is not None, text
    return base + found.group(1)


async def status(client: aiohttp.ClientSession, url: str, **headers: str) -> int:
    """Return how a GET request is answered."""
    async with client.get(url, headers=headers) as answer:
        await answer.read()
        return answer.status


def other_listener(host: str, port: int) -> socket.socket:
    """Listen as another program would that does all it can to share a port."""
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if ":" in host:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind((host, port))
        opened.listen()
    except BaseException:
        opened.close()
        raise
    return opened
