"""The dashboard in a browser: what is listened on, what is told, and that it is the dashboard."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard import environment, record_run

from loba_tui.commands.tui.web import serve as web
from loba_tui.core.errors import ResourceError

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("textual_serve")

from web_pages import browser, enter, other_listener, status  # noqa: E402

BOTH = ("127.0.0.1", "::1")
EVERY = (*BOTH, "0.0.0.0", "::")


def has_ipv6() -> bool:
    try:
        with other_listener("::1", 0):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback here")


def free_port() -> int:
    with other_listener("127.0.0.1", 0) as probe:
        return int(probe.getsockname()[1])


def is_listened_on(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


class Served:
    """The command itself, what it tells at first, and the key that it told last."""

    def __init__(self, home: Path, port: int) -> None:
        self.port = port
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "loba_tui.cli", "tui", "--web", "--port", str(port)],
            env={**os.environ, **environment(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=home,
        )
        self.told = [self._line(), self._line()]
        self.key = self.told[0].partition("?key=")[2]

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def read_next_key(self) -> None:
        line = self._line()
        found = re.fullmatch(
            rf"A browser has been let in\. For another one: {self.base}/\?key=([\w-]+)", line
        )
        assert found is not None, line
        self.key = found.group(1)

    def _line(self) -> str:
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        assert line, "it ended"
        return line.rstrip("\n")

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            assert self._process.wait(15) == 0
        finally:
            self._process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve on a free port."""
    home = tmp_path_factory.mktemp("home")
    record_run(home, "served-run")
    served = Served(home, free_port())
    yield served
    served.interrupt()


def test_the_addresses_that_are_told_are_listened_on(server: Served) -> None:
    address, tunnel = server.told
    port = server.port
    assert re.fullmatch(rf"http://127\.0\.0\.1:{port}/\?key=[\w-]{{32}}", address)
    literal = f"127.0.0.1:{port}:127.0.0.1:{port}"
    assert f"ssh -o ExitOnForwardFailure=yes -L {literal} " in tunnel
    assert "localhost" not in address + tunnel
    assert is_listened_on("127.0.0.1", port)


def test_a_browser_gets_the_dashboard_itself(server: Served) -> None:
    async def look() -> bool:
        async with browser() as client:
            page = await enter(client, server.base, server.key)
            server.read_next_key()
            async with client.get(page) as answer:
                found = re.search(r'"(ws://[^"]+)"', await answer.text())
            assert found is not None
            address = f"{found.group(1)}?width=80&height=24"
            seen = b""
            async with client.ws_connect(address, origin=server.base) as window:
                async for message in window:
                    seen += message.data if isinstance(message.data, bytes) else b""
                    # What is painted first, the list or the tabs above it, is left to chance.
                    if all(part in seen for part in (b"served-run", b"Runs")):
                        return True
        return False

    assert asyncio.run(asyncio.wait_for(look(), 90))


def test_the_terminal_tells_of_who_came_in_and_not_of_who_did_not(server: Served) -> None:
    for junk in (b"\x1b]0;owned\x07\r\n\r\n", b"GET / HTTP/1.1\r\n\x1b[31m\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as stranger:
            stranger.sendall(junk)
            assert stranger.recv(100).startswith(b"HTTP/1.0 400 ")

    async def visit(key: str) -> int:
        async with browser() as client:
            assert await status(client, f"{server.base}/nothing") == 403
            assert await status(client, f"{server.base}/?key=guess") == 403
            return await status(client, f"{server.base}/?key={key}")

    key = server.key
    assert asyncio.run(visit(key)) == 200
    server.read_next_key()
    assert server.key != key
    assert asyncio.run(visit(key)) == 403


def test_ctrl_c_ends_it_although_a_window_is_open(tmp_path: Path) -> None:
    server = Served(tmp_path, free_port())

    async def interrupt() -> None:
        async with browser() as client:
            page = await enter(client, server.base, server.key)
            window = await client.ws_connect(f"{page}ws", origin=server.base)
            assert await window.receive_bytes()
            # This browser says no goodbye, as one behind a broken tunnel.
            await asyncio.to_thread(server.interrupt)

    asyncio.run(asyncio.wait_for(interrupt(), 60))


@pytest.mark.parametrize("host", EVERY)
def test_a_port_that_another_program_listens_on_is_an_error(host: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("no IPv6 loopback here")
    told: list[str] = []
    with other_listener(host, 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ResourceError, match=f"Port {port} of .* cannot be used"):
            web.serve([], port=port, say=told.append)
        assert told == []
        # Neither address is kept.
        taken.close()
        assert not any(is_listened_on(either, port) for either in BOTH)


@needs_ipv6
def test_nobody_else_can_listen_on_the_port_meanwhile() -> None:
    sockets = web.listen(0)
    try:
        port = sockets[0].getsockname()[1]
        assert [opened.getsockname()[0] for opened in sockets] == list(BOTH)
        for host in EVERY:
            with pytest.raises(OSError, match="in use"):
                other_listener(host, port)
    finally:
        for opened in sockets:
            opened.close()
    for host in EVERY:
        other_listener(host, port).close()


def test_without_ipv6_it_listens_on_127_0_0_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_NO_IPV6", (*web._NO_IPV6, errno.EADDRINUSE))
    port = free_port()
    if has_ipv6():
        with other_listener("::1", port):
            sockets = web.listen(port)
    else:
        sockets = web.listen(port)
    assert [opened.getsockname() for opened in sockets] == [("127.0.0.1", port)]
    sockets[0].close()


def test_the_key_is_told_only_when_the_port_is_held() -> None:
    class Told(Exception):
        """Ends the server as soon as it has told something."""

    def say(text: str) -> None:
        assert "key=" in text
        for host in BOTH if has_ipv6() else BOTH[:1]:
            with pytest.raises(OSError, match="in use"):
                other_listener(host, port)
        raise Told

    port = free_port()
    with pytest.raises(Told):
        web.serve([], port=port, say=say)
    assert not any(is_listened_on(host, port) for host in BOTH)


def test_arguments_reach_the_dashboard_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = shutil.which("sh")
    assert shell is not None
    program = tmp_path / "it's a program"
    program.write_text(f"#!{shell}\nprintf '%s\\0' \"$@\"\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    out = tmp_path / "owned"
    hostile = [
        f"--run=a; touch {out}",
        f"--out-dir=$(touch {out})`touch {out}`",
        f"'; touch {out} #",
        f"a\ntouch {out}\n",
        "",
        "-- *~!$HOME\\",
        "name\udcff",
    ]
    done = subprocess.run(
        web.command(hostile), shell=True, capture_output=True, check=True, cwd=tmp_path
    )
    given = os.fsdecode(done.stdout).split("\0")
    assert given[:-1] == ["-P", "-m", "loba_tui.cli", "tui", *hostile]
    assert not out.exists()


def test_without_textual_serve_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    with pytest.raises(ResourceError) as raised:
        web.serve([], port=1, say=print)
    assert "pip install 'loba-trainer[web]'" in raised.value.hint
