"""The monitor: charts, parts, log, samples, and steering a run that lives."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from dashboard import HOSTILE, drive, make_app, record_run, screen_text, until
from PIL import Image
from textual.pilot import Pilot

from loba_tui.core.program.sampling.strip import strip, strip_png
from loba_tui.core.run import launch, owner
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.ranks import RankState, prepare_ranks
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.records import Status, encode
from loba_tui.screens.monitor.charts_pane import ChartsPane
from loba_tui.screens.monitor.log_view import LogView
from loba_tui.screens.monitor.model import View
from loba_tui.screens.monitor.screen import MonitorScreen
from loba_tui.screens.monitor.strip_cells import StripCells, best_columns, one_scale, open_strip
from loba_tui.widgets.bars import KeyBar
from loba_tui.widgets.dialogs import ConfirmDialog, LineDialog
from loba_tui.widgets.picture import half_blocks

RECIPE = """\
version: 1
name: long
base_model: {id: builtin:shapes-xl}
method:
  name: text_slider
  concepts: [{target: a shape, positive: a large shape, negative: a small shape}]
"""


def monitor(pilot: Pilot[None]) -> MonitorScreen:
    screen = pilot.app.screen_stack[0]
    assert isinstance(screen, MonitorScreen)
    return screen


async def drawn(pilot: Pilot[None]) -> ChartsPane:
    charts = monitor(pilot).query_one(ChartsPane)
    await until(pilot, lambda: "loss" in charts.text)
    return charts


def message(pilot: Pilot[None]) -> str:
    return monitor(pilot).query_one(KeyBar).message


def test_charts_show_values_nan_and_events(tmp_path: Path) -> None:
    run = record_run(tmp_path)

    async def story(pilot: Pilot[None]) -> None:
        charts = await drawn(pilot)
        assert "1 not finite" in charts.text
        assert "✗" in charts.text
        assert "s" in charts.text.splitlines()[-1]
        assert "learning rate" in charts.text
        await pilot.press("enter")
        await until(pilot, lambda: "learning rate" not in charts.text)
        await pilot.press("j")
        await until(pilot, lambda: "learning rate" in charts.text)

    drive(make_app(tmp_path, run), story)


def test_zoom_pan_axis_and_smoothing(tmp_path: Path) -> None:
    run = record_run(tmp_path, steps=100)

    async def story(pilot: Pilot[None]) -> None:
        charts = await drawn(pilot)
        assert charts.text.splitlines()[-1].rstrip().endswith("100s")
        await pilot.press("plus", "plus")
        await until(pilot, lambda: "└75" in charts.text)
        await pilot.press("left")
        await until(pilot, lambda: "└69" in charts.text)
        await pilot.press("0", "l")
        await until(pilot, lambda: "log" in charts.text and "└1─" in charts.text)
        await pilot.press("s", "s", "s")
        await until(pilot, lambda: "~" not in charts.text)
        await pilot.press("slash", *"grad", "enter")
        await until(pilot, lambda: "learning" not in charts.text and "gradient" in charts.text)

    drive(make_app(tmp_path, run), story)


def test_a_view_stays_within_the_run_and_follows_its_end() -> None:
    view = View().zoomed(0.5, 1, 1000)
    assert view.span(1, 1000) == (500.5, 1000)
    assert view.span(1, 1200) == (700.5, 1200)
    back = view.panned(-5, 1, 1000)
    assert back.span(1, 1000) == (1, 500.5)
    assert back.span(1, 1200) == (1, 500.5)
    assert back.panned(9, 1, 1000).right is None
    assert view.zoomed(2, 1, 1000) == View()
    deep = view
    for _ in range(50):
        deep = deep.zoomed(0.5, 1, 1000)
    assert deep.width == 4.0


def test_tab_goes_through_the_parts(tmp_path: Path) -> None:
    run = record_run(tmp_path)
    filler = "filler\n" * 200
    run.log.path.write_text(f"first\n{HOSTILE}\nneedle one\n{filler}needle two\nlast\n")

    async def story(pilot: Pilot[None]) -> None:
        await drawn(pilot)
        await pilot.press("tab")
        await until(pilot, lambda: "host memory" in screen_text(pilot.app))
        await pilot.press("tab")
        await until(pilot, lambda: "none yet" in screen_text(pilot.app))
        await pilot.press("tab")
        await until(pilot, lambda: "last" in screen_text(pilot.app))
        log = monitor(pilot).query_one("#log", LogView)
        await pilot.press("slash", *"needle", "enter")
        assert "needle two" in log.text
        await pilot.press("n")
        assert "needle one" in log.text
        assert "red[/bold][@click=app.quit]x" in log.text
        await pilot.press("G", "slash", "ctrl+g", "slash", *"nowhere")
        assert "nowhere is not there" in message(pilot)
        await pilot.press("enter", "tab")
        await until(pilot, lambda: "device=cpu" in screen_text(pilot.app))

    drive(make_app(tmp_path, run), story)


def test_the_machine_tells_what_the_run_holds_in_memory(tmp_path: Path) -> None:
    held = [{"component": "unet", "bytes": 3 * 2**20, "device": "cpu"}, "odd", {"bytes": "x"}]
    run = record_run(tmp_path, extra={"resident": held})

    async def story(pilot: Pilot[None]) -> None:
        await drawn(pilot)
        await pilot.press("tab")
        await until(pilot, lambda: "3.0 MiB  unet on cpu" in screen_text(pilot.app))
        assert "512 MiB" in screen_text(pilot.app)

    drive(make_app(tmp_path, run), story)


def test_each_process_of_a_run_is_shown_and_a_silent_one_is_named(tmp_path: Path) -> None:
    run = record_run(tmp_path)
    now = time.time()
    prepare_ranks(run)
    RankState(0, "a", 1, "cuda:0", 812, "training", now, now).write(run)
    RankState(3, "b", 2, "cuda:1", 811, "training", now - 40, now - 40).write(run)
    alive = Status("training", 812, 900, now, owner.this_process(), {})
    lock = owner.acquire(run.lock)

    async def story(pilot: Pilot[None]) -> None:
        await drawn(pilot)
        await until(
            pilot, lambda: "rank 3 on b silent for 40 s at step 811" in screen_text(pilot.app)
        )
        await pilot.press("tab")
        table = "rank 3 b cuda:1 step 811 training, silent for 40 s"
        await until(pilot, lambda: table in " ".join(screen_text(pilot.app).split()))

    try:
        run.status.replace(encode(alive.as_json()))
        drive(make_app(tmp_path, run), story)
    finally:
        os.close(lock)


def test_a_large_terminal_shows_all_parts_at_once(tmp_path: Path) -> None:
    run = record_run(tmp_path)

    async def story(pilot: Pilot[None]) -> None:
        await drawn(pilot)
        shown = screen_text(pilot.app)
        for words in ("gradient norm", "host memory", "samples", "log", "events"):
            assert words in shown
        await pilot.press("f")
        await until(pilot, lambda: "host memory  " not in screen_text(pilot.app))

    drive(make_app(tmp_path, run), story, size=(120, 40))


def test_a_run_is_steered_and_its_answers_are_shown(tmp_path: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await drawn(pilot)
        await pilot.press("P")
        await until(pilot, lambda: "pause: paused at step" in message(pilot))
        await until(pilot, lambda: "paused" in screen_text(pilot.app).splitlines()[1])
        await pilot.press("equals_sign")
        assert isinstance(pilot.app.screen, LineDialog)
        await pilot.press(*"x", "enter")
        await until(pilot, lambda: "expected" in screen_text(pilot.app))
        await pilot.press("backspace", *"1e-5", "enter")
        await until(pilot, lambda: "optimizer.lr" in message(pilot) and "1e-05" in message(pilot))
        await pilot.press("S")
        await until(pilot, lambda: "save: saved at step" in message(pilot))
        await pilot.press("R")
        await until(pilot, lambda: "resume: goes on" in message(pilot))
        await pilot.press("X")
        assert isinstance(pilot.app.screen, ConfirmDialog)
        await pilot.press("y")
        await until(pilot, lambda: "stop: stopped at step" in message(pilot))
        await until(pilot, lambda: "stopped" in screen_text(pilot.app).splitlines()[1])
        # What a stopped run cannot do is offered no longer.
        actions = {each.binding.action for each in monitor(pilot).active_bindings.values()}
        assert "stop" not in actions
        assert "go_on" in actions

    app = make_app(tmp_path)
    run = RunDir.create(app.context.out_dir, "long", ledger=app.context.ledger)
    run.recipe.path.write_text(RECIPE)
    launch.launch(run, program=app.context.program)
    drive(make_app(tmp_path, run), story)
    assert not RunReader(run).liveness().is_alive


def test_leaving_never_touches_the_run(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    run = RunDir.create(app.context.out_dir, "long", ledger=app.context.ledger)
    run.recipe.path.write_text(RECIPE)
    process = launch.launch(run, program=app.context.program)

    async def story(pilot: Pilot[None]) -> None:
        await drawn(pilot)
        await pilot.press("q")

    drive(make_app(tmp_path, run), story)
    assert process.poll() is None
    assert list(run.control.path.iterdir()) == []
    process.kill()
    process.wait()


def make_strip(run: RunDir, step: int, colors: list[tuple[int, int, int]]) -> None:
    images = np.zeros((2, 1, len(colors), 8, 8, 3))
    for number, color in enumerate(colors):
        images[:, :, number] = np.array(color) / 255
    scales = [float(i) for i in range(len(colors))]
    sheet = strip(images, scales=scales, prompts=["a", "b"], seeds=[0])
    run.sample_strip(step).replace(strip_png(sheet))


def test_samples_are_stepped_through_by_step_and_scale(tmp_path: Path) -> None:
    run = record_run(tmp_path)
    make_strip(run, 10, [(255, 0, 0), (0, 255, 0)])
    make_strip(run, 20, [(255, 0, 0), (0, 0, 255)])

    async def story(pilot: Pilot[None]) -> None:
        await drawn(pilot)
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: "step-000020  2/2  all scales" in screen_text(pilot.app))
        await pilot.press("full_stop", "full_stop")
        await until(pilot, lambda: "scale +1" in screen_text(pilot.app))
        assert "▀" in screen_text(pilot.app)
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: "step-000010  1/2  scale +1" in screen_text(pilot.app))
        await pilot.press("comma", "comma", "comma")
        await until(pilot, lambda: "all scales" in screen_text(pilot.app))

    drive(make_app(tmp_path, run), story)


def test_one_scale_is_cut_out_of_a_strip(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.samples.path.mkdir()
    make_strip(run, 1, [(255, 0, 0), (0, 255, 0), (0, 0, 255)])
    image, cells = open_strip(run.sample_strip(1))
    assert cells.scales == (0.0, 1.0, 2.0)
    green = one_scale(image, cells, 1, 2)
    assert green.getpixel((3, 3)) == (0, 255, 0)
    assert green.getpixel((green.width - 3, 3)) == (0, 255, 0)
    assert best_columns(4, (10, 10), (100, 20)) == 4
    assert best_columns(4, (10, 10), (20, 100)) == 1


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"size": [0, 1], "x": [1], "y": [1], "scales": [1]}', json.dumps({"x": 1})],
)
def test_a_strip_that_does_not_say_where_its_images_are_is_shown_whole(text: str) -> None:
    assert StripCells.of(text) == StripCells()


def test_half_blocks_keep_colours_and_shape() -> None:
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    image.paste((0, 0, 255), (0, 2, 4, 4))
    rows = half_blocks(image, 4, 10)
    assert [row.text for row in rows] == ["▀▀▀▀"] * 2
    assert rows[0]._segments[0].style.color.triplet == (255, 0, 0)
    assert rows[1]._segments[0].style.bgcolor.triplet == (0, 0, 255)
    assert half_blocks(image, 0, 5) == []
    assert len(half_blocks(image, 80, 3)) == 3


def test_without_a_run_it_tells_where_to_find_one_and_takes_the_newest(tmp_path: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await pilot.press("2")
        await until(pilot, lambda: "No run to watch" in screen_text(pilot.app))
        record_run(tmp_path)
        await drawn(pilot)

    drive(make_app(tmp_path), story)


def test_charts_of_the_run_come_first_however_late_it_begins(tmp_path: Path) -> None:
    run = record_run(tmp_path, steps=0, phase=None)

    async def story(pilot: Pilot[None]) -> None:
        charts = monitor(pilot).query_one(ChartsPane)
        await until(pilot, lambda: "host memory" in charts.text)
        with run.metrics.path.open("a") as stream:
            for step in range(1, 20):
                stream.write(f'{{"step": {step}, "loss": 0.5, "a": 1, "b": 2, "c": 3}}\n')
        await drawn(pilot)
        assert charts.selected == "loss"

    drive(make_app(tmp_path, run), story)


@pytest.mark.parametrize("mode", ["kitty", "sixel", "off"])
def test_samples_in_a_terminals_own_pictures_or_none(mode: str, tmp_path: Path) -> None:
    run = record_run(tmp_path)
    make_strip(run, 10, [(255, 0, 0), (0, 255, 0)])

    async def story(pilot: Pilot[None]) -> None:
        await drawn(pilot)
        await pilot.press("right_square_bracket")
        words = "pictures are off" if mode == "off" else "1/1  all scales"
        await until(pilot, lambda: words in screen_text(pilot.app))
        await pilot.press("full_stop")
        await until(pilot, lambda: "1/1  all scales" not in screen_text(pilot.app))
        assert "▀" not in screen_text(pilot.app)

    drive(make_app(tmp_path, run, images=mode), story)


STRANGERS_RECIPE = RECIPE.replace("builtin:shapes-xl", "stranger/model")


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_run_from_elsewhere_is_asked_about_before_it_goes_on(tmp_path: Path, answer: str) -> None:
    run = record_run(tmp_path, phase="stopped")
    (run.path / "recipe.yaml").write_text(STRANGERS_RECIPE)
    app = make_app(tmp_path, run)
    started: list[RunDir] = []

    async def story(pilot: Pilot[None]) -> None:
        await drawn(pilot)
        # As if another user had made it: it is in no list of this user's.
        app.context.ledger.path.write_text("")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(launch, "launch", lambda run, **_: started.append(run))
            await pilot.press("R")
            await until(pilot, lambda: isinstance(app.screen, ConfirmDialog))
            await until(pilot, lambda: "stranger/model" in screen_text(app))
            assert not started
            await pilot.press(answer)
            await until(pilot, lambda: not isinstance(app.screen, ConfirmDialog))
            if answer == "y":
                await until(pilot, lambda: started == [run])
            else:
                await pilot.pause()
                assert not started

    drive(app, story, size=(120, 40))


def test_a_run_from_elsewhere_may_not_name_folders_of_this_machine(tmp_path: Path) -> None:
    run = record_run(tmp_path, phase="stopped")
    (run.path / "recipe.yaml").write_text(RECIPE.replace("builtin:shapes-xl", "/private/model"))
    app = make_app(tmp_path, run)

    async def story(pilot: Pilot[None]) -> None:
        await drawn(pilot)
        app.context.ledger.path.write_text("")
        await pilot.press("R")
        await until(pilot, lambda: "--allow-path" in message(pilot))

    drive(app, story, size=(200, 40))
