"""One run: charts, machine, samples, log and events, and the keys that steer it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget

from loba_tui.client.machine.state import Machine
from loba_tui.client.metrics.index import discard_orphans
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.screens.base import FILTER, asks
from loba_tui.screens.monitor.actions import RunActions
from loba_tui.screens.monitor.charts_pane import ChartsPane, Rows
from loba_tui.screens.monitor.heading import heading_rows, short_line
from loba_tui.screens.monitor.layout import Panes
from loba_tui.screens.monitor.log_view import LogView
from loba_tui.screens.monitor.machine_pane import MachinePane
from loba_tui.screens.monitor.model import SMOOTHINGS, Frame, MonitorModel, View
from loba_tui.screens.monitor.sample_pane import SamplePane
from loba_tui.widgets.dialogs import Choice, ChoiceDialog
from loba_tui.widgets.line import Lines


class MonitorScreen(RunActions):
    """The run at hand."""

    BINDING_GROUP_TITLE = "Monitor"
    FILTER_HINT = "part of a chart's name; in the log a word to look for"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "pane(1)", "next part", id="monitor.next"),
        Binding("shift+tab", "pane(-1)", "previous part", show=False, id="monitor.previous"),
        Binding("f", "full", "this part alone", show=False, id="monitor.full"),
        Binding("plus", "zoom(0.5)", "zoom in", show=False, id="monitor.zoom_in"),
        Binding("minus", "zoom(2)", "zoom out", show=False, id="monitor.zoom_out"),
        Binding("0", "zoom_all", "show the whole run", show=False, id="monitor.zoom_all"),
        Binding("left", "pan(-0.25)", "earlier steps", show=False, id="monitor.pan_left"),
        Binding("right", "pan(0.25)", "later steps", show=False, id="monitor.pan_right"),
        Binding("l", "log_axis", "log axis", show=False, id="monitor.log_axis"),
        Binding("s", "smoothing", "smoothing", show=False, id="monitor.smoothing"),
        Binding("[", "sample_step(-1)", "earlier sample", show=False, id="monitor.earlier"),
        Binding("]", "sample_step(1)", "later sample", show=False, id="monitor.later"),
        Binding("comma", "sample_scale(-1)", "scale below", show=False, id="monitor.scale_below"),
        Binding(".", "sample_scale(1)", "scale above", show=False, id="monitor.scale_above"),
        Binding("c", "compare", "compare", id="monitor.compare"),
        Binding("y", "copy", "copy the folder's path", show=False, id="monitor.copy"),
        FILTER,
    ]

    def __init__(self) -> None:
        super().__init__()
        self._model: MonitorModel | None = None
        self._machine: Machine | None = None
        self._frame: Frame | None = None
        self._view = View()
        self._is_looking = False
        self._chart_filter = ""

    # Frame

    def compose_body(self) -> Iterable[Widget]:
        yield Panes(self.context.images)

    def on_mount(self) -> None:
        self._machine = Machine()
        self.work(lambda: discard_orphans(self.context.cache))
        self.set_interval(self.context.seconds, self.look)
        self._panes.lay_out()
        self.query_one(ChartsPane).focus()
        self.shown_again()

    def on_unmount(self) -> None:
        if self._model is not None:
            self._model.close()
        if self._machine is not None:
            self._machine.close()

    def on_resize(self, event: object) -> None:
        self._panes.lay_out()

    def shown_again(self) -> None:
        """Watch what was asked for, else what is watched already, else the newest run."""
        wanted = self.loba.run_to_watch
        if wanted is not None:
            compared = self.loba.marked_runs
            if self._model is None or (self._model.run, self._model.compared) != (wanted, compared):
                self._watch(wanted, compared)
        self.look()

    def _newest(self) -> RunDir | None:
        """Return the newest run that is alive, else the newest of all."""
        found = list(reversed(self.context.ledger.runs()))
        alive = (run for run in found[:50] if RunReader(run).liveness().is_alive)
        return next(alive, found[0] if found else None)

    def _watch_newest(self, run: RunDir | None) -> None:
        if run is not None and self._model is None:
            self._watch(run, ())

    def _watch(self, run: RunDir, compared: Sequence[RunDir]) -> None:
        assert self._machine is not None
        if self._model is not None:
            self._model.close()
        self._model = MonitorModel(run, compared, self.context.cache, self._machine)
        self._frame, self._view = None, View()
        self._is_looking = False
        self._panes.show_runs((run, *compared))
        self.look()

    def watched(self) -> RunDir | None:
        return self._model.run if self._model is not None else None

    # Looking

    def look(self) -> None:
        """Read what was appended, unless that goes on already or nobody sees it."""
        model = self._model
        if self._is_looking or self.app.screen_stack[0] is not self:
            return
        if model is None:
            self.work_latest("newest", self._newest, self._watch_newest)
            return
        self._is_looking = True

        def done(frame: Frame) -> None:
            if model is not self._model:
                return
            self._is_looking = False
            self._show(frame)

        self.work(model.look, done, group="look")

    def tell_error(self, error: Exception) -> None:
        """Show an error, and go on looking."""
        self._is_looking = False
        super().tell_error(error)

    def _show(self, frame: Frame) -> None:
        is_first = self._frame is None
        is_other = self._frame is None or self._frame.liveness.state != frame.liveness.state
        self._frame = frame
        if is_other:
            self.refresh_bindings()
        if is_first:
            self._panes.lay_out()
        self.query_one("#heading", Lines).show(heading_rows(frame, self.size.width))
        self.about(frame.run.name, "dim" if frame.liveness.state == "dead" else "")
        self.query_one(ChartsPane).set_names(self._chart_names())
        if frame.machine is not None:
            memory = frame.latest.get("memory_mib")
            self.query_one(MachinePane).show(frame.machine, frame.status, memory, frame.ranks)
        self.query_one("#log", LogView).show(frame.log)
        self.query_one("#events", LogView).show(frame.events)
        self.query_one(SamplePane).set_strips(frame.samples)
        self._panes.draw_tabs()
        self._draw_charts()
        self._draw_sample()
        if frame.is_behind:
            self.call_later(self.look)

    def _chart_names(self) -> tuple[str, ...]:
        names = self._frame.names if self._frame else ()
        words = self._chart_filter.casefold().split()
        return tuple(name for name in names if all(word in name.casefold() for word in words))

    def on_charts_pane_wanted(self, event: ChartsPane.Wanted) -> None:
        self._draw_charts()

    def _draw_charts(self) -> None:
        model, pane = self._model, self.query_one(ChartsPane)
        if model is None or self._frame is None or not pane.display or not pane.size.width:
            return
        names, view, num_cells = pane.wanted, self._view, pane.num_cells

        def draw() -> list[Rows]:
            return pane.drawn(model.charts(names, view, num_cells))

        self.work_latest("charts", draw, pane.draw)

    def _draw_sample(self) -> None:
        pane = self.query_one(SamplePane)
        if pane.is_stale and pane.display and pane.size.height > 1:
            pane.is_stale = False
            self.work_latest("sample", pane.read, pane.show)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if not any(f"action_{action}" in vars(each) for each in (MonitorScreen, RunActions)):
            return True
        if self._frame is None:
            return False
        state, is_alive = self._frame.liveness.state, self._frame.liveness.is_alive
        if action == "steer":
            return is_alive and (parameters[0] != "pause" or state != "paused")
        if action in ("stop", "set"):
            return is_alive or (action == "stop" and state == "queued")
        if action == "go_on":
            return state in ("paused", "stopped", "failed", "dead", "unknown")
        return True

    def one_line(self) -> str:
        return short_line(self._frame) if self._frame else "no run"

    # Parts

    @property
    def _panes(self) -> Panes:
        return self.query_one(Panes)

    def on_panes_arranged(self, event: Panes.Arranged) -> None:
        """Draw what depends on the size, once that is known."""
        self.call_after_refresh(self._draw_charts)
        self.call_after_refresh(self._draw_sample)

    def action_pane(self, by: int) -> None:
        self._panes.step(by)

    def action_full(self) -> None:
        self._panes.toggle_full()

    # Filter and search

    def action_filter(self) -> None:
        """Look for a word in the log or the events; elsewhere choose charts by name."""
        if self._panes.log_at_hand is None:
            self._panes.bring_up("charts")
        super().action_filter()

    def filter_text(self) -> str:
        log = self._panes.log_at_hand
        return log.word if log is not None else self._chart_filter

    def filter_changed(self, text: str) -> str:
        log = self._panes.log_at_hand
        if log is not None:
            return log.search(text)
        self._chart_filter = text
        names = self._chart_names()
        self.query_one(ChartsPane).set_names(names)
        self._draw_charts()
        return "" if names else "no chart has this in its name"

    # Charts and samples

    def action_zoom(self, factor: float) -> None:
        self._change_view(lambda view, first, last: view.zoomed(factor, first, last))

    def action_zoom_all(self) -> None:
        self._change_view(lambda view, first, last: replace(view, width=None, right=None))

    def action_pan(self, share: float) -> None:
        self._change_view(lambda view, first, last: view.panned(share, first, last))

    def action_log_axis(self) -> None:
        name = self.query_one(ChartsPane).selected
        if name is not None:
            names = self._view.log_names ^ {name}
            self._change_view(lambda view, first, last: replace(view, log_names=names))

    def action_smoothing(self) -> None:
        at = SMOOTHINGS.index(self._view.smoothing)
        smoothing = SMOOTHINGS[(at + 1) % len(SMOOTHINGS)]
        self._change_view(lambda view, first, last: replace(view, smoothing=smoothing))
        self.tell(f"smoothing {smoothing:g}" if smoothing else "no smoothing")

    def _change_view(self, change: Callable[[View, float, float], View]) -> None:
        if self._frame is None:
            return
        self._panes.bring_up("charts")
        self._view = change(self._view, *self._frame.steps)
        self._draw_charts()

    def action_sample_step(self, by: int) -> None:
        self._panes.bring_up("samples")
        self.query_one(SamplePane).action_step(by)
        self.call_after_refresh(self._draw_sample)

    def action_sample_scale(self, by: int) -> None:
        self._panes.bring_up("samples")
        self.query_one(SamplePane).step_scale(by)
        self.call_after_refresh(self._draw_sample)

    @asks
    async def action_compare(self) -> None:
        """Lay another run over this one, or take one away."""
        if self._model is None:
            return
        here, compared = self._model.run, self._model.compared
        others = {str(run.path): run for run in reversed(self.context.ledger.runs()) if run != here}
        if not others:
            self.tell("There is no other run to compare with.", "warn")
            return
        choices = [
            Choice(key, run.name, "shown; choose to take away" if run in compared else "")
            for key, run in others.items()
        ]
        key = await self.ask(ChoiceDialog("Compare with which run?", choices))
        if key is None:
            return
        run = others[key]
        rest = tuple(each for each in compared if each != run)
        self.loba.marked_runs = rest if run in compared else (*compared, run)
        self.loba.run_to_watch = here
        self._watch(here, self.loba.marked_runs)

    def action_copy(self) -> None:
        if self._model is not None:
            self.copy(str(self._model.run.path))
