"""The Cache screen: what models take on disk and in memory, and every command of the cache."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget

from loba_tui.client.cache import hub_text
from loba_tui.client.runs import steer as runs
from loba_tui.core.associate.caches.hub.requests import Removal, Target
from loba_tui.core.associate.caches.hub.targets import target_name
from loba_tui.core.errors import LobaError
from loba_tui.core.run.control import CommandKind
from loba_tui.core.units import show_size
from loba_tui.screens.base import FILTER, asks
from loba_tui.screens.cache import removal
from loba_tui.screens.cache.rows import COLUMNS, needed_rows, node_row, targets_of
from loba_tui.screens.cache.transfers import Transfers
from loba_tui.screens.cache.tree import SORTS, CacheState, Node, parse_filters
from loba_tui.screens.table_screen import TableScreen
from loba_tui.widgets.dialogs import TextDialog
from loba_tui.widgets.line import Line, Lines, Piece
from loba_tui.widgets.table import MarkTable
from loba_tui.widgets.table_rows import Row

_MEMORY_SECONDS = 5.0


class CacheScreen(TableScreen):
    """A tree of repositories, revisions and files, and of what living runs hold in memory."""

    BINDING_GROUP_TITLE = "Cache"
    FILTER_HINT = "words, size>1GB, used>30d, refs=main, is=pinned, type=dataset, owner/*"
    HELP_TEXT = "What is removed lies in a trash beside the cache until T empties it."
    AUTO_FOCUS = TABLE = "#tree"
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
        super().__init__()
        self._state: CacheState | None = None
        self._by_key: dict[str, Node] = {}
        self._rows: dict[str, tuple[Node, bool, Row]] = {}
        self._opened: set[str] = set()
        self._filter = ""
        self._sort, self._is_reversed = 0, False
        self._transfers = Transfers(self)

    def compose_body(self) -> Iterable[Widget]:
        yield MarkTable(COLUMNS, id="tree", can_sort=False)
        yield Lines(id="uncached")
        progress = Line(id="progress")
        progress.display = False
        yield progress

    def on_mount(self) -> None:
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
        self.table.set_rows([self._row(node, state) for node in nodes])
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
        rows: list[list[Piece]] = [
            [("Nothing is cached yet.", "strong")],
            [f"The hub's cache is {state.cache.root}"],
            ["Press ", ("n", "key"), " to fetch a model; ", ("z", "key"), " undoes a deletion."],
        ]
        lines.show(rows)

    def _tell_summary(self) -> None:
        state = self._state
        if state is None:
            return
        marked = self.table.marked
        size = show_size(sum(self._by_key[key].size for key in marked if key in self._by_key))
        words = [f"{show_size(state.found.size)} in {len(state.found.repositories)} repositories"]
        words += [f"{len(marked)} marked, {size}"] if marked else []
        words += [f"/{self._filter}"] if self._filter else []
        words += [f"by {SORTS[self._sort]}"]
        self.about(" · ".join(words))

    def one_line(self) -> str:
        return hub_text.total_line(self._state.found) if self._state else "reading the cache"

    def filter_changed(self, text: str) -> str:
        self._filter = text
        return self._show_rows()

    def filter_text(self) -> str:
        return self._filter

    def on_mark_table_marked(self, event: MarkTable.Marked) -> None:
        self._tell_summary()

    def on_mark_table_chosen(self, event: MarkTable.Chosen) -> None:
        self.action_open(event.key not in self._opened)

    def action_open(self, wanted: bool) -> None:
        """Show what is below a row, or hide it; on what is closed, go to the row above it."""
        node = self.here(self._by_key)
        if node is None:
            return
        if wanted:
            self._opened |= set() if node.leaf else {node.key}
        elif node.key in self._opened:
            self._opened.discard(node.key)
        elif node.depth:
            keys = list(self._by_key)
            above = keys[: keys.index(node.key)]
            self.table.go_to(next(k for k in reversed(above) if self._by_key[k].depth < node.depth))
        self._show_rows()

    def action_sort(self) -> None:
        self._sort, self._is_reversed = (self._sort + 1) % len(SORTS), False
        self._show_rows()

    def action_reverse(self) -> None:
        self._is_reversed = not self._is_reversed
        self._show_rows()

    # Commands

    def _targets(self) -> list[Target]:
        try:
            return targets_of(self.chosen(self._by_key))
        except LobaError as error:
            self.tell_error(error)
            return []

    def _done(self, text: str) -> None:
        if text:
            self.tell(text, "good")
            self.action_read()

    @asks
    async def action_remove(self) -> None:
        targets = self._targets()
        if targets and self._state is not None:
            self._done(await removal.remove(self, self._state, Removal(tuple(targets))))

    @asks
    async def action_prune(self) -> None:
        if self._state is not None:
            self._done(await removal.prune(self, self._state))

    @asks
    async def action_undo(self) -> None:
        if self._state is not None:
            self._done(await removal.undo(self, self._state.cache))

    @asks
    async def action_trash(self) -> None:
        if self._state is not None:
            self._done(await removal.trash(self, self._state.cache))

    @asks
    async def action_pull(self) -> None:
        self._done(await self._transfers.pull())

    @asks
    async def action_verify(self) -> None:
        """Read every file of the chosen repositories again and compare it with its checksum."""
        targets = self._targets()
        if targets and self._state is not None:
            await self._transfers.verify(self._state, targets)

    def action_cancel(self) -> None:
        self._transfers.cancel()

    @asks
    async def action_pin(self) -> None:
        """Pin the chosen rows, or take their pins away where all have one."""
        targets, state = self._targets(), self._state
        if not targets or state is None:
            return
        wanted = list(dict.fromkeys(Target(each.folder, each.commit) for each in targets))
        keep = not set(wanted) <= await self.in_thread(state.cache.pins)
        await self.in_thread(state.cache.pin, wanted, keep=keep)
        names = ", ".join(target_name(state.found, each) for each in wanted)
        self._done(f"{'pinned' if keep else 'unpinned'} {names}")

    @asks
    async def action_needs(self) -> None:
        targets, state = self._targets(), self._state
        if not targets or state is None:
            return
        target = Target(targets[0].folder, targets[0].commit)
        rows = await self.in_thread(needed_rows, state, target)
        await self.ask(TextDialog(target_name(state.found, target), rows))

    def action_memory(self, kind: CommandKind) -> None:
        node = self.here(self._by_key)
        if node is None or node.kind != "component" or node.run is None:
            self.tell("This moves components in memory; none is under the cursor.", "warn")
            return
        run, component = node.run, node.name
        self.work(lambda: runs.steer(run, runs.memory_command(run, kind, component)), self._done)

    def action_copy(self) -> None:
        """Copy the id through the terminal (OSC 52)."""
        chosen = self.chosen(self._by_key)
        if chosen:
            self.copy(chosen[0].name)
