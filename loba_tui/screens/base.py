"""What every screen of the dashboard has: bars, filter, messages, work off the UI thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, TypeVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import Screen
from textual.widget import Widget
from textual.worker import get_current_worker

from loba_tui.client.context import Context
from loba_tui.core.errors import LobaError
from loba_tui.widgets.bars import KeyBar, TopBar
from loba_tui.widgets.filter_bar import FilterBar
from loba_tui.widgets.line import Line

if TYPE_CHECKING:
    from loba_tui.app import LobaApp

SMALLEST = (60, 15)
"""Columns and rows below which a screen is one line."""

PORTRAIT_COLUMNS = 84
"""Columns up to which a screen is `-narrow`."""

FILTER = Binding("slash", "filter", "filter", id="screen.filter")

Result = TypeVar("Result")


class LobaScreen(Screen[None], inherit_bindings=False):
    """A screen of the dashboard; see the package's docstring for how to make one."""

    BINDINGS: ClassVar[list[BindingType]] = []
    FILTER_HINT: ClassVar[str] = "words, !word, column:word, column>number"
    HELP_TEXT: ClassVar[str] = ""
    AUTO_FOCUS: ClassVar[str | None] = "#body *"

    def __init__(self) -> None:
        """Be a full screen until the terminal's size is known."""
        super().__init__()
        self._focus_before: Widget | None = None
        self._at_work: dict[str, Callable[[], None] | None] = {}

    @property
    def loba(self) -> LobaApp:
        """Return the app as what it is."""
        return self.app  # type: ignore[return-value]

    @property
    def context(self) -> Context:
        """Return what the dashboard takes from its surroundings."""
        return self.loba.context

    # For the screens

    def compose_body(self) -> Iterable[Widget]:
        """Yield what stands between the two bars."""
        raise NotImplementedError

    def one_line(self) -> str:
        """Return what a terminal shows that is too small for the screen."""
        raise NotImplementedError

    def filter_changed(self, text: str) -> str:
        """Filter by a text; return what could not be understood, or ""."""
        return ""

    def filter_text(self) -> str:
        """Return the filter that holds now."""
        return ""

    def shown_again(self) -> None:
        """Do what is due when the screen is switched to."""

    def about(self, subject: str, tone: str = "") -> None:
        """Say at the right of the top row what the screen is about."""
        self.query_one(TopBar).about(subject, tone)
        self._draw_tiny()

    def tell(self, text: str, tone: str = "") -> None:
        """Show a message for some seconds; tone `bad` for what did not work."""
        if self.is_attached:
            self.query_one(KeyBar).tell(text, tone)

    def tell_error(self, error: Exception) -> None:
        """Show an error and what to do about it."""
        self.tell(" — ".join(str(error).splitlines()), "bad")

    def work(
        self,
        function: Callable[[], Result],
        done: Callable[[Result], None] | None = None,
        *,
        group: str = "default",
        exclusive: bool = False,
    ) -> None:
        """Call `function` in a thread and then `done` with its result in the UI.

        Args:
            function: What may take long; it must not touch widgets.
            done: Not called when the screen is gone, or the work was replaced by newer.
            group: Work of one group can replace what runs of it.
            exclusive: Replace what runs of the group.
        """

        def run() -> None:
            worker = get_current_worker()
            try:
                result = function()
            except (LobaError, OSError) as error:
                if not worker.is_cancelled:
                    self._call_back(self.tell_error, error)
                return
            if done is not None and not worker.is_cancelled:
                self._call_back(done, result)

        self.run_worker(run, thread=True, group=group, exclusive=exclusive)

    def work_latest(
        self,
        group: str,
        function: Callable[[], Result],
        done: Callable[[Result], None],
    ) -> None:
        """Work off the UI thread on what is wanted last.

        One of a group is at work at a time; of those that are wanted meanwhile only the last is
        done. So what is wanted more often than it can be done is still done again and again.
        """
        if group in self._at_work:
            self._at_work[group] = lambda: self.work_latest(group, function, done)
            return
        self._at_work[group] = None

        def run() -> None:
            is_done, result = False, None
            try:
                result, is_done = function(), True
            except (LobaError, OSError) as error:
                self._call_back(self.tell_error, error)
            finally:
                self._call_back(finish, is_done, result)

        def finish(is_done: bool, result: Result) -> None:
            following = self._at_work.pop(group, None)
            if is_done:
                done(result)
            if following is not None:
                following()

        self.run_worker(run, thread=True, group=group)

    def _call_back(self, function: Callable[..., None], *arguments: object) -> None:
        """Have the UI call a function, unless the screen is gone by then."""

        def call() -> None:
            if self.is_attached:
                function(*arguments)

        if self.app.is_running:
            self.app.call_from_thread(call)

    # The frame

    def compose(self) -> ComposeResult:
        """Lay out bars, body and the line for terminals that are too small."""
        yield TopBar()
        with Vertical(id="body"):
            yield from self.compose_body()
        yield FilterBar()
        yield KeyBar()
        yield Line(id="tiny")

    def on_resize(self, event: events.Resize) -> None:
        """Choose the layout for the terminal's size."""
        width, height = event.size
        is_tiny = width < SMALLEST[0] or height < SMALLEST[1]
        if is_tiny and not self.has_class("-tiny"):
            self._focus_before = self.focused
        self.set_class(is_tiny, "-tiny")
        if not is_tiny and self._focus_before is not None:
            # What is not displayed loses the focus, and the keys with it.
            self.call_after_refresh(self.set_focus, self._focus_before)
            self._focus_before = None
        self.set_class(width <= PORTRAIT_COLUMNS, "-narrow")
        if is_tiny:
            self._draw_tiny()

    def on_screen_resume(self, event: events.ScreenResume) -> None:
        """Draw the bar anew, as another screen is active now, and look at once."""
        self.query_one(TopBar).draw()
        self.shown_again()

    def _draw_tiny(self) -> None:
        if self.has_class("-tiny"):
            self.query_one("#tiny", Line).say(self.one_line())

    def action_filter(self) -> None:
        """Open the filter."""
        self.query_one(FilterBar).open(self.FILTER_HINT, self.filter_text())

    def on_filter_bar_filtered(self, event: FilterBar.Filtered) -> None:
        """Filter by what is typed."""
        problem = self.filter_changed(event.text)
        if problem:
            self.tell(problem, "warn")
