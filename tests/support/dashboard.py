"""What tests of the dashboard share: recorded runs, and an app that reads them."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
from textual.pilot import Pilot
from textual.screen import Screen

from loba_tui.app import LobaApp
from loba_tui.client.context import Context
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.shipped import folder
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.writer import RunWriter
from loba_tui.widgets.table import MarkTable

Kind = TypeVar("Kind", bound=Screen[Any])
HOSTILE = "\x1b]0;owned\x07\x1b[31mred[/bold][@click=app.quit]x\u202e\u0007"
STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in_program.py")))


def environment(home: Path) -> dict[str, str]:
    """Return an environment in which nothing of the real user is seen."""
    return {
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "COLORTERM": "truecolor",
        "TERM": "xterm-256color",
    }


def make_app(home: Path, run: RunDir | None = None, **changes: object) -> LobaApp:
    """Return an app over the runs below `home`."""
    context = Context(
        **{
            "environ": environment(home),
            "out_dir": home / "output",
            "program": STAND_IN,
            "plugins": SHIPPED,
            "seconds": 0.1,
            **changes,
        }  # type: ignore[arg-type]
    )
    return LobaApp(context, run=run)


def record_run(
    home: Path,
    name: str = "size-slider",
    *,
    steps: int = 40,
    total: int = 100,
    phase: str | None = "finished",
    extra: Mapping[str, object] | None = None,
) -> RunDir:
    """Record a run; phase None leaves one whose program has ended without a word."""
    run = RunDir.create(home / "output", name, ledger=Ledger.of_user(environment(home)))
    run.recipe.path.write_text("version: 1\nname: x\nmethod:\n  name: text_slider\n")
    with RunWriter.open(run) as writer:
        writer.event("started", name=name)
        writer.event("built", device="cpu", dtype="float32")
        writer.status(phase="training", step=0, total=total)
        for step in range(1, steps + 1):
            loss = math.nan if step == 13 else math.exp(-step / 30)
            writer.metric(
                step=step, loss=loss, lr=1e-4, grad_norm=0.5, seconds=0.25, memory_mib=512.0
            )
        writer.event("saved", step=steps, path=f"step-{steps:06d}")
        writer.status(phase=phase or "training", step=steps, **(extra or {}))
        writer.flush()
        if phase is None:
            status = run.status.path.read_bytes()
    if phase is None:
        # As if the process had gone: of another boot.
        run.status.path.write_bytes(status.replace(b'"boot_id":"', b'"boot_id":"not-'))
    return run


def drive(
    app: LobaApp,
    story: Callable[[Pilot[None]], Awaitable[None]],
    *,
    size: tuple[int, int] = (80, 24),
) -> None:
    """Run an app of `size` (columns, rows) and do with it what `story` says."""

    async def main() -> None:
        async with app.run_test(size=size) as pilot:
            await story(pilot)

    asyncio.run(main())


async def until(pilot: Pilot[None], is_so: Callable[[], object], *, seconds: float = 30.0) -> None:
    """Let the app go on until something is so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to be so"
        await pilot.pause(0.02)


async def comes(pilot: Pilot[None], kind: type[Kind]) -> Kind:
    """Wait until a screen or dialog of a kind is shown, and return it."""
    await until(pilot, lambda: isinstance(pilot.app.screen, kind))
    assert isinstance(pilot.app.screen, kind)
    return pilot.app.screen


def recipe_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with the shipped slider as the user's own recipe, and return its parent."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine.yaml").write_text((folder() / "slider_unet.yaml").read_text())
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def shown(pilot: Pilot[None]) -> str:
    """Return what the terminal shows; see `screen_text`."""
    assert isinstance(pilot.app, LobaApp)
    return screen_text(pilot.app)


def screen_text(app: LobaApp) -> str:
    """Return what the terminal would show, row by row."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


def shown_keys(table: MarkTable) -> list[str]:
    """Return the keys of the rows that pass the filter, in their order."""
    return list(table._shown)
