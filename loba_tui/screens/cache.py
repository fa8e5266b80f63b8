"""The Cache screen: what models take on disk and in memory, and every command of the cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget

from loba_tui import cache_listing, cache_pulling, runs
from loba_tui.cache_tree import SORTS, CacheState, Node, parse_filters
from loba_tui.core.associate.caches import hub
from loba_tui.core.associate.caches.hub_query import parse_size, show_size
from loba_tui.core.errors import LobaError
from loba_tui.core.run.control import CommandKind
from loba_tui.screens.base import FILTER, LobaScreen
from loba_tui.screens.cache_rows import (
    COLUMNS,
    Ticker,
    check_model_id,
    needed_rows,
    node_row,
    removal_hint,
    removal_rows,
    targets_of,
    verified_rows,
)
from loba_tui.widgets.dialogs import Choice, ChoiceDialog, ConfirmDialog, LineDialog, TextDialog
from loba_tui.widgets.line import Line, Lines, Piece
from loba_tui.widgets.table import MarkTable, Row

_DAY = 86400.0
_MEMORY_SECONDS = 5.0


class CacheScreen(LobaScreen):
    """A tree of repositories, revisions and files, and of what living runs hold in memory."""

    BINDING_GROUP_TITLE = "Cache"
    FILTER_HINT = "words, size>1GB, used>30d, refs=main, is=pinned, type=dataset, owner/*"
    HELP_TEXT = "What is removed lies in a trash beside the cache until T empties it."
    AUTO_FOCUS = "#tree"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "remove", "delete", id="cache.remove"),
        Binding("z", "undo", "undo", id="cache.undo"),
        Binding("p", "pin", "pin", id="cache.pin"),
        Binding("n", "pull", "pull", id="cache.pull"),
        Binding("w", "needs", "what needs it", id="cache.needs"),
        Binding("V", "verify", "verify", id="cache.verify"),
        Binding("x", "prune", "prune", id="cache.prune"),
        Binding("T", "trash", "trash", show=False, id="cache.trash"),
        Binding("o", "sort", "next order", show=False, id="cache.sort"),
        Binding("O", "reverse", "reverse the order", show=False, id="cache.reverse"),
        Binding("l,right", "open(True)", "open", show=False, id="cache.open"),
        Binding("h,left", "open(False)", "close", show=False, id="cache.close"),
        Binding("u", "memory('unload')", "unload from memory", show=False, id="cache.unload"),
        Binding("m", "memory('offload')", "move to the CPU", show=False, id="cache.offload"),
        Binding("M", "memory('onload')", "move to the device", show=False, id="cache.onload"),
        Binding("X", "cancel", "end pull or check", show=False, id="cache.cancel"),
        Binding("y", "copy", "copy the id", show=False, id="cache.copy"),
        Binding("r", "read", "read again", show=False, id="cache.read"),
        FILTER,
    ]

    def __init__(self) -> None:
        """Know nothing yet."""
        super().__init__()
        self._state: CacheState | None = None
        self._by_key: dict[str, Node] = {}
        self._rows: dict[str, tuple[Node, bool, Row]] = {}
        self._opened: set[str] = set()
        self._filter = ""
        self._sort, self._is_reversed = 0, False
        self._ticker: Ticker | None = None

    def compose_body(self) -> Iterable[Widget]:
        """Yield the tree and the line that says how far long work is."""
        yield MarkTable(COLUMNS, id="tree", can_sort=False)
        yield Lines(id="uncached")
        progress = Line(id="progress")
        progress.display = False
        yield progress

    def on_mount(self) -> None:
        """Look now and then for what runs hold in memory."""
        self.set_interval(_MEMORY_SECONDS, self._look_again)

    def on_unmount(self) -> None:
        """End what is being fetched or checked: threads would keep the program from ending."""
        self.action_cancel()

    def shown_again(self) -> None:
        """Read again: other programs may have changed the cache."""
        self.action_read()

    def _look_again(self) -> None:
        if self._state is not None and self._state.memory and self.app.screen_stack[0] is self:
            self.action_read()

    def action_read(self) -> None:
        """Read the cache and the ledger."""
        environ = self.context.environ
        self.work(
            lambda: CacheState.read(environ, [Path("recipes")]),
            self._show_state,
            group="read",
            exclusive=True,
        )

    # What is shown

    def _show_state(self, state: CacheState) -> None:
        if self._state is None:
            self._opened |= {run.key for run, _ in state.memory}
        self._state = state
        self._rows.clear()  # ages and bars are relative to what was read
        self._show_rows()

    def _show_rows(self) -> str:
        state = self._state
        if state is None:
            return ""
        tests, problem = parse_filters(self._filter)
        order = SORTS[self._sort]
        if self._is_reversed:
            order += ":desc" if order == "name" else ":asc"
        nodes = list(state.rows(self._opened, tests, order))
        self._by_key = {node.key: node for node in nodes}
        table = self.query_one("#tree", MarkTable)
        table.set_rows([self._row(node, state) for node in nodes])
        self._show_emptiness(state)
        self._tell_summary()
        return problem

    def _row(self, node: Node, state: CacheState) -> Row:
        """Return a node's row; thousands of them are made once, and not at every key."""
        is_open = node.key in self._opened
        known = self._rows.get(node.key)
        if known is None or known[:2] != (node, is_open):
            known = (node, is_open, node_row(node, state, is_open=is_open))
            self._rows[node.key] = known
        return known[2]

    def _show_emptiness(self, state: CacheState) -> None:
        lines = self.query_one("#uncached", Lines)
        lines.display = not state.roots and not state.memory
        lines.show(
            [
                [("Nothing is cached yet.", "strong")],
                [f"The hub's cache is {state.cache.root}"],
                [
                    "Press ",
                    ("n", "key"),
                    " to fetch a model; ",
                    ("z", "key"),
                    " undoes a deletion.",
                ],
            ]
        )

    def _tell_summary(self) -> None:
        state = self._state
        if state is None:
            return
        marked = self.query_one("#tree", MarkTable).marked
        size = show_size(sum(self._by_key[key].size for key in marked if key in self._by_key))
        words = [f"{show_size(state.found.size)} in {len(state.found.repositories)} repositories"]
        words += [f"{len(marked)} marked, {size}"] if marked else []
        words += [f"/{self._filter}"] if self._filter else []
        words += [f"by {SORTS[self._sort]}"]
        self.about(" · ".join(words))

    def one_line(self) -> str:
        """Return what the cache takes."""
        return cache_listing.total_line(self._state.found) if self._state else "reading the cache"

    def filter_changed(self, text: str) -> str:
        """Show only what passes."""
        self._filter = text
        return self._show_rows()

    def filter_text(self) -> str:
        """Return the filter."""
        return self._filter

    def on_mark_table_marked(self, event: MarkTable.Marked) -> None:
        """Count what is marked."""
        self._tell_summary()

    def on_mark_table_chosen(self, event: MarkTable.Chosen) -> None:
        """Open or close a row."""
        self.action_open(event.key not in self._opened)

    def action_open(self, wanted: bool) -> None:
        """Show what is below a row, or hide it; on what is closed, go to the row above it."""
        table = self.query_one("#tree", MarkTable)
        node = self._by_key.get(table.cursor_key or "")
        if node is None:
            return
        if wanted:
            self._opened |= set() if node.leaf else {node.key}
        elif node.key in self._opened:
            self._opened.discard(node.key)
        elif node.depth:
            keys = list(self._by_key)
            above = keys[: keys.index(node.key)]
            table.go_to(next(k for k in reversed(above) if self._by_key[k].depth < node.depth))
        self._show_rows()

    def action_sort(self) -> None:
        """Order by the next key."""
        self._sort, self._is_reversed = (self._sort + 1) % len(SORTS), False
        self._show_rows()

    def action_reverse(self) -> None:
        """Turn the order around."""
        self._is_reversed = not self._is_reversed
        self._show_rows()

    # Commands

    def _chosen(self) -> list[Node]:
        keys = self.query_one("#tree", MarkTable).chosen
        return [self._by_key[key] for key in keys if key in self._by_key]

    def _targets(self) -> list[hub.Target]:
        try:
            return targets_of(self._chosen())
        except LobaError as error:
            self.tell_error(error)
            return []

    def _done(self, text: str) -> None:
        self.tell(text, "good")
        self.action_read()

    def action_remove(self) -> None:
        """Plan what removing the chosen rows does, and do it after a yes."""
        targets = self._targets()
        if targets:
            self._plan(hub.Removal(tuple(targets)))

    def _plan(self, wish: hub.Removal | hub.Prune) -> None:
        state = self._state
        if state is None:
            return

        def confirm(plan: hub.Plan) -> None:
            # As wide as a dialog: see .dialog in app.tcss.
            width = min(90, int(self.size.width * 0.9) - 6)
            rows = removal_rows(state, plan, width)
            if plan.is_refused or not plan.items:
                title = "This cannot be removed" if plan.is_refused else "Nothing to remove"
                self.app.push_screen(TextDialog(title, rows))
                return

            def answered(yes: bool | None) -> None:
                if yes:
                    self.query_one("#tree", MarkTable).unmark()
                    self.work(lambda: state.cache.execute(plan), removed)

            def removed(entry: hub.Entry | None) -> None:
                self._done(f"moved {show_size(plan.frees)} to the trash; z brings it back")

            title = f"Remove this and free {show_size(plan.frees)}?"
            rows += removal_hint(state, plan, width)
            self.app.push_screen(ConfirmDialog(title, rows, "remove"), answered)

        self.work(lambda: state.cache.plan(wish), confirm)

    def action_prune(self) -> None:
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
                self.app.push_screen(dialog, sized)
            elif rule == "leftovers":
                wish = {"detached": True, "incomplete": True, "unreferenced": True}
                self._plan(hub.Prune(time.time(), **wish))
            elif rule is not None:
                self._plan(hub.Prune(time.time(), unused_seconds=float(rule) * _DAY))

        def sized(text: str | None) -> None:
            if text is not None:
                self._plan(hub.Prune(time.time(), keep_bytes=parse_size(text)))

        self.app.push_screen(ChoiceDialog("Prune", choices), chosen)

    def action_undo(self) -> None:
        """Bring the newest deletion back."""
        self._undo(None)

    def _undo(self, entry_id: str | None) -> None:
        if self._state is not None:
            cache = self._state.cache
            self.work(
                lambda: list(cache_listing.restored_lines(cache.undo(entry_id))),
                lambda lines: self._done("; ".join(line.strip() for line in lines)),
            )

    def action_trash(self) -> None:
        """Show what can be brought back, and what emptying the trash frees."""
        if self._state is None:
            return
        cache = self._state.cache

        def show(found: tuple[list[tuple[str, str]], int]) -> None:
            entries, size = found
            if not entries:
                self.tell("The trash is empty.")
                return
            choices = [Choice(key, line, "bring back") for key, line in reversed(entries)]
            choices.append(Choice("", f"empty all of it and free {show_size(size)}"))

            def chosen(key: str | None) -> None:
                if key:
                    self._undo(key)
                elif key is not None:
                    self._empty(cache, [line for _, line in entries], size)

            self.app.push_screen(ChoiceDialog("Trash", choices), chosen)

        def look() -> tuple[list[tuple[str, str]], int]:
            entries = cache.trash()
            records = [cache_listing.entry_record(e, cache.trash_size([e])) for e in entries]
            lines = [(r["id"], cache_listing.entry_line(r)) for r in records]
            return lines, cache.trash_size(entries)

        self.work(look, show)

    def _empty(self, cache: hub.HubCache, lines: list[str], size: int) -> None:
        rows: list[list[Piece]] = [[line] for line in lines]
        rows += [[""], [("This cannot be undone.", "warn")]]

        def answered(yes: bool | None) -> None:
            if yes:
                self.work(
                    lambda: cache.empty_trash(cache.trash()),
                    lambda freed: self._done(f"freed {show_size(freed)}"),
                )

        title = f"Empty the trash and free {show_size(size)}?"
        self.app.push_screen(ConfirmDialog(title, rows, "empty"), answered)

    def action_pin(self) -> None:
        """Pin the chosen rows, or take their pins away where all have one."""
        targets, state = self._targets(), self._state
        if not targets or state is None:
            return
        wanted = list(dict.fromkeys(hub.Target(each.folder, each.commit) for each in targets))

        def change() -> str:
            keep = not set(wanted) <= state.cache.pins()
            state.cache.pin(wanted, keep=keep)
            names = ", ".join(hub.target_name(state.found, each) for each in wanted)
            return f"{'pinned' if keep else 'unpinned'} {names}"

        self.work(change, self._done)

    def action_needs(self) -> None:
        """Show which runs and recipes need a model, and everything else known of it."""
        targets, state = self._targets(), self._state
        if not targets or state is None:
            return
        target = hub.Target(targets[0].folder, targets[0].commit)
        name = hub.target_name(state.found, target)
        self.work(lambda: needed_rows(state, target), lambda rows: self._show_text(name, rows))

    def _show_text(self, title: str, rows: list[list[Piece]]) -> None:
        self.app.push_screen(TextDialog(title, rows))

    def action_memory(self, kind: CommandKind) -> None:
        """Move a component of a living run's model."""
        node = self._by_key.get(self.query_one("#tree", MarkTable).cursor_key or "")
        if node is None or node.kind != "component" or node.run is None:
            self.tell("This moves components in memory; none is under the cursor.", "warn")
            return
        run, component = node.run, node.name
        self.work(lambda: runs.steer(run, runs.memory_command(run, kind, component)), self._done)

    def action_copy(self) -> None:
        """Copy the id through the terminal (OSC 52)."""
        chosen = self._chosen()
        if chosen:
            self.app.copy_to_clipboard(chosen[0].name)
            self.tell(f"copied {chosen[0].name}")

    # Long work

    def _begin(self) -> Ticker | None:
        if self._ticker is not None:
            self.tell("One pull or check at a time; X ends this one.", "warn")
            return None
        line = self.query_one("#progress", Line)
        line.say(("working …", "dim"))
        line.display = True
        self._ticker = Ticker(lambda text: self._from_thread(lambda: line.say(text)))
        return self._ticker

    def _from_thread(self, act: Callable[[], object]) -> None:
        if self.app.is_running:
            self.app.call_from_thread(act)

    def _end(self) -> None:
        self._ticker = None
        self.query_one("#progress", Line).display = False

    def _long(self, ticker: Ticker, act: Callable[[], Callable[[], None]]) -> None:
        """Do long work in a thread; what it returns is called in the UI at its end."""

        def guarded() -> Callable[[], None]:
            try:
                return act()
            except (LobaError, OSError) as error:
                return partial(self.tell_error, error)

        def done(then: Callable[[], None]) -> None:
            self._end()
            then()

        self.work(guarded, done, group="long")

    def action_cancel(self) -> None:
        """End the pull or check that goes on."""
        if self._ticker is not None:
            self._ticker.cancel()

    def action_pull(self) -> None:
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

        self.app.push_screen(LineDialog("Pull", rows, check=check_model_id), named)

    def _planned_pull(
        self, ticker: Ticker, model_id: str, revision: str | None
    ) -> Callable[[], None]:
        # The hub's client takes half a second to import.
        from loba_tui.core.associate.caches import hub_pull

        plan = hub_pull.plan_pull(model_id, revision, variant=None, only=())
        ticker.check()

        def confirm() -> None:
            def answered(yes: bool | None) -> None:
                following = self._begin() if yes else None
                if following is not None:
                    self._long(following, lambda: pulled(following))

            rows: list[list[Piece]] = [[line] for line in cache_pulling.plan_lines(plan)]
            title = f"Fetch {show_size(plan.to_fetch)}?"
            self.app.push_screen(ConfirmDialog(title, rows, "fetch"), answered)

        def pulled(following: Ticker) -> Callable[[], None]:
            missing = sum(not file.is_there for file in plan.files)
            folder = hub_pull.pull(plan, following.report(plan.to_fetch, missing))
            return lambda: self._done(f"fetched {plan.model_id} to {folder}")

        return confirm

    def action_verify(self) -> None:
        """Read every file of the chosen repositories again and compare it with its checksum."""
        targets, state = self._targets(), self._state
        ticker = self._begin() if targets and state is not None else None
        if ticker is None or state is None:
            return
        folders = dict.fromkeys(target.folder for target in targets)
        chosen = [each for each in state.found.repositories if each.folder in folders]

        def check() -> Callable[[], None]:
            results: list[hub.Checked] = []
            for repository in chosen:
                for checked in state.cache.verify(repository):
                    results.append(checked)
                    ticker.tell(f"{len(results)} files: {checked.repository} {checked.path}")
            title, rows = verified_rows(results)
            return lambda: self._show_verdict(title, rows)

        self._long(ticker, check)

    def _show_verdict(self, title: str, rows: list[list[Piece]]) -> None:
        if rows:
            self._show_text(title, rows)
        else:
            self.tell(f"verified: {title}", "good")


def _size_problem(text: str) -> str:
    try:
        parse_size(text)
    except LobaError as error:
        return str(error)
    return ""
