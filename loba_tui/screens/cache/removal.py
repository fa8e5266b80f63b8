"""Taking things out of the cache from a screen: plan, yes, trash, undo."""

from __future__ import annotations

import time
from collections.abc import Callable

from loba_tui.client.cache import hub_text as cache_listing
from loba_tui.core.associate.caches.hub.cache import HubCache
from loba_tui.core.associate.caches.hub.journal import Entry
from loba_tui.core.associate.caches.hub.requests import Plan, Prune, Removal
from loba_tui.core.errors import LobaError
from loba_tui.core.units import parse_size, show_size
from loba_tui.screens.base import LobaScreen
from loba_tui.screens.cache.rows import removal_hint, removal_rows
from loba_tui.screens.cache.tree import CacheState
from loba_tui.widgets.dialogs import Choice, ChoiceDialog, ConfirmDialog, LineDialog, TextDialog
from loba_tui.widgets.line import Piece
from loba_tui.widgets.table import MarkTable

_DAY = 86400.0


class Removals:
    """Removes, prunes, undoes and empties the trash.

    Args:
        screen: Asks and tells; it has a table whose marks go with what they were on.
        done: Called with a sentence when the cache has changed.
    """

    def __init__(self, screen: LobaScreen, done: Callable[[str], None]) -> None:
        self._screen, self._done = screen, done

    def plan(self, state: CacheState, request: Removal | Prune) -> None:
        """Show what fulfilling a request frees and breaks, and do it after a yes."""

        def confirm(plan: Plan) -> None:
            # As wide as a dialog: see .dialog in app.tcss.
            width = min(90, int(self._screen.size.width * 0.9) - 6)
            rows = removal_rows(state, plan, width)
            if plan.is_refused or not plan.items:
                title = "This cannot be removed" if plan.is_refused else "Nothing to remove"
                self._screen.app.push_screen(TextDialog(title, rows))
                return

            def answered(yes: bool | None) -> None:
                if yes:
                    self._screen.query_one("#tree", MarkTable).unmark()
                    self._screen.work(lambda: state.cache.execute(plan), removed)

            def removed(entry: Entry | None) -> None:
                self._done(f"moved {show_size(plan.frees)} to the trash; z brings it back")

            title = f"Remove this and free {show_size(plan.frees)}?"
            rows += removal_hint(state, plan, width)
            self._screen.app.push_screen(ConfirmDialog(title, rows, "remove"), answered)

        self._screen.work(lambda: state.cache.plan(request), confirm)

    def prune(self, state: CacheState) -> None:
        """Choose a rule of what is of no more use, and plan it."""
        choices = [
            Choice("leftovers", "what broken downloads and old revisions left"),
            Choice("30", "what was neither used nor fetched for 30 days"),
            Choice("90", "what was neither used nor fetched for 90 days"),
            Choice("under", "the least recently used, until the cache is small enough"),
        ]

        def chosen(rule: str | None) -> None:
            if rule == "under":
                rows: list[list[Piece]] = [["Such as 200GB or 500GiB."]]
                dialog = LineDialog("Keep the cache under", rows, check=_size_problem)
                self._screen.app.push_screen(dialog, sized)
            elif rule == "leftovers":
                request = {"detached": True, "incomplete": True, "unreferenced": True}
                self.plan(state, Prune(time.time(), **request))
            elif rule is not None:
                self.plan(state, Prune(time.time(), unused_seconds=float(rule) * _DAY))

        def sized(text: str | None) -> None:
            if text is not None:
                self.plan(state, Prune(time.time(), keep_bytes=parse_size(text)))

        self._screen.app.push_screen(ChoiceDialog("Prune", choices), chosen)

    def undo(self, cache: HubCache, entry_id: str | None = None) -> None:
        """Bring a deletion back, the newest where none is named."""
        self._screen.work(
            lambda: list(cache_listing.restored_lines(cache.undo(entry_id))),
            lambda lines: self._done("; ".join(line.strip() for line in lines)),
        )

    def trash(self, cache: HubCache) -> None:
        """Show what can be brought back, and what emptying the trash frees."""

        def show(found: tuple[list[tuple[str, str]], int]) -> None:
            entries, size = found
            if not entries:
                self._screen.tell("The trash is empty.")
                return
            choices = [Choice(key, line, "bring back") for key, line in reversed(entries)]
            choices.append(Choice("", f"empty all of it and free {show_size(size)}"))

            def chosen(key: str | None) -> None:
                if key:
                    self.undo(cache, key)
                elif key is not None:
                    self._empty(cache, [line for _, line in entries], size)

            self._screen.app.push_screen(ChoiceDialog("Trash", choices), chosen)

        def look() -> tuple[list[tuple[str, str]], int]:
            entries = cache.trash()
            records = [cache_listing.entry_record(e, cache.trash_size([e])) for e in entries]
            lines = [(r["id"], cache_listing.entry_line(r)) for r in records]
            return lines, cache.trash_size(entries)

        self._screen.work(look, show)

    def _empty(self, cache: HubCache, lines: list[str], size: int) -> None:
        rows: list[list[Piece]] = [[line] for line in lines]
        rows += [[""], [("This cannot be undone.", "warn")]]

        def answered(yes: bool | None) -> None:
            if yes:
                self._screen.work(
                    lambda: cache.empty_trash(cache.trash()),
                    lambda freed: self._done(f"freed {show_size(freed)}"),
                )

        title = f"Empty the trash and free {show_size(size)}?"
        self._screen.app.push_screen(ConfirmDialog(title, rows, "empty"), answered)


def _size_problem(text: str) -> str:
    try:
        parse_size(text)
    except LobaError as error:
        return str(error)
    return ""
