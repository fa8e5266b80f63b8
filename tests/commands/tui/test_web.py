"""The dashboard in a browser: who is let in, and that it is the dashboard."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard import environment, record_run

from loba_tui.commands.tui import web
from loba_tui.core.errors import ResourceError

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("textual_serve")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve on a free port, and return the address that is printed."""
    home = tmp_path_factory.mktemp("home")
    record_run(home, "served-run")
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "loba_tui.cli", "tui", "--web", "--port", str(port)],
        env={**os.environ, **environment(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home,
    )
    assert server.stderr is not None
    found = None
    while found is None:
        line = server.stderr.readline()
        assert line, "it ended"
        found = re.search(r"http://localhost:\d+/\?key=\S+", line)
    yield found.group()
    server.terminate()
    server.wait()


def status(url: str, **headers: str) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers=headers)
    deadline = time.monotonic() + 60
    while True:
        try:
            with opener.open(request) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)  # it is about to listen


def test_nobody_without_the_key_and_no_other_site_is_let_in(address: str) -> None:
    base, _, key = address.partition("/?key=")
    port = base.rpartition(":")[2]
    assert status(f"{base}/") == 403
    assert status(f"{base}/?key=guess") == 403
    assert status(f"{base}/ws") == 403
    assert status(f"{base}/static/js/textual.js") == 403
    good = {"Cookie": f"loba_{port}={key}"}
    assert status(f"{base}/", **good) == 200
    assert status(f"{base}/", **good, Host="evil.example") == 403
    assert status(f"{base}/", **good, Host=f"evil.example:{port}") == 403
    assert status(f"{base}/ws", **good, Origin="http://evil.example") == 403
    # Behind `ssh -L` the port may be another one.
    assert status(f"{base}/", **good, Host="localhost:9999") == 200


def test_a_browser_gets_the_dashboard_itself(address: str) -> None:
    async def look() -> bool:
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as session:
            async with session.get(address) as page:
                assert page.status == 200
                text = await page.text()
            found = re.search(r"ws://localhost:\d+/ws", text)
            assert found is not None
            seen = b""
            async with session.ws_connect(f"{found.group()}?width=80&height=24") as socket_:
                async for message in socket_:
                    seen += message.data if isinstance(message.data, bytes) else b""
                    # What is painted first, the list or the tabs above it, is left to chance.
                    if all(part in seen for part in (b"served-run", b"Runs")):
                        return True
        return False

    assert asyncio.run(asyncio.wait_for(look(), 90))


def test_a_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ResourceError, match=f"Port {port} cannot be used"):
            web.serve([], port=port, say=print)


def test_without_textual_serve_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    with pytest.raises(ResourceError) as raised:
        web.serve([], port=1, say=print)
    assert "pip install 'loba-trainer[web]'" in raised.value.hint
