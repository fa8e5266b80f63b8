"""Rows of the Cache screen: its tree, its plans, and who needs a model."""

from __future__ import annotations

import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from loba_tui.client.cache import hub_text
from loba_tui.client.plans.ascii_charts import Canvas
from loba_tui.core.associate.caches.hub.requests import Plan, Removal, Target
from loba_tui.core.associate.caches.hub.targets import target_name
from loba_tui.core.associate.caches.hub.verify import Checked
from loba_tui.core.errors import Interrupted, RecipeError
from loba_tui.core.units import show_age, show_size
from loba_tui.screens.cache.tree import CacheState, Node
from loba_tui.widgets.line import Piece
from loba_tui.widgets.table_rows import Cell, Column, Row

if TYPE_CHECKING:
    from loba_tui.core.associate.caches.transfer.fetch import WantedFile

_BAR = 10
_CANVAS = Canvas(80, True)
_REPORT_SECONDS = 0.5
COLUMNS = (
    Column("name", "name", 0, least=20),
    Column("size", "size", 8, "right"),
    Column("bar", "", _BAR, at_least=70),
    Column("used", "used", 6, "right", at_least=76),
    Column("fetched", "fetched", 7, "right", at_least=96),
    Column("refs", "refs", 18, at_least=108),
    Column("marks", "marks", 16, at_least=60),
)
_BAD = frozenset({"broken", "incomplete"})


def node_row(node: Node, state: CacheState, *, is_open: bool) -> Row:
    """Return a row of the tree."""
    sign = "  " if node.leaf else ("▾ " if is_open else "▸ ")
    largest = state.largest
    share = node.size / largest if largest and node.kind != "component" else 0.0
    is_bad = bool(node.marks) if node.kind == "file" else bool(_BAD & set(node.marks))
    return Row(
        node.key,
        (
            Cell(f"{'  ' * node.depth}{sign}{node.name}", "good" if node.kind == "run" else ""),
            show_size(node.size),
            Cell(_CANVAS.bar(share, _BAR), "dim"),
            _age(node.used, state.now),
            _age(node.fetched, state.now),
            Cell(node.refs, "dim"),
            Cell(" ".join(node.marks), "warn" if is_bad else "dim"),
        ),
    )


def _age(when: float | None, now: float) -> str:
    return show_age(max(0.0, now - when)) if when else ""


def removal_rows(state: CacheState, plan: Plan, width: int) -> list[list[Piece]]:
    """Return a plan for reading, wrapped; what stays or breaks is set off."""
    rows: list[list[Piece]] = []
    for line in hub_text.plan_lines(state.found, plan):
        is_warning = line.startswith("breaks") or line.lstrip().startswith("stays")
        tone = "warn" if is_warning else ""
        rows += [[(part, tone)] for part in wrapped(line, width)]
    return rows


def wrapped(line: str, width: int) -> list[str]:
    """Return a line in parts that fit, the later ones indented."""
    return textwrap.wrap(line, max(20, width), subsequent_indent="    ") or [""]


def removal_hint(state: CacheState, plan: Plan, width: int) -> list[list[Piece]]:
    """Return what happens to what goes, and the command that does the same."""
    names = " ".join(target_name(state.found, target) for target in plan.targets[:3])
    more = " …" if len(plan.targets) > 3 else ""
    command = "rm" if isinstance(plan.request, Removal) else "prune"
    shown = f" {names}{more}" if command == "rm" else ""
    rows: list[list[Piece]] = [
        [""],
        ["It goes to the trash beside the cache; ", ("z", "key"), " brings it back."],
    ]
    same = f"the same as: loba cache {command}{shown}"
    return rows + [[(part, "dim")] for part in wrapped(same, width)]


def needed_rows(state: CacheState, target: Target) -> list[list[Piece]]:
    """Return who needs a repository or revision, and everything else that is known of it."""
    record = hub_text.repository_record(state.cache, state.found, target)
    rows: list[list[Piece]] = [[("What needs it", "strong")]]
    users = [f"  run {run['name']}: {run['state']}" for run in record["runs"]]
    users += [f"  recipe {path}" for path in record["recipes"]]
    rows += [[line] for line in users]
    if len(rows) == 1:
        rows.append(["  no run that is known, and no recipe in ./recipes"])
    rows += [[""], [("What it is", "strong")]]
    without = record | {"runs": [], "recipes": []}
    return rows + [[f"  {line}"] for line in hub_text.repository_lines(without)]


def verified_rows(results: Sequence[Checked]) -> tuple[str, list[list[Piece]]]:
    """Return the verdict of a check as a title, and what is wrong as rows."""
    counts = hub_text.verdict_counts(results)
    title = hub_text.verdict_line(counts)
    rows: list[list[Piece]] = [
        [
            (f"{each.verdict:9}", "bad" if each.verdict in ("damaged", "missing") else "warn"),
            f"{each.repository} {each.path}: {each.why}",
        ]
        for each in results
        if each.verdict != "good"
    ]
    if counts["damaged"] or counts["missing"]:
        rows += [[""], ["Remove the revision with ", ("d", "key"), " and fetch it again."]]
    return title or "nothing to check", rows


class Ticker:
    """Says how far long work is, from its threads and at most twice a second, and can end it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._told = 0.0
        self._bytes = self._files = 0

    def cancel(self) -> None:
        self._stop.set()

    def check(self) -> None:
        """Raise Interrupted where the work was ended."""
        if self._stop.is_set():
            raise Interrupted("It was ended; what came is kept.")

    def tell(self, text: str) -> None:
        """Say how far it is, unless that was said just now."""
        self.check()
        if time.monotonic() - self._told >= _REPORT_SECONDS:
            self._told = time.monotonic()
            self._say(text)

    def report(self, total: int, num_files: int) -> Callable[[WantedFile | None, int], None]:
        """Return what a pull calls with files that are complete and bytes that came."""

        def take(file: WantedFile | None, num_bytes: int) -> None:
            with self._lock:
                self._bytes += num_bytes
                self._files += file is not None
                share = _CANVAS.bar(self._bytes / total if total else 1.0, 20)
                self.tell(
                    f"{share} {show_size(self._bytes)} of {show_size(total)},"
                    f" {self._files} of {num_files} files"
                )

        return take


def check_model_id(text: str) -> str:
    """Return what is wrong with ID[@REVISION], or ""."""
    name = text.removeprefix("hf://").partition("@")[0]
    is_id = name.count("/") == 1 and all(part.strip() for part in name.split("/"))
    return "" if is_id else "Expected owner/name, or owner/name@revision."


def targets_of(nodes: Sequence[Node]) -> list[Target]:
    """Return what the chosen rows name in the hub's cache.

    Raises:
        RecipeError: None of them is in it.
    """
    targets = [node.target for node in nodes if node.target is not None]
    if not targets:
        raise RecipeError(
            "This is not in the hub's cache.",
            "Components in memory take u, m and M; kept tensors: loba cache rm --help.",
        )
    return targets
