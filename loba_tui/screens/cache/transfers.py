"""Work of the cache that takes long: fetching and checking, one at a time, with its progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from loba_tui.client.cache import pull_text
from loba_tui.core.associate.caches.hub.requests import Target
from loba_tui.core.associate.caches.hub.verify import Checked
from loba_tui.core.units import show_size
from loba_tui.screens.base import LobaScreen
from loba_tui.screens.cache.rows import Ticker, check_model_id, verified_rows
from loba_tui.screens.cache.tree import CacheState
from loba_tui.widgets.dialogs import ConfirmDialog, LineDialog, TextDialog
from loba_tui.widgets.line import Line, Piece

if TYPE_CHECKING:
    from loba_tui.core.associate.caches.transfer.pull import PullPlan

Result = TypeVar("Result")


class Transfers:
    """Fetches and checks for a screen that has a line called #progress."""

    def __init__(self, screen: LobaScreen) -> None:
        self._screen = screen
        self._ticker: Ticker | None = None

    def cancel(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()

    async def _long(self, act: Callable[[Ticker], Result]) -> Result | None:
        """Do long work in a thread, with its progress; None where some goes on already."""
        if self._ticker is not None:
            self._screen.tell("One pull or check at a time; X ends this one.", "warn")
            return None
        line = self._screen.query_one("#progress", Line)
        line.say(("working …", "dim"))
        line.display = True
        ticker = self._ticker = Ticker(lambda text: self._from_thread(lambda: line.say(text)))
        try:
            return await self._screen.in_thread(act, ticker)
        finally:
            ticker.cancel()  # where the screen is gone, the thread is still at work
            self._ticker = None
            line.display = False

    def _from_thread(self, act: Callable[[], object]) -> None:
        if self._screen.app.is_running:
            self._screen.app.call_from_thread(act)

    async def pull(self) -> str:
        """Ask what to fetch, show the plan, fetch it after a yes and say so."""
        rows: list[list[Piece]] = [
            ["owner/name, or owner/name@revision: only what a diffusers pipeline"],
            ["needs is fetched, safetensors only. What came stays if it breaks."],
        ]
        text = await self._screen.ask(LineDialog("Pull", rows, check=check_model_id))
        if text is None:
            return ""
        model_id, _, revision = text.removeprefix("hf://").partition("@")
        plan = await self._long(lambda ticker: _plan(ticker, model_id, revision or None))
        if plan is None:
            return ""
        rows = [[line] for line in pull_text.plan_lines(plan)]
        title = f"Fetch {show_size(plan.to_fetch)}?"
        if not await self._screen.ask(ConfirmDialog(title, rows, "fetch")):
            return ""
        folder = await self._long(lambda ticker: _fetch(ticker, plan))
        return f"fetched {plan.model_id} to {folder}" if folder is not None else ""

    async def verify(self, state: CacheState, targets: Sequence[Target]) -> None:
        """Read every file of some repositories again and compare it with its checksum."""
        checked = await self._long(lambda ticker: _check(ticker, state, targets))
        if checked is None:
            return
        title, rows = verified_rows(checked)
        if rows:
            await self._screen.ask(TextDialog(title, rows))
        else:
            self._screen.tell(f"verified: {title}", "good")


def _plan(ticker: Ticker, model_id: str, revision: str | None) -> PullPlan:
    # The hub's client takes half a second to import.
    from loba_tui.core.associate.caches.transfer import pull as hub_pull

    plan = hub_pull.plan_pull(model_id, revision, variant=None, only=())
    ticker.check()
    return plan


def _fetch(ticker: Ticker, plan: PullPlan) -> Path:
    from loba_tui.core.associate.caches.transfer import pull as hub_pull

    missing = sum(not file.is_there for file in plan.files)
    return hub_pull.pull(plan, ticker.report(plan.to_fetch, missing))


def _check(ticker: Ticker, state: CacheState, targets: Sequence[Target]) -> list[Checked]:
    folders = {target.folder for target in targets}
    results: list[Checked] = []
    for repository in state.found.repositories:
        for checked in state.cache.verify(repository) if repository.folder in folders else ():
            results.append(checked)
            ticker.tell(f"{len(results)} files: {checked.repository} {checked.path}")
    return results
