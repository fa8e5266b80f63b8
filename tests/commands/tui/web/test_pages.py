"""Attacks on `loba tui --web` over real loopback sockets: who is let in, and to what."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("textual_serve")

from aiohttp import web  # noqa: E402
from web_pages import browser, enter, served, status  # noqa: E402
from yarl import URL  # noqa: E402

from loba_tui.commands.tui.web.sessions import Sessions  # noqa: E402


def bounded(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run an asynchronous test, for 60 s at most."""

    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 60))

    return run


@bounded
async def test_a_key_lets_one_browser_in_and_the_next_key_another() -> None:
    async with served() as it, browser() as first, browser() as second:
        key = it.sessions.key
        page = await enter(first, it.base, key)
        assert await status(first, page) == 200
        async with second.get(f"{it.base}/", params={"key": key}) as answer:
            assert answer.status == 403
            assert "A new address stands in the terminal" in await answer.text()
        assert not len(second.cookie_jar)
        assert it.entered == [it.sessions.key]
        assert it.sessions.key != key
        other_page = await enter(second, it.base, it.sessions.key)
        assert await status(second, other_page) == await status(first, page) == 200
        # Neither sees the other's.
        assert await status(second, page) == await status(first, other_page) == 403


@bounded
async def test_a_look_ahead_does_not_use_the_key_up() -> None:
    async with served() as it, browser() as client:
        url, key = f"{it.base}/", {"key": it.sessions.key}
        async with client.head(url, params=key) as answer:
            assert answer.status == 405
        async with client.get(url, params=key, headers={"Sec-Purpose": "prefetch"}) as answer:
            assert answer.status == 403
        async with client.post(url, params=key) as answer:
            assert answer.status == 405
        await enter(client, it.base, key["key"])


@bounded
async def test_every_route_needs_both_secrets_of_one_session() -> None:
    async with served() as it, browser() as client, browser() as other:
        page = await enter(client, it.base, it.sessions.key)
        other_page = await enter(other, it.base, it.sessions.key)
        (path,) = re.findall(r"/([^/]+)/$", page)
        secret = client.cookie_jar.filter_cookies(URL(page))[it.cookie].value
        assert len({path, secret, it.sessions.key}) == 3
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as stranger:
            for route in ("", "ws", "static/js/textual.js", "nothing"):
                own = {"Cookie": f"{it.cookie}={secret}", "Origin": it.base}
                for address, headers in (
                    (page + route, {}),
                    (page + route, {"Cookie": f"{it.cookie}=guess"}),
                    (page + route, {"Cookie": f"{it.cookie}={path}"}),
                    (page + route, {"Cookie": f"{it.cookie}={it.sessions.key}"}),
                    (page + route, {"Cookie": f"loba_1={secret}"}),
                    (f"{page}{route}?key={it.sessions.key}", {}),
                    (f"{it.base}/{route}", own),
                    (f"{it.base}//{route}", own),
                    (f"{it.base}/guess/{route}", own),
                    (f"{it.base}/{secret}/{route}", own),
                    (f"{it.base}/download/{route}", own),
                    (f"{it.base}/static/{route}", own),
                    (other_page + route, own),
                ):
                    assert await status(stranger, address, **headers) == 403, (address, headers)
            for guess in ("", path, secret, "\udcff", it.sessions.key[:-1]):
                address = f"{it.base}/?key={guess.encode('utf-8', 'replace').decode()}"
                assert await status(stranger, address) == 403
            assert await status(stranger, page, Cookie=f"{it.cookie}={secret}") == 200


@bounded
async def test_a_server_on_another_port_is_sent_neither_secret() -> None:
    received: list[str] = []

    async def note(request: web.Request) -> web.Response:
        received.append(f"{request.path_qs} {sorted(request.headers.items())}")
        return web.Response()

    other = web.Application()
    other.router.add_get("/{tail:.*}", note)
    runner = web.AppRunner(other)
    async with served() as it, browser() as client:
        page = await enter(client, it.base, it.sessions.key)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        try:
            for path in ("/", "/ws", "/static/js/textual.js", "/?key=x", "/guess/ws"):
                await status(client, f"http://127.0.0.1:{port}{path}")
            secret = client.cookie_jar.filter_cookies(URL(page))[it.cookie].value
            assert len(received) == 5
            assert secret not in "".join(received)
            # This client is as careless about ports as browsers are.
            (path,) = re.findall(r"/[^/]+/$", page)
            await status(client, f"http://127.0.0.1:{port}{path}")
            assert secret in received[-1]
        finally:
            await runner.cleanup()


@bounded
async def test_foreign_names_and_foreign_pages_are_refused() -> None:
    async with served() as it, browser() as client:
        key = it.sessions.key
        page = await enter(client, it.base, key)
        routes = (
            f"{it.base}/?key={it.sessions.key}",
            page,
            f"{page}ws",
            f"{page}static/js/textual.js",
        )
        for route in routes:
            for host in (
                "evil.example",
                f"evil.example:{it.port}",
                "127.0.0.1.evil.example",
                "127.0.0.1@evil.example",
                "localhost:80:evil",
                "127.0.0.2",
                "",
            ):
                assert await status(client, route, Host=host) == 403, (route, host)
            for origin in (
                "http://evil.example",
                f"http://127.0.0.1:{it.port + 1}",
                f"http://localhost:{it.port}",
                f"https://127.0.0.1:{it.port}",
                "null",
                "",
            ):
                assert await status(client, route, Origin=origin) == 403, (route, origin)
        # Not even a program that sends all secrets opens a window without a page.
        assert await status(client, f"{page}ws") == 403
        for origin in ("http://evil.example", None):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await client.ws_connect(f"{page}ws", origin=origin)
            assert refused.value.status == 403
        assert it.entered == [it.sessions.key]
        # At the near end of a tunnel the port is another one, and the name may be.
        for host in ("127.0.0.1:9", "localhost:9999", "[::1]:9999"):
            assert await status(client, page, Host=host, Origin=f"http://{host}") == 200


@bounded
async def test_every_answer_keeps_addresses_and_pages_to_itself() -> None:
    async with served() as it, browser() as client:
        page = await enter(client, it.base, it.sessions.key)
        for url, expected in (
            (f"{it.base}/?key={it.sessions.key}", 200),
            (f"{it.base}/?key=guess", 403),
            (page, 200),
            (f"{page}nothing", 404),
            (f"{page}static/css/xterm.css", 200),
            (f"{page}ws", 403),
        ):
            async with client.get(url) as answer:
                assert answer.status == expected
                assert answer.headers["Referrer-Policy"] == "no-referrer"
                assert answer.headers["Cache-Control"] == "no-store"
                assert answer.headers["X-Frame-Options"] == "DENY"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
                for cookie in answer.headers.getall("Set-Cookie", ()):
                    assert "HttpOnly" in cookie
                    assert "SameSite=Strict" in cookie
                    assert re.search(r"Path=/[\w-]{32}/", cookie)


@bounded
async def test_the_page_loads_nothing_from_elsewhere() -> None:
    async with served() as it, browser() as client:
        page = await enter(client, it.base, it.sessions.key)
        async with client.get(page, headers={"Host": "localhost:9999"}) as answer:
            text = await answer.text()
            policy = answer.headers["Content-Security-Policy"]
        session = page.removeprefix(it.base)
        assert f'"ws://localhost:9999{session}ws"' in text
        assert f'src="http://localhost:9999{session}static/js/textual.js"' in text
        assert "http:" not in policy
        assert re.findall(r"ws:\S+", policy) == ["ws://localhost:9999;"]
        assert "'unsafe-eval'" not in policy


@bounded
async def test_only_files_of_textual_serve_are_served() -> None:
    async with served() as it, browser() as client:
        page = await enter(client, it.base, it.sessions.key)
        assert await status(client, f"{page}static/js/textual.js") == 200
        for name in (
            "",
            "js/",
            "js",
            "%2e%2e/server.py",
            "js/%2e%2e/%2e%2e/server.py",
            "%2fetc/passwd",
        ):
            address = URL(f"{page}static/{name}", encoded=True)
            assert await status(client, address) == 404, name  # type: ignore[arg-type]


@bounded
async def test_a_session_that_has_ended_cannot_be_replayed() -> None:
    now = [0.0]
    sessions = Sessions(idle_seconds=10, longest_seconds=100, clock=lambda: now[0])
    async with served(sessions) as it, browser() as client, browser() as other:
        page = await enter(client, it.base, it.sessions.key)
        for now[0] in (9.0, 18.0, 27.0):
            assert await status(client, page) == 200
        now[0] = 30.0
        other_page = await enter(other, it.base, it.sessions.key)
        now[0] = 37.0
        for _ in range(3):
            assert await status(client, page) == 403
        assert await status(other, other_page) == 200
    now[0] = 0.0
    sessions = Sessions(idle_seconds=10, longest_seconds=20, clock=lambda: now[0])
    async with served(sessions) as it, browser() as client:
        page = await enter(client, it.base, it.sessions.key)
        for now[0], expected in ((8.0, 200), (16.0, 200), (20.0, 403)):
            assert await status(client, page) == expected
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await client.ws_connect(f"{page}ws", origin=it.base)


@bounded
async def test_a_session_lasts_while_a_window_is_open_and_closes_it_at_its_end() -> None:
    async with (
        served(Sessions(idle_seconds=0.2, longest_seconds=3)) as it,
        browser() as client,
    ):
        page = await enter(client, it.base, it.sessions.key)
        started = time.monotonic()
        async with client.ws_connect(f"{page}ws", origin=it.base) as window:
            assert (await window.receive()).data == b"hello"
            await asyncio.sleep(0.5)
            assert await status(client, page) == 200
            closed = await window.receive()
        assert closed.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        assert 2 < time.monotonic() - started < 20
        assert await status(client, page) == 403


@bounded
async def test_secrets_of_a_server_that_has_ended_open_nothing() -> None:
    async with browser() as client:
        async with served() as it:
            page = await enter(client, it.base, it.sessions.key)
            assert await status(client, page) == 200
        async with served() as it:
            assert await status(client, f"{it.base}{URL(page).path}") == 403
