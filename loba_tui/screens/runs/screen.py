"""Every run of this user, newest first: look, compare, stop, resume, delete, start."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widget import Widget

from loba_tui.client.runs import steer as runs
from loba_tui.client.runs.summary import RunSummaries, RunSummary
from loba_tui.core.recipe import shipped
from loba_tui.screens.base import FILTER, asks
from loba_tui.screens.runs.rows import COLUMNS, DeletionPlan, removed, same_as, short_row
from loba_tui.screens.runs.starting import start_recipe
from loba_tui.screens.runs.sweeps import SweepGroup, folder_of, list_rows, sweep_groups
from loba_tui.screens.table_screen import Known, TableScreen
from loba_tui.widgets.dialogs import Choice, ChoiceDialog, ConfirmDialog, TextDialog
from loba_tui.widgets.line import Lines, Piece
from loba_tui.widgets.table import MarkTable

EXAMPLE = "slider"
"""The recipe that a first start is pointed to."""

_WELCOME: list[list[Piece]] = [
    [("No runs yet.", "strong")],
    [""],
    ["Press ", ("n", "key"), " to choose a recipe; ", (EXAMPLE, "strong"), " is the"],
    ["embedded example: it trains an SD-XL slider on this machine,"],
    ["needs no GPU and no download, takes a few minutes, and then"],
    ["measures what the slider does."],
    [""],
    [("?", "key"), " shows all keys, ", (":", "key"), " all actions, ", ("q", "key"), " leaves."],
]


class RunsScreen(TableScreen):
    """The list of runs."""

    TABLE = "#runs"
    BINDING_GROUP_TITLE = "Runs"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "start", "new run", id="runs.start"),
        Binding("c", "compare", "compare", id="runs.compare"),
        Binding("X", "stop", "stop and save", show=False, id="runs.stop"),
        Binding("R", "resume", "resume", id="runs.resume"),
        Binding("d", "delete", "delete", id="runs.delete"),
        Binding("y", "copy", "copy the folder's path", show=False, id="runs.copy"),
        Binding("z", "fold", "open or close a sweep", show=False, id="runs.fold"),
        FILTER,
    ]

    def __init__(self) -> None:
        super().__init__()
        self._reader: RunSummaries | None = None
        self._summaries: dict[str, RunSummary] = {}
        self._groups: dict[str, SweepGroup] = {}
        self._opened: set[str] = set()

    def compose_body(self) -> Iterable[Widget]:
        yield MarkTable(COLUMNS, id="runs")
        with Vertical(id="empty"):
            yield Lines(_WELCOME, id="welcome")

    def on_mount(self) -> None:
        self._reader = RunSummaries(self.context.ledger)
        self.query_one("#empty").display = False
        self.set_interval(self.context.seconds, self.look)
        self.look()

    def shown_again(self) -> None:
        self.look()

    def look(self) -> None:
        """Read what has changed, unless nobody sees it."""
        if self._reader is not None and self.app.screen_stack[0] is self:
            self.work_latest("look", self._reader.look, self._show)

    def _show(self, summaries: list[RunSummary]) -> None:
        self._summaries = {str(summary.run.path): summary for summary in summaries}
        self._groups = sweep_groups(summaries)
        self._show_rows()
        table = self.table
        is_empty = not summaries
        if is_empty == table.display:
            table.display = not is_empty
            self.query_one("#empty").display = is_empty
            if not is_empty:
                table.focus()
        self._summarize()

    def _show_rows(self) -> None:
        """Show runs and sweeps; a filter looks into all of them."""
        opened = self._groups.keys() if self.table.filter.text else self._opened
        rows = list_rows(list(self._summaries.values()), self._groups, opened, time.time())
        self.table.set_rows(rows)

    def _summarize(self) -> None:
        num_alive = sum(s.liveness.is_alive for s in self._summaries.values())
        rows = self.table.summary("rows" if self._groups else "runs")
        runs = f"{len(self._summaries)} runs, " if self._groups else ""
        self.about(f"{num_alive} alive of {runs}{rows}")

    def one_line(self) -> str:
        alive = [s for s in self._summaries.values() if s.liveness.is_alive]
        if not alive:
            return f"{len(self._summaries)} runs, none alive"
        newest = alive[0]
        return f"{newest.step}/{newest.total} {newest.liveness.state} {newest.run.name}"

    def on_mark_table_marked(self, event: MarkTable.Marked) -> None:
        self._summarize()

    def filter_changed(self, text: str) -> str:
        problem = super().filter_changed(text)
        self._show_rows()
        self._summarize()
        return problem

    def chosen(self, known: Mapping[str, Known]) -> list[Known]:
        """Return what the marked rows stand for; a sweep's row stands for its runs."""
        keys: dict[str, None] = {}
        for key in self.table.chosen:
            group = self._groups.get(key)
            of_it = [key] if group is None else [str(each.run.path) for each in group.runs]
            keys |= dict.fromkeys(of_it)
        return [known[key] for key in keys if key in known]

    # Actions

    def action_fold(self) -> None:
        """Open or close the sweep under the cursor, or the one that its run belongs to."""
        key = self.table.cursor_key or ""
        found = (
            g.key for g in self._groups.values() if any(str(s.run.path) == key for s in g.runs)
        )
        wanted = key if key in self._groups else next(found, None)
        if wanted is None:
            self.tell("This run is of no sweep.", "warn")
            return
        self._opened ^= {wanted}
        self._show_rows()
        self.table.go_to(wanted)
        self._summarize()

    def on_mark_table_chosen(self, event: MarkTable.Chosen) -> None:
        if event.key in self._groups:
            self.action_fold()
            return
        summary = self._summaries.get(event.key)
        if summary is not None:
            self.loba.watch_run(summary.run)

    def action_compare(self) -> None:
        """Lay the marked runs over the one under the cursor, in the monitor."""
        here = self.here(self._summaries)
        others = [s.run for s in self.chosen(self._summaries) if here is None or s.run != here.run]
        if here is None or not others:
            self.tell("Mark other runs with space, then compare the one under the cursor.", "warn")
            return
        self.loba.watch_run(here.run, others)

    @asks
    async def action_stop(self) -> None:
        chosen = [s for s in self.chosen(self._summaries) if s.can_stop]
        if not chosen:
            self.tell("None of these is alive or queued.", "warn")
            return
        rows: list[list[Piece]] = [short_row(s) for s in chosen]
        rows += [[""], ["Each saves and ends; ", ("R", "key"), " goes on with it later."]]
        rows += same_as("stop", chosen)
        if await self.ask(ConfirmDialog("Stop and save?", rows, "stop")):
            self._each(chosen, lambda s: runs.stop(s.run, self.context.queue))

    def action_resume(self) -> None:
        """Let paused runs go on and start ended ones from their checkpoints."""
        self._each(self.chosen(self._summaries), lambda s: runs.resume(s.run, self.context.program))

    @asks
    async def action_delete(self) -> None:
        chosen = self.chosen(self._summaries)
        if not chosen:
            return
        plan = await self.in_thread(DeletionPlan.of, chosen)
        if not plan.removable:
            await self.ask(TextDialog(plan.title, plan.rows))
        elif await self.ask(ConfirmDialog(plan.title, plan.rows, "delete")):
            self._each(plan.removable, removed)
            self.table.unmark()

    def _each(self, chosen: Sequence[RunSummary], act: Callable[[RunSummary], str]) -> None:
        for summary in chosen:
            self.work(partial(act, summary), partial(self._tell_done, summary.run.name))

    def _tell_done(self, name: str, text: str) -> None:
        self.tell(text if name in text else f"{name}: {text}", "good")
        self.look()

    @asks
    async def action_start(self) -> None:
        names = sorted(shipped.names(), key=lambda name: (name != EXAMPLE, name))
        choices = [Choice(n, n, "the embedded example" if n == EXAMPLE else "") for n in names]
        name = await self.ask(ChoiceDialog("Start which recipe?", choices))
        run = await start_recipe(self, Path(name)) if name is not None else None
        if run is not None:
            self.tell(f"started {run.name}", "good")
            self.look()

    def action_copy(self) -> None:
        key = self.table.cursor_key
        if key is not None:
            self.copy(folder_of(key))
