"""The keys that steer a run, each answered by the run itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from textual.binding import Binding, BindingType

from loba_tui.client.recipes import strangers
from loba_tui.client.runs import steer as runs
from loba_tui.core.run.control import LIVE_KEYS, Command, CommandKind
from loba_tui.core.run.directory import RunDir
from loba_tui.screens.base import LobaScreen, asks, problem_of
from loba_tui.widgets.dialogs import ConfirmDialog, LineDialog
from loba_tui.widgets.line import Piece


class RunActions(LobaScreen):
    """A screen about one run, with the keys that steer it."""

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

    async def _command(self, what: str, act: Callable[[], str]) -> None:
        """Do something with the run off the UI thread, and show how it answers."""
        self.tell(f"{what} …")
        answer = await self.in_thread(act)
        self.tell(f"{what}: {answer}", "good")
        self.look()

    @asks
    async def action_steer(self, kind: CommandKind) -> None:
        run = self.watched()
        if run is not None:
            await self._command(kind, lambda: runs.steer(run, Command(kind)))

    @asks
    async def action_go_on(self) -> None:
        """Let a paused run go on, or start one that has ended from its checkpoint."""
        run = self.watched()
        if run is not None and await self._is_agreed(run):
            await self._command("resume", lambda: runs.resume(run, self.context.program))

    async def _is_agreed(self, run: RunDir) -> bool:
        """Ask about the recipe of a run that is not in the user's own list of runs."""
        stranger = await self.in_thread(strangers.of_run, run, self.context.ledger)
        if stranger is None:
            return True
        recipe = await self.in_thread(stranger.load, plugins=self.context.plugins)
        rows: list[list[Piece]] = [[line] for line in stranger.lines(recipe)]
        title = "Go on with a run from elsewhere?"
        is_agreed = await self.ask(ConfirmDialog(title, rows, "go on"))
        return bool(is_agreed)

    @asks
    async def action_stop(self) -> None:
        run = self.watched()
        if run is None:
            return
        rows: list[list[Piece]] = [
            ["It finishes its step, saves and ends; ", ("R", "key"), " goes on with it later."],
            [""],
            [(f"the same as: loba runs stop {run.name}", "dim")],
        ]
        if await self.ask(ConfirmDialog(f"Stop {run.name} and save?", rows, "stop")):
            await self._command("stop", lambda: runs.stop(run, self.context.queue))

    @asks
    async def action_set(self) -> None:
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
        command = partial(runs.set_command, run, plugins=plugins)
        check = partial(problem_of, command)
        dialog = LineDialog("Set a value", rows, value="optimizer.lr=", check=check)
        text = await self.ask(dialog)
        if text is not None:
            await self._command("set", lambda: runs.steer(run, command(text)))
