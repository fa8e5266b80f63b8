"""The Cache screen on a cache as the hub's client makes it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import hub_layouts as layouts
import pytest
from dashboard import HOSTILE, comes, drive, environment, make_app, shown, shown_keys, until
from textual.pilot import Pilot

from loba_tui.app import LobaApp
from loba_tui.client.runs import steer as runs
from loba_tui.core.associate.caches.hub.cache import HubCache
from loba_tui.core.associate.caches.hub.requests import Target
from loba_tui.core.associate.caches.transfer import pull as hub_pull
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.writer import RunWriter
from loba_tui.screens.cache import tree as cache_tree
from loba_tui.screens.cache.screen import CacheScreen
from loba_tui.widgets.dialogs import ChoiceDialog, ConfirmDialog, LineDialog, TextDialog
from loba_tui.widgets.table import MarkTable

DAY = 86400
ONE, TWO = layouts.commit_of("one"), layouts.commit_of("two")
MODEL = "models--org--model"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "hub"
    files = {"c.json": b"{}", "unet/w.safetensors": b"1" * 70_000}
    layouts.add_revision(root, "org/model", ONE, files, age=90 * DAY)
    layouts.add_revision(root, "org/model", TWO, {"c.json": b"{2}"}, ref="main", age=9 * DAY)
    layouts.add_revision(root, "org/data", TWO[::-1], {"d.txt": b"d"}, kind="dataset", age=DAY)
    work = tmp_path / "work"
    (work / "recipes").mkdir(parents=True)
    (work / "recipes" / "mine.yaml").write_text("base_model:\n  id: org/model\n")
    monkeypatch.chdir(work)
    return tmp_path


def app_at(home: Path) -> LobaApp:
    environ = environment(home) | {"HF_HUB_CACHE": str(home / "hub")}
    return make_app(home, environ=environ)


async def opened(pilot: Pilot[None], num_rows: int = 2) -> MarkTable:
    await pilot.press("3")
    await comes(pilot, CacheScreen)
    table = pilot.app.screen.query_one("#tree", MarkTable)
    await until(pilot, lambda: len(shown_keys(table)) == num_rows)
    return table


def snapshots(home: Path) -> set[str]:
    return {path.name for path in (home / "hub" / MODEL / "snapshots").glob("*")}


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_the_tree_opens_down_to_its_files(home: Path, size: tuple[int, int]) -> None:
    async def story(pilot: Pilot[None]) -> None:
        table = await opened(pilot)
        await pilot.press("enter", "j", "l")
        await until(pilot, lambda: len(shown_keys(table)) > 4)
        text = shown(pilot)
        for word in ("▾ org/model", ONE[:12], TWO[:12], "c.json", "dataset/org/data", "70.0 KB"):
            assert word in text
        assert "██████████" in text
        assert len(text.splitlines()) == size[1]
        assert ("unet/w.safetensors" in text) or len(shown_keys(table)) == 5
        await pilot.press("j", "h", "h", "h", "h")
        await until(pilot, lambda: len(shown_keys(table)) == 2)
        assert table.cursor_key == MODEL

    drive(app_at(home), story, size=size)


def test_deleting_shows_the_plan_and_undo_brings_everything_back(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("d")
        dialog = await comes(pilot, ConfirmDialog)
        assert "org/model: all of it, 70.0 KB" in dialog.text
        assert "breaks 1 recipe" in dialog.text
        assert "loba cache rm org/model" in dialog.text
        await pilot.press("n")
        assert snapshots(home) == {ONE, TWO}
        await pilot.press("d", "y")
        await until(pilot, lambda: not (home / "hub" / MODEL).exists())
        await until(pilot, lambda: "z brings it back" in shown(pilot))
        await pilot.press("z")
        await until(pilot, lambda: snapshots(home) == {ONE, TWO})
        await until(pilot, lambda: "brought back org/model" in shown(pilot))

    drive(app_at(home), story)


def test_marked_revisions_and_files_go_together(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        table = await opened(pilot)
        await pilot.press("enter", "j", "l")
        await until(pilot, lambda: len(shown_keys(table)) > 4)
        keys = [f"{MODEL}@{ONE}:unet/w.safetensors", f"{MODEL}@{TWO}"]
        for key in keys:
            if key not in shown_keys(table):
                table.go_to(f"{MODEL}@{ONE}")
                await pilot.press("l")
                await until(pilot, lambda key=key: key in shown_keys(table))
            table.go_to(key)
            await pilot.press("space")
        assert set(table.marked) == set(keys)
        assert "2 marked" in shown(pilot)
        await pilot.press("d")
        await comes(pilot, ConfirmDialog)
        await pilot.press("y")
        await until(pilot, lambda: snapshots(home) == {ONE})
        folder = home / "hub" / MODEL / "snapshots" / ONE
        assert [path.name for path in folder.rglob("*") if not path.is_dir()] == ["c.json"]

    drive(app_at(home), story, size=(120, 40))


def test_a_pin_is_set_seen_respected_and_taken_away(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("p")
        await until(pilot, lambda: "pinned org/model" in shown(pilot))
        cache = HubCache(home / "hub")
        assert cache.pins() == {Target(MODEL)}
        await pilot.press("d")
        dialog = await comes(pilot, TextDialog)
        assert not isinstance(dialog, ConfirmDialog)
        assert "pinned" in dialog.text
        await pilot.press("q", "p")
        await until(pilot, lambda: not cache.pins())

    drive(app_at(home), story)


def test_what_needs_a_model_is_told(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("w")
        dialog = await comes(pilot, TextDialog)
        assert "recipe recipes/mine.yaml" in dialog.text
        assert ONE in dialog.text

    drive(app_at(home), story)


def test_filter_and_order(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        table = await opened(pilot)
        assert shown_keys(table) == [MODEL, "datasets--org--data"]
        await pilot.press("O")
        assert shown_keys(table) == ["datasets--org--data", MODEL]
        await pilot.press("o", "o", "o")
        assert "by name" in shown(pilot)
        await pilot.press("slash", *"size>10kb")
        await until(pilot, lambda: shown_keys(table) == [MODEL])
        await pilot.press("escape")
        await until(pilot, lambda: len(shown_keys(table)) == 2)
        await pilot.press("slash", *"dat", "enter")
        await until(pilot, lambda: shown_keys(table) == ["datasets--org--data"])
        await pilot.press("slash", *" sizes>1")
        await until(pilot, lambda: "Did you mean size" in shown(pilot))

    drive(app_at(home), story, size=(120, 40))


def test_every_file_is_verified_and_a_damaged_one_is_named(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("V")
        await until(pilot, lambda: "verified: 3 good" in shown(pilot))
        blob = next(p for p in (home / "hub" / MODEL / "blobs").iterdir() if p.stat().st_size > 99)
        blob.write_bytes(b"2" * 70_000)
        await pilot.press("V")
        dialog = await comes(pilot, TextDialog)
        assert "unet/w.safetensors" in dialog.text
        assert "1 damaged" in shown(pilot)

    drive(app_at(home), story)


def test_pruning_and_emptying_the_trash(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("x")
        await comes(pilot, ChoiceDialog)
        await pilot.press(*"90 days", "enter")
        await comes(pilot, ConfirmDialog)
        await pilot.press("y")
        await until(pilot, lambda: snapshots(home) == {TWO})
        await comes(pilot, CacheScreen)
        await pilot.press("T")
        await comes(pilot, ChoiceDialog)
        await pilot.press(*"empty", "enter")
        await comes(pilot, ConfirmDialog)
        await pilot.press("y")
        await until(pilot, lambda: not HubCache(home / "hub").trash())
        await until(pilot, lambda: "freed 70.0 KB" in shown(pilot))
        await pilot.press("z")
        await until(pilot, lambda: "nothing to undo" in shown(pilot))

    drive(app_at(home), story)


def pull_plan() -> Any:
    files = tuple(hub_pull.WantedFile(f"f{i}", 1000, False) for i in range(3))
    return hub_pull.PullPlan("org/new", "main", ONE, files, ())


def test_a_pull_is_planned_confirmed_and_followed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, asked = threading.Event(), []

    def plan_pull(model_id: str, revision: str | None, **rest: Any) -> Any:
        asked.append((model_id, revision))
        return pull_plan()

    def pull(plan: Any, report: Any) -> Path:
        report(None, 1500)
        go_on.wait(30)
        layouts.add_revision(home / "hub", "org/new", ONE, {"f0": b"x"}, ref="main")
        return home / "hub"

    monkeypatch.setattr(hub_pull, "plan_pull", plan_pull)
    monkeypatch.setattr(hub_pull, "pull", pull)

    async def story(pilot: Pilot[None]) -> None:
        table = await opened(pilot)
        await pilot.press("n")
        await comes(pilot, LineDialog)
        await pilot.press(*"new", "enter")
        assert "Expected owner/name" in shown(pilot)
        await pilot.press("ctrl+u", *"org/new@main", "enter")
        await comes(pilot, ConfirmDialog)
        assert asked == [("org/new", "main")]
        assert "Fetch 3.0 KB?" in shown(pilot)
        await pilot.press("y")
        await until(pilot, lambda: "1.5 KB of 3.0 KB, 0 of 3 files" in shown(pilot))
        await pilot.press("V")
        await until(pilot, lambda: "One pull or check at a time" in shown(pilot))
        go_on.set()
        await until(pilot, lambda: len(shown_keys(table)) == 3)
        assert not pilot.app.screen.query_one("#progress").display

    drive(app_at(home), story, size=(120, 40))


def test_a_pull_can_be_ended_and_leaving_ends_it_too(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def pull(plan: Any, report: Any) -> Path:
        try:
            for _ in range(3000):
                report(None, 1)
                time.sleep(0.01)
        finally:
            ended.set()
        return home

    monkeypatch.setattr(hub_pull, "plan_pull", lambda *_, **__: pull_plan())
    monkeypatch.setattr(hub_pull, "pull", pull)

    async def begin(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("n")
        await comes(pilot, LineDialog)
        await pilot.press(*"org/new", "enter")
        await comes(pilot, ConfirmDialog)
        await pilot.press("y")
        await until(pilot, lambda: "of 3 files" in shown(pilot))

    async def story(pilot: Pilot[None]) -> None:
        await begin(pilot)
        await pilot.press("X")
        await until(pilot, lambda: "what came is kept" in shown(pilot))
        assert ended.is_set()

    drive(app_at(home), story)
    ended.clear()
    drive(app_at(home), begin)
    assert ended.wait(30)


def test_what_living_runs_hold_is_shown_and_moved(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir.create(home / "output", f"size{'x' * 3}", ledger=Ledger.of_user(environment(home)))
    run.recipe.path.write_text("base_model:\n  id: org/model\n")
    sent: list[tuple[str, object]] = []

    def steer(run_dir: RunDir, command: runs.Command) -> str:
        sent.append((command.kind, command.args["component"]))
        return "unloaded vae"

    monkeypatch.setattr(runs, "steer", steer)
    resident = [{"component": HOSTILE, "bytes": 5, "device": "cpu", "dtype": "float32"}]
    resident.append({"component": "vae", "bytes": 3_000_000, "device": "cuda:0", "dtype": "bf16"})

    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot, num_rows=5)
        text = shown(pilot)
        assert "3.0 MB" in text
        assert "[@click=app.quit]" in text
        assert not set(text) & set("\x1b\x07\u202e")
        assert "in-use" in text
        await pilot.press("u")
        await until(pilot, lambda: "moves components in memory" in shown(pilot))
        await pilot.press("j", "j", "u")
        await until(pilot, lambda: sent == [("unload", "vae")])

    with RunWriter.open(run) as writer:
        writer.status(phase="training", step=1, total=9, resident=resident, unloaded=[])
        drive(app_at(home), story, size=(120, 40))


def test_an_empty_or_missing_cache_tells_how_to_begin(tmp_path: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await pilot.press("3")
        await until(pilot, lambda: "Nothing is cached yet" in shown(pilot))
        for key in ("d", "p", "V", "w", "x", "escape", "T", "z", "y", "h", "l", "u"):
            await pilot.press(key)
        for size in ((1, 1), (20, 5), (60, 15), (300, 100)):
            await pilot.resize_terminal(*size)

    drive(app_at(tmp_path), story)


def test_hostile_names_stay_text(home: Path) -> None:
    evil = f"e{HOSTILE.replace('/', '_')}"
    layouts.add_revision(home / "hub", f"org/{evil}", ONE, {evil: b"x"}, ref="main")

    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot, num_rows=3)
        await pilot.press("G", "l", "j", "l", "w")
        await comes(pilot, TextDialog)
        await pilot.press("q", "d")
        await comes(pilot, TextDialog)
        text = shown(pilot)
        assert "[@click=app.quit]" in text
        assert not set(text) & set("\x1b\x07\u202e")

    drive(app_at(home), story, size=(120, 40))


def test_a_filters_words_are_those_of_the_command() -> None:
    tests, problem = cache_tree.parse_filters("model size>1kb nope>3")
    assert len(tests) == 2
    assert "nope" in problem
