"""Taking things out of the cache from a screen: plan, yes, trash, undo.

Each of these asks over the screen and returns what was done in a sentence, "" where nothing was.
"""

from __future__ import annotations

import time
from functools import partial

from loba_tui.client.cache import hub_text
from loba_tui.core.associate.caches.hub.cache import HubCache
from loba_tui.core.associate.caches.hub.requests import Prune, Removal
from loba_tui.core.units import parse_size, show_size
from loba_tui.screens.base import LobaScreen, problem_of
from loba_tui.screens.cache.rows import removal_hint, removal_rows
from loba_tui.screens.cache.tree import CacheState
from loba_tui.widgets.dialogs import Choice, ChoiceDialog, ConfirmDialog, LineDialog, TextDialog
from loba_tui.widgets.line import Piece
from loba_tui.widgets.table import MarkTable

_DAY = 86400.0
_RULES = (
    Choice("leftovers", "what broken downloads and old revisions left"),
    Choice("30", "what was neither used nor fetched for 30 days"),
    Choice("90", "what was neither used nor fetched for 90 days"),
    Choice("under", "the least recently used, until the cache is small enough"),
)


async def remove(screen: LobaScreen, state: CacheState, request: Removal | Prune) -> str:
    """Show what a removal frees and breaks, and do it after a yes."""
    plan = await screen.in_thread(state.cache.plan, request)
    # As wide as a dialog: see .dialog in app.tcss.
    width = min(90, int(screen.size.width * 0.9) - 6)
    rows = removal_rows(state, plan, width)
    if plan.is_refused or not plan.items:
        title = "This cannot be removed" if plan.is_refused else "Nothing to remove"
        await screen.ask(TextDialog(title, rows))
        return ""
    size = show_size(plan.frees)
    rows += removal_hint(state, plan, width)
    if not await screen.ask(ConfirmDialog(f"Remove this and free {size}?", rows, "remove")):
        return ""
    screen.query_one("#tree", MarkTable).unmark()
    await screen.in_thread(state.cache.execute, plan)
    return f"moved {size} to the trash; z brings it back"


async def prune(screen: LobaScreen, state: CacheState) -> str:
    """Choose a rule of what is of no more use, and remove that."""
    rule = await screen.ask(ChoiceDialog("Prune", _RULES))
    if rule is None:
        return ""
    now = time.time()
    if rule == "leftovers":
        request = Prune(now, detached=True, incomplete=True, unreferenced=True)
    elif rule == "under":
        rows = [["Such as 200GB or 500GiB."]]
        dialog = LineDialog("Keep the cache under", rows, check=partial(problem_of, parse_size))
        text = await screen.ask(dialog)
        if text is None:
            return ""
        request = Prune(now, keep_bytes=parse_size(text))
    else:
        request = Prune(now, unused_seconds=float(rule) * _DAY)
    return await remove(screen, state, request)


async def undo(screen: LobaScreen, cache: HubCache, entry_id: str | None = None) -> str:
    """Bring a deletion back, the newest where none is named."""
    entry = await screen.in_thread(cache.undo, entry_id)
    return "; ".join(line.strip() for line in hub_text.restored_lines(entry))


async def trash(screen: LobaScreen, cache: HubCache) -> str:
    """Show what can be brought back, and what emptying the trash frees."""
    entries, size = await screen.in_thread(_trashed, cache)
    if not entries:
        screen.tell("The trash is empty.")
        return ""
    choices = [Choice(key, line, "bring back") for key, line in reversed(entries)]
    choices.append(Choice("", f"empty all of it and free {show_size(size)}"))
    key = await screen.ask(ChoiceDialog("Trash", choices))
    if key is None:
        return ""
    if key:
        return await undo(screen, cache, key)
    rows: list[list[Piece]] = [[line] for _, line in entries]
    rows += [[""], [("This cannot be undone.", "warn")]]
    title = f"Empty the trash and free {show_size(size)}?"
    if not await screen.ask(ConfirmDialog(title, rows, "empty")):
        return ""
    freed = await screen.in_thread(lambda: cache.empty_trash(cache.trash()))
    return f"freed {show_size(freed)}"


def _trashed(cache: HubCache) -> tuple[list[tuple[str, str]], int]:
    """Return id and line of each deletion in the trash, and the bytes of all of them."""
    entries = cache.trash()
    records = [hub_text.entry_record(e, cache.trash_size([e])) for e in entries]
    return [(r["id"], hub_text.entry_line(r)) for r in records], cache.trash_size(entries)
