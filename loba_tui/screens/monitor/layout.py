"""Which parts of the monitor are shown: all where there is room, else one."""

from __future__ import annotations

from collections.abc import Sequence

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message

from loba_tui.client.context import ImageMode
from loba_tui.core.run.directory import RunDir
from loba_tui.screens.monitor.charts_pane import ChartsPane
from loba_tui.screens.monitor.log_view import LogView
from loba_tui.screens.monitor.machine_pane import MachinePane
from loba_tui.screens.monitor.sample_pane import SamplePane
from loba_tui.widgets.chart import legend, shortened
from loba_tui.widgets.line import Line, Lines, Piece, plain

PANES = ("charts", "machine", "samples", "log", "events")
_GROUPS = {
    "side": ("machine", "samples"),
    "upper": ("charts", "machine", "samples"),
    "lower": ("log", "events"),
}
# Below this only one pane is shown at a time.
_WIDE = (110, 32)
_NOTHING: list[list[Piece]] = [
    [("No run to watch.", "strong")],
    [""],
    ["Press ", ("1", "key"), " for the list of runs, then ", ("n", "key")],
    ["to start one: the embedded example needs nothing."],
]


class Panes(Vertical):
    """The parts of the monitor, one of which the keys are about."""

    class Arranged(Message):
        """Parts came, went, or have another size."""

    def __init__(self, images: ImageMode) -> None:
        super().__init__()
        self._images = images
        self._runs: tuple[RunDir, ...] = ()
        self._is_full = False
        self.at = PANES[0]

    def compose(self) -> ComposeResult:
        yield Lines(id="heading")
        yield Line(id="panes")
        with Horizontal(id="upper"):
            yield ChartsPane()
            with Vertical(id="side"):
                yield MachinePane()
                yield SamplePane(self._images)
        with Horizontal(id="lower"):
            yield LogView("log", id="log")
            yield LogView("events", id="events")
        yield Lines(_NOTHING, id="nothing")

    def show_runs(self, runs: Sequence[RunDir]) -> None:
        """Show the parts for a run and those laid over it, or how to come to a run."""
        self._runs = tuple(runs)
        self.lay_out()

    def lay_out(self) -> None:
        """Show all parts where there is room, else the one that the keys are about."""
        has_run = bool(self._runs)
        size = self.screen.size
        shows_all = size.width >= _WIDE[0] and size.height >= _WIDE[1] and not self._is_full
        self.set_class(shows_all, "-all")
        for name, members in ({name: (name,) for name in PANES} | _GROUPS).items():
            self._display(name, has_run and (shows_all or self.at in members))
        self._display("heading", has_run)
        self._display("panes", has_run and (not shows_all or len(self._runs) > 1))
        self._display("nothing", not has_run)
        self.draw_tabs()
        self.post_message(self.Arranged())

    def _display(self, name: str, is_shown: bool) -> None:
        self.query_one(f"#{name}").display = is_shown

    def draw_tabs(self) -> None:
        """Name the parts where one is shown at a time, and the runs where several are."""
        pieces: list[Piece] = []
        if not self.has_class("-all"):
            pieces += [(f" {n} ", "active" if n == self.at else "dim") for n in PANES]
        if len(self._runs) > 1:
            taken = sum(len(piece[0]) for piece in pieces) + 2
            room = (self.size.width - taken) // len(self._runs) - 4
            names = [shortened(plain(run.name), max(6, room)) for run in self._runs]
            pieces += ["  ", *legend(names)]
        self.query_one("#panes", Line).say(*pieces)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """Follow the focus, wherever it came from."""
        focused = self.screen.focused
        if focused is not None and focused.id in PANES and focused.id != self.at:
            self.at = focused.id
            self.lay_out()

    def go_to(self, pane: str) -> None:
        """Show a part and give it the keys."""
        self.at = pane
        self.lay_out()
        self.query_one(f"#{pane}").focus()

    def step(self, by: int) -> None:
        self.go_to(PANES[(PANES.index(self.at) + by) % len(PANES)])

    def bring_up(self, pane: str) -> None:
        """Go to a part unless it is shown already."""
        if not self.query_one(f"#{pane}").display:
            self.go_to(pane)

    def toggle_full(self) -> None:
        """Show one part alone, or all again."""
        self._is_full = not self._is_full
        self.lay_out()

    @property
    def log_at_hand(self) -> LogView | None:
        """Return the log or the events where the keys are about them."""
        return self.query_one(f"#{self.at}", LogView) if self.at in _GROUPS["lower"] else None
