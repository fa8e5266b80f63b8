"""The frame of every screen: bars, filter, messages, dialogs, and work off the UI thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, Protocol, TypeVar, cast

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.worker import Worker, get_current_worker

from loba_tui.client.context import Context
from loba_tui.core.errors import LobaError
from loba_tui.core.run.directory import RunDir
from loba_tui.screens.registry import SCREENS
from loba_tui.widgets.bars import KeyBar, TopBar
from loba_tui.widgets.filter_bar import FilterBar
from loba_tui.widgets.line import Line

if TYPE_CHECKING:
    from loba_tui.client.recipes.files import RecipeFile

SMALLEST = (60, 15)
"""Columns and rows below which a screen is one line."""

PORTRAIT_COLUMNS = 84
"""Columns up to which a screen is `-narrow`."""

FILTER = Binding("slash", "filter", "filter", id="screen.filter")

Result = TypeVar("Result")
Given = ParamSpec("Given")
Act = Callable[[], Coroutine[None, None, None]]
AnyScreen = TypeVar("AnyScreen", bound="LobaScreen")


class Dashboard(Protocol):
    """The app, as far as screens use it; the monitor lays the marked runs over the one to watch."""

    context: Context
    run_to_watch: RunDir | None
    marked_runs: tuple[RunDir, ...]
    recipe_to_edit: RecipeFile | None

    def watch_run(self, run: RunDir, compared: Sequence[RunDir] = ()) -> None:
        """Show a run in the monitor, with others laid over it."""

    def edit_stack(self, file: RecipeFile) -> None:
        """Show a recipe in the stack editor."""


def asks(
    action: Callable[Concatenate[AnyScreen, Given], Coroutine[Any, Any, None]],
) -> Callable[Concatenate[AnyScreen, Given], None]:
    """Let an action of a screen await threads and the answers of dialogs.

    It runs in a worker of the screen, from top to bottom; an error that it meets is told. Where it
    is taken twice in a row, the first gives way and asks nothing.
    """

    @wraps(action)
    def start(screen: AnyScreen, /, *args: Given.args, **kwargs: Given.kwargs) -> None:
        if screen.is_active:  # keys typed ahead of a dialog do not go around it
            screen.begin(action.__name__, partial(action, screen, *args, **kwargs))

    return start


def problem_of(act: Callable[..., object], *args: object) -> str:
    """Return why an act fails, or ""."""
    try:
        act(*args)
    except LobaError as error:
        return str(error)
    return ""


class LobaScreen(Screen[None], inherit_bindings=False):
    """A screen of the dashboard; see the package's docstring for how to make one."""

    BINDINGS: ClassVar[list[BindingType]] = []
    FILTER_HINT: ClassVar[str] = "words, !word, column:word, column>number"
    HELP_TEXT: ClassVar[str] = ""
    AUTO_FOCUS: ClassVar[str | None] = "#body *"

    def __init__(self) -> None:
        super().__init__()
        self._focus_before: Widget | None = None
        self._wanted: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {}
        self._at_work: set[str] = set()
        self._begun: dict[str, Worker[None]] = {}
        self._turn = asyncio.Lock()
        self._resumed = asyncio.Event()

    @property
    def loba(self) -> Dashboard:
        """Return the app as what screens use of it."""
        return cast(Dashboard, self.app)

    @property
    def context(self) -> Context:
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

    def copy(self, text: str) -> None:
        """Copy a text through the terminal (OSC 52)."""
        self.app.copy_to_clipboard(text)
        self.tell(f"copied {text}")

    # Dialogs

    def begin(self, name: str, action: Act) -> None:
        """Run an action that may ask; see `asks`."""
        self._begun[name] = self._start(action, name=name, group="asks")

    async def ask(self, dialog: ModalScreen[Result]) -> Result | None:
        """Show a dialog and return its answer.

        It waits until no other dialog and no other screen is over this one. None stands for no
        answer, also where the same action was taken again meanwhile.
        """
        worker = get_current_worker()
        async with self._turn:
            while not self.is_active:
                self._resumed.clear()
                await self._resumed.wait()
            # Whether the newer one still asks or has its answer: this one comes too late.
            if self._begun[worker.name] is not worker:
                return None
            return await self.app.push_screen_wait(dialog)

    # Work off the UI thread

    def _start(
        self, act: Act, *, group: str, name: str = "", exclusive: bool = False
    ) -> Worker[None]:
        guarded = partial(self._guarded, act)
        return self.run_worker(guarded, name=name, group=group, exclusive=exclusive)

    async def _guarded(self, act: Act) -> None:
        """Tell an error that an act meets; unhandled it would end the app."""
        try:
            await act()
        except (LobaError, OSError) as error:
            self.tell_error(error)

    def work(
        self,
        function: Callable[[], Result],
        done: Callable[[Result], None] | None = None,
        *,
        group: str = "default",
        exclusive: bool = False,
    ) -> None:
        """Call `function` in a thread, where it must not touch widgets, then `done` in the UI.

        `done` gets the result; it is not called when the screen is gone, or the work was replaced
        by newer: exclusive work replaces what runs of its group.
        """
        self._start(partial(self._work, function, done), group=group, exclusive=exclusive)

    async def in_thread(
        self, function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
    ) -> Result:
        """Call a function, which must not touch widgets, in a thread and return its result.

        Who awaits it is cancelled where the screen is gone by then, as its widgets are.
        """
        try:
            return await asyncio.to_thread(function, *args, **kwargs)
        finally:
            if not (self.is_attached and self.app.is_running):
                raise asyncio.CancelledError

    async def _work(
        self, function: Callable[[], Result], done: Callable[[Result], None] | None
    ) -> None:
        result = await self.in_thread(function)
        if done is not None:
            done(result)

    def work_latest(
        self, group: str, function: Callable[[], Result], done: Callable[[Result], None]
    ) -> None:
        """Work off the UI thread on what is wanted last.

        One of a group is at work at a time; of those that are wanted meanwhile only the last is
        done. So what is wanted more often than it can be done is still done again and again.
        """
        self._wanted[group] = (function, done)
        if group not in self._at_work:
            self._at_work.add(group)
            self._start(partial(self._work_off, group), group=group)

    async def _work_off(self, group: str) -> None:
        while group in self._wanted:
            await self._guarded(partial(self._work, *self._wanted.pop(group)))
        self._at_work.discard(group)

    # The frame

    def compose(self) -> ComposeResult:
        """Lay out bars, body and the line for terminals that are too small."""
        yield TopBar(SCREENS)
        with Vertical(id="body"):
            yield from self.compose_body()
        yield FilterBar()
        yield KeyBar()
        yield Line(id="tiny")

    def on_resize(self, event: events.Resize) -> None:
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
        self._resumed.set()
        self.query_one(TopBar).draw()
        self.shown_again()

    def _draw_tiny(self) -> None:
        if self.has_class("-tiny"):
            self.query_one("#tiny", Line).say(self.one_line())

    def action_filter(self) -> None:
        self.query_one(FilterBar).open(self.FILTER_HINT, self.filter_text())

    def on_filter_bar_filtered(self, event: FilterBar.Filtered) -> None:
        problem = self.filter_changed(event.text)
        if problem:
            self.tell(problem, "warn")
