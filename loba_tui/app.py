"""The dashboard: `loba tui`. It reads run directories and leaves; no run depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.app import App
from textual.binding import Binding, BindingType
from textual.theme import Theme

from loba_tui.client.context import Context
from loba_tui.client.notify import watcher
from loba_tui.client.notify.delivery import FILE, Settings, terminal_bytes
from loba_tui.client.notify.notices import Notice, NoticeFinder
from loba_tui.core.run.directory import RunDir
from loba_tui.screens import help as helping
from loba_tui.screens import keymap
from loba_tui.screens.base import LobaScreen
from loba_tui.screens.registry import SCREENS
from loba_tui.widgets.dialogs import ChoiceDialog, TextDialog

if TYPE_CHECKING:
    from loba_tui.client.recipes.files import RecipeFile

_NOTICE_SECONDS = 2.0
_PRELOAD_SECONDS = 0.5

DARK = Theme(
    name="loba",
    primary="#5f9fd7",
    secondary="#87afd7",
    accent="#d7af5f",
    foreground="#d0d4d9",
    background="#101418",
    surface="#171c22",
    panel="#222932",
    success="#87c38a",
    warning="#d7af5f",
    error="#e07a7a",
    dark=True,
)


class LobaApp(App[None]):
    """Screens, house keys, help and palette; everything else belongs to the screens."""

    TITLE = "LOBA"
    CSS_PATH = Path(__file__).with_name("app.tcss")
    ENABLE_COMMAND_PALETTE = False
    BINDING_GROUP_TITLE = "Everywhere"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "keys", "keys", id="app.help"),
        Binding("colon,ctrl+p", "palette", "actions", id="app.palette"),
        Binding("q,ctrl+q", "quit", "leave", id="app.quit"),
        Binding("ctrl+c", "how_to_leave", show=False, system=True, id="app.interrupt"),
        *(
            Binding(entry.key, f"show('{entry.id}')", entry.title, show=False, id=f"app.{entry.id}")
            for entry in SCREENS
        ),
    ]

    def __init__(self, context: Context, *, run: RunDir | None = None) -> None:
        """Prepare the screens; `run` is shown first where it is given.

        Raises:
            RecipeError: The user's keymap or notification settings have mistakes.
        """
        super().__init__(ansi_color=None)
        self.context = context
        self.run_to_watch = run
        self.marked_runs: tuple[RunDir, ...] = ()
        self.recipe_to_edit: RecipeFile | None = None
        self.animation_level = "none"
        self.register_theme(DARK)
        self.theme = "loba" if context.has_many_colors else "ansi-dark"
        for entry in SCREENS:
            self.add_mode(entry.id, entry.make)
        self._notices = NoticeFinder(context.ledger)
        self._notify = Settings.load(context.config / FILE)
        changed = keymap.load(context.config / keymap.FILE, type(self))
        if changed:
            self.set_keymap(changed)

    def on_mount(self) -> None:
        self.run_worker(lambda: watcher.ensure(self.context.environ), thread=True)
        self.set_interval(max(_NOTICE_SECONDS, self.context.seconds), self._look_for_notices)
        self._look_for_notices()
        # Once something is to be seen; the first key that shows another screen need not wait then.
        self.set_timer(_PRELOAD_SECONDS, self._load_screens)
        self.switch_mode("monitor" if self.run_to_watch is not None else SCREENS[0].id)

    @work(thread=True, group="preload")
    def _load_screens(self) -> None:
        for entry in SCREENS:
            entry.load()

    def _look_for_notices(self) -> None:
        """Find what has happened to runs, unless that goes on already."""
        if not any(worker.group == "notices" and worker.is_running for worker in self.workers):
            self._find_notices()

    @work(thread=True, group="notices")
    def _find_notices(self) -> None:
        found = self._notices.look()
        if found and self.is_running:
            self.call_from_thread(self._tell_notices, found)

    def _tell_notices(self, found: Sequence[Notice]) -> None:
        for notice in found:
            if notice.kind not in self._notify.events:
                continue
            screen = self.screen_stack[0]
            if isinstance(screen, LobaScreen):
                screen.tell(notice.text, "good" if notice.kind == "finished" else "bad")
            sequence = terminal_bytes(self._notify, notice, self.context.environ)
            if sequence and self._driver is not None:
                self._driver.write(sequence)

    def action_show(self, screen_id: str) -> None:
        self.switch_mode(screen_id)

    def watch_run(self, run: RunDir, compared: Sequence[RunDir] = ()) -> None:
        self.run_to_watch, self.marked_runs = run, tuple(compared)
        self.switch_mode("monitor")

    def edit_stack(self, file: RecipeFile) -> None:
        self.recipe_to_edit = file
        self.switch_mode("stack")

    def action_keys(self) -> None:
        title = next((e.title for e in SCREENS if e.id == self.current_mode), "")
        self.push_screen(TextDialog(f"Keys: {title}", helping.help_rows(self, self.screen)))

    @work
    async def action_palette(self) -> None:
        if self.screen.is_modal:  # the key was typed ahead of a dialog
            return
        found = helping.palette(self, self.screen)
        choices = [choice for choice, _, _ in found]
        key = await self.push_screen_wait(ChoiceDialog("All actions", choices))
        if key is not None:
            _, node, action = found[int(key)]
            await self.run_action(action, default_namespace=node)

    def action_how_to_leave(self) -> None:
        """Tell how to leave: ctrl+c is too easily pressed to end anything."""
        if isinstance(self.screen, LobaScreen):
            self.screen.tell("Press q to leave. Runs go on without the dashboard.")
