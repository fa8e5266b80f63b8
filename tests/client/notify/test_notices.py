"""What is told of runs, to whom, and what never leaves the machine."""

from __future__ import annotations

import http.server
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dashboard import HOSTILE, drive, environment, make_app, record_run, screen_text, until
from textual.pilot import Pilot

from loba_tui.app import LobaApp
from loba_tui.client.notify import watcher
from loba_tui.client.notify.delivery import Settings, payload, send, terminal_bytes
from loba_tui.client.notify.notices import Notice, NoticeFinder
from loba_tui.core.errors import RecipeError
from loba_tui.core.recipe.problems import ProblemsFound
from loba_tui.core.redact import Redactor
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.writer import RunWriter

TOKEN = "hf_" + "Ab1" * 12


def new_run(home: Path, name: str = "size") -> RunDir:
    run = RunDir.create(home / "output", name, ledger=Ledger.of_user(environment(home)))
    run.recipe.path.write_text("version: 1\n")
    return run


def told(finder: NoticeFinder) -> list[tuple[str, str]]:
    return [(notice.kind, notice.text.split(" ", 1)[1]) for notice in finder.look()]


def test_only_what_happens_after_the_first_look_is_told(tmp_path: Path) -> None:
    record_run(tmp_path, "old")
    finder = NoticeFinder(Ledger.of_user(environment(tmp_path)))
    assert finder.look() == []
    run = new_run(tmp_path)
    with RunWriter.open(run) as writer:
        writer.event("started")
        writer.status(phase="training", step=3, total=9)
        assert told(finder) == []
        assert finder.num_alive == 1
        writer.event("skipped", step=3, message="the loss is NaN")
        assert told(finder) == [("nan", "met a loss that is not finite: the loss is NaN")]
        writer.event("measured", outcome="dead")
        writer.event("finished")
        writer.status(phase="finished")
        found = finder.look()
    assert [notice.kind for notice in found] == ["dead_slider", "finished"]
    assert (found[0].step, found[0].total) == (3, 9)
    assert finder.look() == []
    assert finder.num_alive == 0


def test_failures_are_told_once_and_a_loss_that_is_not_finite_by_its_name(tmp_path: Path) -> None:
    finder = NoticeFinder(Ledger.of_user(environment(tmp_path)))
    finder.look()
    for name, exit_code in (("one", 4), ("two", 5)):
        with RunWriter.open(new_run(tmp_path, name)) as writer:
            writer.status(phase="training", step=1, total=9)
            writer.event("failed", message=f"bad {HOSTILE}", exit_code=exit_code)
            writer.status(phase="failed")
    found = finder.look()
    assert [notice.kind for notice in found] == ["failed", "nan"]
    assert not set("".join(notice.text for notice in found)) & set("\x1b\x07\u202e")
    assert finder.look() == []


def test_a_run_that_was_killed_is_told_although_it_said_nothing(tmp_path: Path) -> None:
    finder = NoticeFinder(Ledger.of_user(environment(tmp_path)))
    finder.look()
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from loba_tui.core.run.directory import RunDir\n"
        "from loba_tui.core.run.writer import RunWriter\n"
        "with RunWriter.open(RunDir(Path(sys.argv[1]))) as writer:\n"
        "    writer.status(phase='training', step=1, total=9)\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
    )
    run = new_run(tmp_path)
    program = subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    assert finder.look() == []
    program.kill()
    program.wait()
    ((kind, text),) = told(finder)
    assert kind == "failed"
    assert text.startswith("died: process")
    assert finder.look() == []


def test_a_run_that_goes_on_after_its_end_is_followed_again(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    finder = NoticeFinder(Ledger.of_user(environment(tmp_path)))
    for number in range(2):
        with RunWriter.open(run) as writer:
            writer.status(phase="training", step=number, total=9)
            writer.event("finished")
            writer.status(phase="finished")
        os.utime(run.status.path, (time.time(), 1000.0 + number))
        assert told(finder) == ([] if number == 0 else [("finished", "finished")])


# Settings


def test_settings_are_read_and_mistakes_told_without_the_address(tmp_path: Path) -> None:
    path = tmp_path / "notify.yaml"
    assert Settings.load(path) == Settings()
    path.write_text("events: [failed]\nbell: false\ndesktop: osc9\nwebhook: https://x.example/s\n")
    settings = Settings.load(path)
    assert settings.events == ("failed",)
    assert (settings.bell, settings.desktop) == (False, "osc9")
    assert "x.example" not in repr(settings)
    path.write_text("event: [failed]\nbell: yes\ndesktop: osc99\nevents: [fialed]\n")
    with pytest.raises(ProblemsFound) as raised:
        Settings.load(path)
    said = str(raised.value)
    for line in (
        "notify.yaml:1:1: event: not a key of notifications. Did you mean events?",
        "notify.yaml:2:7: bell: expected true or false",
        "notify.yaml:3:10: desktop: expected off, osc9 or osc777. Did you mean osc9?",
        "Did you mean failed?",
    ):
        assert line in said


@pytest.mark.parametrize(
    "address",
    [
        "http://example.com/x",
        "https://user:secret@example.com/",
        "file:///etc/passwd",
        "5",
        "[",
        "",
    ],
)
def test_only_safe_addresses_are_taken_and_none_is_repeated(address: str) -> None:
    with pytest.raises(RecipeError) as raised:
        Settings.parse(f"webhook: {json.dumps(address)}\n", "notify.yaml")
    assert "secret" not in str(raised.value)


def test_a_terminal_is_sent_text_that_cannot_end_its_own_sequence() -> None:
    notice = Notice("failed", "run", f"a;b {HOSTILE}")
    sequence = terminal_bytes(Settings(desktop="osc777"), notice, {})
    assert sequence.startswith("\x1b]777;notify;LOBA-Trainer;a,b ")
    assert sequence.count("\x1b") == 1
    assert sequence.endswith("\x07\x07")
    in_tmux = terminal_bytes(Settings(desktop="osc9", bell=False), notice, {"TMUX": "x"})
    assert in_tmux.startswith("\x1bPtmux;\x1b\x1b]9;")
    assert in_tmux.endswith("\x07\x1b\\")
    assert terminal_bytes(Settings(bell=False), notice, {}) == ""


# The webhook


class Hook:
    """A webhook on loopback that answers as it is told to."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.answers = [200]
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                hook.got.append(json.loads(self.rfile.read(length)))
                code = hook.answers.pop(0) if len(hook.answers) > 1 else hook.answers[0]
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", f"{hook.address}/elsewhere")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Hook()
    yield made
    made.close()


def test_a_webhook_gets_the_event_and_no_secret(hook: Hook) -> None:
    redactor = Redactor.of({"MY_API_KEY": "swordfish-swordfish"})
    notice = Notice("failed", f"run-{TOKEN}", f"bad {TOKEN} swordfish-swordfish", 3, 9)
    assert send(hook.address, payload(notice, redactor)) == ""
    (document,) = hook.got
    assert (document["event"], document["step"], document["total"]) == ("failed", 3, 9)
    assert TOKEN not in json.dumps(document)
    assert "swordfish" not in json.dumps(document)


def test_a_webhook_is_tried_again_and_never_followed_elsewhere(hook: Hook) -> None:
    waits: list[float] = []
    hook.answers = [500, 429, 200]
    assert send(hook.address, {}, sleep=waits.append) == ""
    assert waits == [2.0, 4.0]
    hook.answers, hook.got = [302], []
    assert "it answered 302" in send(hook.address, {}, sleep=waits.append)
    assert len(hook.got) == 1
    assert "URLError" in send("http://127.0.0.1:9/", {}, sleep=waits.append, timeout=2)


# Watchers


def test_one_watcher_tells_the_webhook_and_another_only_writes_lines(tmp_path: Path) -> None:
    sent: list[str] = []

    def post(address: str, document: dict[str, Any]) -> str:
        sent.append(document["text"])
        return "" if len(sent) == 1 else "it answered 500"

    settings = Settings(webhook="https://x.example/secret", events=("finished",))
    outs = [io.StringIO(), io.StringIO()]
    notifiers = [watcher.Notifier(environment(tmp_path), settings, out, post=post) for out in outs]
    assert [each.hold() for each in notifiers] == [True, False]
    for each in notifiers:
        each.look()
    for name in ("one", "two"):
        with RunWriter.open(new_run(tmp_path, name)) as writer:
            writer.event("skipped", message="x")
            writer.event("finished")
            writer.status(phase="finished")
    for each in notifiers:
        assert len(each.look()) == 2
        each.close()
    assert len(sent) == 2
    assert "it answered 500" in outs[0].getvalue()
    assert "finished" in outs[1].getvalue()
    assert "secret" not in outs[0].getvalue() + outs[1].getvalue()
    assert "\x07" not in outs[0].getvalue()  # it is no terminal


def test_a_watcher_of_its_own_tells_the_webhook_of_a_run_and_ends(
    tmp_path: Path, hook: Hook
) -> None:
    environ = {**os.environ, **environment(tmp_path)}
    path = watcher.settings_path(environ)
    assert not watcher.ensure(environ)  # nothing is set
    path.parent.mkdir(parents=True)
    path.write_text("webhook: http://example.com/\n")
    assert not watcher.ensure(environ)  # a mistake must not keep a run from starting
    path.write_text(f"webhook: {hook.address}\n")
    code = (
        "from loba_tui.client.notify import watcher; watcher._PATIENCE_SECONDS = 4; watcher.main()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=environ)
    run = new_run(tmp_path)
    deadline = time.monotonic() + 60
    with RunWriter.open(run) as writer:
        writer.status(phase="training", step=1, total=2)
        while not (tmp_path / "state" / "loba" / "watch.lock").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
        writer.event("finished")
        writer.status(phase="finished")
    assert process.wait(60) == 0
    assert [document["event"] for document in hook.got] == ["finished"]


def test_the_dashboard_rings_and_says_so_on_any_screen(tmp_path: Path) -> None:
    written: list[str] = []
    config = tmp_path / "config" / "loba"
    config.mkdir(parents=True)
    (config / "notify.yaml").write_text("desktop: osc9\n")

    async def story(pilot: Pilot[None]) -> None:
        app = pilot.app
        assert isinstance(app, LobaApp)
        assert app._driver is not None
        await until(pilot, lambda: app._notices._has_looked)
        app._driver.write = written.append  # type: ignore[method-assign]
        await pilot.press("5")
        with RunWriter.open(new_run(tmp_path)) as writer:
            writer.event("failed", message="no room", exit_code=4)
            writer.status(phase="failed")
        await until(pilot, lambda: "failed: no room" in screen_text(app))
        assert any("\x1b]9;size-" in text and text.endswith("\x07\x07") for text in written)

    drive(make_app(tmp_path), story, size=(120, 40))
