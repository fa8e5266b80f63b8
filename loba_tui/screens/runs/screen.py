"""Every run of this user, newest first: look, compare, stop, resume, delete, start."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widget import Widget

from loba_tui.client.runs import steer as runs
from loba_tui.client.runs.summary import RunSummary, RunWatcher
from loba_tui.core.recipe import shipped
from loba_tui.core.run.directory import RunDir
from loba_tui.screens.base import FILTER, LobaScreen
from loba_tui.screens.runs.rows import (
    COLUMNS,
    DeletionPlan,
    removed,
    run_row,
    same_as,
    short_row,
    start,
    start_rows,
)
from loba_tui.widgets.dialogs import Choice, ChoiceDialog, ConfirmDialog, TextDialog
from loba_tui.widgets.line import Lines, Piece
from loba_tui.widgets.table import MarkTable

EXAMPLE = "slider"
"""The recipe that a first start is pointed to."""


class RunsScreen(LobaScreen):
    """The list of runs."""

    BINDING_GROUP_TITLE = "Runs"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "start", "new run", id="runs.start"),
        Binding("c", "compare", "compare", id="runs.compare"),
        Binding("X", "stop", "stop and save", show=False, id="runs.stop"),
        Binding("R", "resume", "resume", id="runs.resume"),
        Binding("d", "delete", "delete", id="runs.delete"),
        Binding("y", "copy", "copy the folder's path", show=False, id="runs.copy"),
        FILTER,
    ]

    def __init__(self) -> None:
        """Know no runs yet."""
        super().__init__()
        self._watcher: RunWatcher | None = None
        self._summaries: dict[str, RunSummary] = {}
        self._is_looking = False

    def compose_body(self) -> Iterable[Widget]:
        """Yield the table, and what is shown where there are no runs."""
        yield MarkTable(COLUMNS, id="runs")
        with Vertical(id="empty"):
            yield Lines(id="welcome")

    def on_mount(self) -> None:
        """Look at once, and then again and again."""
        self._watcher = RunWatcher(self.context.ledger)
        self.query_one("#empty").display = False
        self.set_interval(self.context.seconds, self.look)
        self.look()

    def shown_again(self) -> None:
        """Look at once."""
        self.look()

    def look(self) -> None:
        """Read what has changed, unless that goes on already or nobody sees it."""
        if self._is_looking or self._watcher is None or self.app.screen_stack[0] is not self:
            return
        self._is_looking = True
        self.work(self._watcher.look, self._show, group="look")

    def _show(self, summaries: list[RunSummary]) -> None:
        self._is_looking = False
        self._summaries = {str(summary.run.path): summary for summary in summaries}
        table = self.query_one("#runs", MarkTable)
        now = time.time()
        table.set_rows([run_row(summary, now) for summary in summaries])
        is_empty = not summaries
        if is_empty == table.display:
            table.display = not is_empty
            self.query_one("#empty").display = is_empty
            if is_empty:
                self._welcome()
            else:
                table.focus()
        self._summarize()

    def _summarize(self) -> None:
        num_alive = sum(s.liveness.is_alive for s in self._summaries.values())
        table = self.query_one("#runs", MarkTable)
        self.about(f"{num_alive} alive of {table.summary('runs')}")

    def _welcome(self) -> None:
        rows: list[list[Piece]] = [
            [("No runs yet.", "strong")],
            [""],
            ["Press ", ("n", "key"), " to choose a recipe; ", (EXAMPLE, "strong"), " is the"],
            ["embedded example: it trains an SD-XL slider on this machine,"],
            ["needs no GPU and no download, takes a few minutes, and then"],
            ["measures what the slider does."],
            [""],
            [("?", "key"), " shows all keys, ", (":", "key"), " all actions, ", ("q", "key")],
        ]
        rows[-1].append(" leaves.")
        self.query_one("#welcome", Lines).show(rows)

    def one_line(self) -> str:
        """Return how many runs are alive, and the newest of them."""
        alive = [s for s in self._summaries.values() if s.liveness.is_alive]
        if not alive:
            return f"{len(self._summaries)} runs, none alive"
        newest = alive[0]
        return f"{newest.step}/{newest.total} {newest.liveness.state} {newest.run.name}"

    def on_mark_table_marked(self, event: MarkTable.Marked) -> None:
        """Count the marks."""
        self._summarize()

    def filter_changed(self, text: str) -> str:
        """Filter the table."""
        problem = self.query_one("#runs", MarkTable).set_filter(text)
        self._summarize()
        return problem

    def filter_text(self) -> str:
        """Return the table's filter."""
        return self.query_one("#runs", MarkTable).filter.text

    # Actions

    def _chosen(self) -> list[RunSummary]:
        return [
            self._summaries[key]
            for key in self.query_one("#runs", MarkTable).chosen
            if key in self._summaries
        ]

    def on_mark_table_chosen(self, event: MarkTable.Chosen) -> None:
        """Show a run in the monitor."""
        summary = self._summaries.get(event.key)
        if summary is not None and self.loba.has_entry("monitor"):
            self.loba.watch_run(summary.run)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer comparing only where there is a monitor to do it in."""
        return action != "compare" or self.loba.has_entry("monitor")

    def action_compare(self) -> None:
        """Lay the marked runs over the one under the cursor, in the monitor."""
        table = self.query_one("#runs", MarkTable)
        here = self._summaries.get(table.cursor_key or "")
        others = [s.run for s in self._chosen() if here is None or s.run != here.run]
        if here is None or not others:
            self.tell("Mark other runs with space, then compare the one under the cursor.", "warn")
            return
        self.loba.watch_run(here.run, others)

    def action_stop(self) -> None:
        """Have the chosen runs save and end."""
        chosen = [s for s in self._chosen() if s.can_stop]
        if not chosen:
            self.tell("None of these is alive or queued.", "warn")
            return
        rows: list[list[Piece]] = [short_row(s) for s in chosen]
        rows += [[""], ["Each saves and ends; ", ("R", "key"), " goes on with it later."]]
        rows += same_as("stop", chosen)

        def answered(yes: bool | None) -> None:
            if yes:
                self._each(chosen, lambda s: runs.stop(s.run, self.context.queue))

        self.app.push_screen(ConfirmDialog("Stop and save?", rows, "stop"), answered)

    def action_resume(self) -> None:
        """Let paused runs go on and start ended ones from their checkpoints."""
        chosen = self._chosen()
        if chosen:
            self._each(chosen, lambda s: runs.resume(s.run, self.context.program))

    def action_delete(self) -> None:
        """Show what deleting the chosen runs frees and breaks, and do it after a yes."""
        chosen = self._chosen()
        if not chosen:
            return
        self.work(lambda: DeletionPlan.of(chosen), self._confirm_deletion)

    def _confirm_deletion(self, plan: DeletionPlan) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self._each(plan.removable, lambda s: removed(s))
                self.query_one("#runs", MarkTable).unmark()

        if plan.removable:
            self.app.push_screen(ConfirmDialog(plan.title, plan.rows, "delete"), answered)
        else:
            self.app.push_screen(TextDialog(plan.title, plan.rows))

    def _each(self, chosen: Sequence[RunSummary], act: Callable[[RunSummary], str]) -> None:
        for summary in chosen:
            self._one(summary, act)

    def _one(self, summary: RunSummary, act: Callable[[RunSummary], str]) -> None:
        name = summary.run.name

        def done(text: str) -> None:
            self.tell(text if name in text else f"{name}: {text}", "good")
            self.look()

        self.work(lambda: act(summary), done, group="act")

    def action_start(self) -> None:
        """Choose a shipped recipe, see what is started, and start it."""
        names = sorted(shipped.names(), key=lambda name: (name != EXAMPLE, name))
        choices = [Choice(n, n, "the embedded example" if n == EXAMPLE else "") for n in names]

        def chosen(name: str | None) -> None:
            if name is not None:
                self.work(lambda: start_rows(name, self.context), self._confirm_start)

        self.app.push_screen(ChoiceDialog("Start which recipe?", choices), chosen)

    def _confirm_start(self, plan: tuple[str, list[list[Piece]]]) -> None:
        name, rows = plan

        def answered(yes: bool | None) -> None:
            if yes:
                self.work(lambda: start(name, self.context), self._started)

        self.app.push_screen(ConfirmDialog(f"Start {name}?", rows, "start"), answered)

    def _started(self, run: RunDir) -> None:
        self.tell(f"started {run.name}", "good")
        self.look()

    def action_copy(self) -> None:
        """Copy the folder of the run under the cursor through the terminal (OSC 52)."""
        key = self.query_one("#runs", MarkTable).cursor_key
        if key is not None:
            self.app.copy_to_clipboard(key)
            self.tell(f"copied {key}")
