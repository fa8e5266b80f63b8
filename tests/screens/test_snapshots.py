"""What the Runs and Monitor screens look like, cell by cell, in three sizes and two palettes.

After a wanted change: LOBA_SNAPSHOTS=write pytest tests/screens/test_snapshots.py, then look at the
difference in git.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from dashboard import drive, environment, make_app, shown_keys, until
from snapshots import compare
from textual.pilot import Pilot

from loba_tui.client.machine.state import Machine, MachineState
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.screens.monitor import screen as monitor
from loba_tui.screens.monitor.charts_pane import ChartsPane
from loba_tui.screens.runs import screen as runs
from loba_tui.widgets.table import MarkTable

NOON = 1_795_000_000.0
SIZES = [(80, 24), (120, 40), (200, 60)]


def fixed_run(home: Path, name: str, phase: str, num_steps: int) -> RunDir:
    """Record a run in which nothing depends on the clock or on chance."""
    run = RunDir(home / "output" / name)
    run.samples.path.mkdir(parents=True)
    run.recipe.path.write_text("method:\n  name: text_slider\n")
    status = {"phase": phase, "step": num_steps, "total": 300, "heartbeat": NOON}
    run.status.path.write_text(json.dumps({"version": 1, **status}))
    with run.metrics.path.open("w") as stream:
        for step in range(1, num_steps + 1):
            loss = '"NaN"' if step == 50 else 1 / step + (3.0 if step == 90 else 0.0)
            stream.write(
                f'{{"step": {step}, "time": {NOON + step}, "loss": {loss}, "lr": 0.0001,'
                f' "grad_norm": {1 + step % 7}, "seconds": 0.5, "memory_mib": 700.0}}\n'
            )
    events = [
        {"event": "built", "time": NOON, "device": "cpu"},
        {"event": "saved", "time": NOON + 60, "step": 60},
        {"event": "warning", "time": NOON + 100.5, "message": "a warning [/bold]"},
    ]
    run.events.path.write_text(
        "".join(json.dumps({"version": 1, **each}) + "\n" for each in events)
    )
    run.log.path.write_text("one line\nand another\n")
    Ledger.of_user(environment(home)).register(run)
    return run


@pytest.fixture(autouse=True)
def fixed_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock, and let the machine be the same everywhere."""
    state = MachineState(NOON, 8.0, 32.0, 25.0, gpu_error="no NVIDIA driver here: NVML is missing")
    monkeypatch.setattr(Machine, "look", lambda machine, process: state)
    monkeypatch.setattr(runs.time, "time", lambda: NOON + 7200)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def colors(home: Path, palette: str) -> dict[str, object]:
    poor = {"COLORTERM": "", "TERM": "xterm"} if palette == "16" else {}
    return {"environ": {**environment(home), **poor}}


@pytest.mark.parametrize("palette", ["true", "16"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_runs(tmp_path: Path, size: tuple[int, int], palette: str) -> None:
    fixed_run(tmp_path, "size-slider-20261118-100000-aaaa", "finished", 300)
    fixed_run(tmp_path, "age-slider-20261118-110000-bbbb", "failed", 120)
    fixed_run(tmp_path, "a-name-of-very-many-words-20261118-120000-cccc", "stopped", 70)

    async def story(pilot: Pilot[None]) -> None:
        table = pilot.app.screen.query_one(MarkTable)
        await until(pilot, lambda: len(shown_keys(table)) == 3)
        await pilot.press("space")
        await compare(pilot, f"runs-{size[0]}x{size[1]}-{palette}")

    drive(make_app(tmp_path, **colors(tmp_path, palette)), story, size=size)


@pytest.mark.parametrize("palette", ["true", "16"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_monitor(tmp_path: Path, size: tuple[int, int], palette: str) -> None:
    run = fixed_run(tmp_path, "size-slider-20261118-100000-aaaa", "stopped", 200)

    async def story(pilot: Pilot[None]) -> None:
        screen = pilot.app.screen
        assert isinstance(screen, monitor.MonitorScreen)
        charts = screen.query_one(ChartsPane)
        await until(pilot, lambda: "1 not finite" in charts.text and "!" in charts.text)
        await pilot.press("l")
        await until(pilot, lambda: "log" in charts.text)
        await compare(pilot, f"monitor-{size[0]}x{size[1]}-{palette}")

    drive(make_app(tmp_path, run, **colors(tmp_path, palette)), story, size=size)
