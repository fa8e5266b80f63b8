"""The keys that steer a run, each answered by the run itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.binding import Binding, BindingType

from loba_tui.client.runs import steer as runs
from loba_tui.core.errors import LobaError
from loba_tui.core.run.control import LIVE_KEYS, Command, CommandKind
from loba_tui.core.run.directory import RunDir
from loba_tui.screens.base import LobaScreen
from loba_tui.widgets.dialogs import ConfirmDialog, LineDialog
from loba_tui.widgets.line import Piece


class Steering(LobaScreen):
    """A screen about one run that can be steered from it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("P", "steer('pause')", "pause", id="monitor.pause"),
        Binding("R", "go_on", "resume", id="monitor.resume"),
        Binding("S", "steer('save')", "save", id="monitor.save"),
        Binding("I", "steer('sample')", "sample", id="monitor.sample"),
        Binding("X", "stop", "stop", id="monitor.stop"),
        Binding("equals_sign", "set", "set a value", id="monitor.set"),
    ]

    def watched(self) -> RunDir | None:
        """Return the run that is steered."""
        raise NotImplementedError

    def look(self) -> None:
        """Read what was appended to the run."""
        raise NotImplementedError

    def _command(self, what: str, act: Callable[[RunDir], str]) -> None:
        """Do something with the run off the UI thread, and show how it answers."""
        run = self.watched()
        if run is None:
            return
        self.tell(f"{what} …")

        def done(answer: str) -> None:
            self.tell(f"{what}: {answer}", "good")
            self.look()

        self.work(lambda: act(run), done, group="steer")

    def action_steer(self, kind: CommandKind) -> None:
        """Send a command and show the run's answer."""
        self._command(kind, lambda run: runs.steer(run, Command(kind)))

    def action_go_on(self) -> None:
        """Let a paused run go on, or start one that has ended from its checkpoint."""
        self._command("resume", lambda run: runs.resume(run, self.context.program))

    def action_stop(self) -> None:
        """Have the run save and end, after a yes."""
        run = self.watched()
        if run is None:
            return
        rows: list[list[Piece]] = [
            ["It finishes its step, saves and ends; ", ("R", "key"), " goes on with it later."],
            [""],
            [(f"the same as: loba runs stop {run.name}", "dim")],
        ]

        def answered(yes: bool | None) -> None:
            if yes:
                self._command("stop", lambda run: runs.stop(run, self.context.queue))

        self.app.push_screen(ConfirmDialog(f"Stop {run.name} and save?", rows, "stop"), answered)

    def action_set(self) -> None:
        """Change a setting while the run goes on."""
        run, plugins = self.watched(), self.context.plugins
        if run is None:
            return
        rows: list[list[Piece]] = [
            ["KEY=VALUE, where KEY is one of"],
            [("  " + ", ".join([*LIVE_KEYS][:3]), "key")],
            [("  " + ", ".join([*LIVE_KEYS][3:]), "key")],
            [""],
            [(f"the same as: loba runs set {run.name} KEY=VALUE", "dim")],
        ]

        def check(text: str) -> str:
            try:
                runs.set_command(run, text, plugins)
            except LobaError as error:
                return str(error)
            return ""

        def accepted(text: str | None) -> None:
            if text is not None:
                self._command(
                    "set", lambda run: runs.steer(run, runs.set_command(run, text, plugins))
                )

        dialog = LineDialog("Set a value", rows, value="optimizer.lr=", check=check)
        self.app.push_screen(dialog, accepted)
