"""Work of the cache that takes long: fetching and checking, one at a time, with its progress."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from loba_tui.client.cache import pull_text as cache_pulling
from loba_tui.core.associate.caches.hub.requests import Target
from loba_tui.core.associate.caches.hub.verify import Checked
from loba_tui.core.errors import LobaError
from loba_tui.core.units import show_size
from loba_tui.screens.base import LobaScreen
from loba_tui.screens.cache.rows import Ticker, check_model_id, verified_rows
from loba_tui.screens.cache.tree import CacheState
from loba_tui.widgets.dialogs import ConfirmDialog, LineDialog, TextDialog
from loba_tui.widgets.line import Line, Piece


class LongWork:
    """Fetches and checks for a screen that has a line called #progress.

    Args:
        screen: Asks and tells.
        done: Called with a sentence when the cache has changed.
    """

    def __init__(self, screen: LobaScreen, done: Callable[[str], None]) -> None:
        self._screen, self._done = screen, done
        self._ticker: Ticker | None = None

    def _begin(self) -> Ticker | None:
        if self._ticker is not None:
            self._screen.tell("One pull or check at a time; X ends this one.", "warn")
            return None
        line = self._screen.query_one("#progress", Line)
        line.say(("working …", "dim"))
        line.display = True
        self._ticker = Ticker(lambda text: self._from_thread(lambda: line.say(text)))
        return self._ticker

    def _from_thread(self, act: Callable[[], object]) -> None:
        if self._screen.app.is_running:
            self._screen.app.call_from_thread(act)

    def _end(self) -> None:
        self._ticker = None
        self._screen.query_one("#progress", Line).display = False

    def _long(self, ticker: Ticker, act: Callable[[], Callable[[], None]]) -> None:
        """Do long work in a thread; what it returns is called in the UI at its end."""

        def guarded() -> Callable[[], None]:
            try:
                return act()
            except (LobaError, OSError) as error:
                return partial(self._screen.tell_error, error)

        def done(then: Callable[[], None]) -> None:
            self._end()
            then()

        self._screen.work(guarded, done, group="long")

    def cancel(self) -> None:
        """End the pull or check that goes on."""
        if self._ticker is not None:
            self._ticker.cancel()

    def pull(self) -> None:
        """Ask what to fetch, show the plan, and fetch it after a yes."""
        rows: list[list[Piece]] = [
            ["owner/name, or owner/name@revision: only what a diffusers pipeline"],
            ["needs is fetched, safetensors only. What came stays if it breaks."],
        ]

        def named(text: str | None) -> None:
            ticker = self._begin() if text is not None else None
            if ticker is not None and text is not None:
                model_id, _, revision = text.removeprefix("hf://").partition("@")
                self._long(ticker, lambda: self._planned_pull(ticker, model_id, revision or None))

        self._screen.app.push_screen(LineDialog("Pull", rows, check=check_model_id), named)

    def _planned_pull(
        self, ticker: Ticker, model_id: str, revision: str | None
    ) -> Callable[[], None]:
        # The hub's client takes half a second to import.
        from loba_tui.core.associate.caches.transfer import pull as hub_pull

        plan = hub_pull.plan_pull(model_id, revision, variant=None, only=())
        ticker.check()

        def confirm() -> None:
            def answered(yes: bool | None) -> None:
                following = self._begin() if yes else None
                if following is not None:
                    self._long(following, lambda: pulled(following))

            rows: list[list[Piece]] = [[line] for line in cache_pulling.plan_lines(plan)]
            title = f"Fetch {show_size(plan.to_fetch)}?"
            self._screen.app.push_screen(ConfirmDialog(title, rows, "fetch"), answered)

        def pulled(following: Ticker) -> Callable[[], None]:
            missing = sum(not file.is_there for file in plan.files)
            folder = hub_pull.pull(plan, following.report(plan.to_fetch, missing))
            return lambda: self._done(f"fetched {plan.model_id} to {folder}")

        return confirm

    def verify(self, state: CacheState, targets: list[Target]) -> None:
        """Read every file of some repositories again and compare it with its checksum."""
        ticker = self._begin()
        if ticker is None:
            return
        folders = dict.fromkeys(target.folder for target in targets)
        chosen = [each for each in state.found.repositories if each.folder in folders]

        def check() -> Callable[[], None]:
            results: list[Checked] = []
            for repository in chosen:
                for checked in state.cache.verify(repository):
                    results.append(checked)
                    ticker.tell(f"{len(results)} files: {checked.repository} {checked.path}")
            title, rows = verified_rows(results)
            return lambda: self._show_verdict(title, rows)

        self._long(ticker, check)

    def _show_verdict(self, title: str, rows: list[list[Piece]]) -> None:
        if rows:
            self._screen.app.push_screen(TextDialog(title, rows))
        else:
            self._screen.tell(f"verified: {title}", "good")
