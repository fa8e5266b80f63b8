"""Latents and embeddings that runs keep, as a backend of `loba cache`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loba_tui.client.cache import tensor_text
from loba_tui.client.cache.backend import Listed, Outcome, PlannedRemoval, Shown, Verified
from loba_tui.core.associate.caches.hub.requests import Prune
from loba_tui.core.associate.caches.tensors import scan as tensor_scan
from loba_tui.core.associate.caches.tensors.layout import KINDS
from loba_tui.core.associate.caches.tensors.prune import (
    Plan,
    execute,
    plan_prune,
    plan_removal,
    tidy,
)
from loba_tui.core.errors import CorruptError, InUseError, RecipeError
from loba_tui.core.text import clean, did_you_mean
from loba_tui.core.units import show_size


class TensorBackend:
    """A `CacheBackend` of tensors, which are made again when needed, so that nothing is undone.

    Args:
        root: Where they are kept; None is nowhere.
        kinds: Which of them a prune takes.

    Raises:
        RecipeError: A kind is none; from all but `rows`: nothing is kept.
    """

    def __init__(self, root: Path | None, kinds: Collection[str] = KINDS) -> None:
        for each in kinds:
            if each not in KINDS:
                raise RecipeError(
                    f"{clean(each, limit=60)} is no kind of what is kept.",
                    did_you_mean(each, KINDS, f"Kinds: {', '.join(KINDS)}."),
                )
        self._folder, self._kinds = root, kinds

    @property
    def _root(self) -> Path:
        if self._folder is None:
            raise RecipeError("Nothing is kept: LOBA_CACHE is off.", "Unset it, or name a folder.")
        return self._folder

    def rows(self, *, revisions: bool) -> Iterator[Listed]:
        return tensor_text.rows(self._folder)

    def total(self, shown: Sequence[Mapping[str, Any]]) -> str:
        return tensor_text.total_line([each for each in shown if "entries" in each])

    def warnings(self) -> Iterator[str]:
        """Yield nothing: marks tell what is broken."""
        return iter(())

    def show(self, target: str) -> Shown:
        groups = tensor_scan.find(tensor_scan.scan(self._root), [target])
        records = [tensor_text.show_record(self._root, group) for group in groups]
        lines = (line for record in records for line in tensor_text.show_lines(record))
        return Shown(records[0] if len(records) == 1 else records, lines)

    def plan_removal(self, targets: Sequence[str], *, for_good: bool) -> PlannedRemoval:
        """Plan to remove whole groups; there is no undo in any case."""
        plan = plan_removal(tensor_scan.find(tensor_scan.scan(self._root), targets))
        in_use = ", ".join(clean(each.id) for each in plan.in_use)

        def refuse() -> None:
            if in_use:
                raise InUseError(
                    f"Nothing was removed: a run uses {in_use}.",
                    "Stop the run, or wait until it is done.",
                )

        return self._planned(plan, refuse, lambda: None)

    def plan_prune(self, rules: Prune, *, for_good: bool) -> PlannedRemoval:
        """Plan to remove entries by age or size, and what broken writes left."""
        if rules.detached or rules.unreferenced:
            raise RecipeError(
                "--detached and --unreferenced are about the hub's cache, not about --type.",
                "Take --unused and --keep-under.",
            )
        root = self._root
        plan = plan_prune(tensor_scan.scan(root, self._kinds), rules)
        return self._planned(plan, refuse=lambda: None, prepare=lambda: tidy(root))

    def _planned(
        self, plan: Plan, refuse: Callable[[], None], prepare: Callable[[], object]
    ) -> PlannedRemoval:
        def do() -> Outcome:
            prepare()
            if not plan.items:
                return Outcome(tensor_text.plan_record(plan), "nothing to remove")
            freed = execute(self._root, plan)
            return Outcome(tensor_text.plan_record(plan, freed), f"freed {show_size(freed)}")

        return PlannedRemoval(
            is_empty=not plan.items,
            record=tensor_text.plan_record(plan),
            lines=list(tensor_text.plan_lines(plan)),
            question=f"Remove it for good and free {show_size(plan.frees)}?",
            refuse=refuse,
            execute=do,
        )

    def verify(
        self, targets: Sequence[str], *, tell: Callable[[str], None], warn: Callable[[str], None]
    ) -> Verified:
        groups = tensor_scan.scan(self._root)
        num_good, damaged = 0, []
        for group in tensor_scan.find(groups, targets) if targets else groups:
            for entry, problem in tensor_scan.verify(self._root, group):
                if problem is None:
                    num_good += 1
                    continue
                damaged.append({"id": group.id, "path": entry.path, "why": problem})
                warn(f"{'damaged':9}{clean(group.id)} {entry.path}: {clean(problem)}")
        error = CorruptError(
            f"{len(damaged)} entries are damaged.", "A run that meets one makes it again."
        )
        return Verified(
            record={"good": num_good, "damaged": len(damaged), "files": damaged},
            summary=f"{num_good} good" + (f", {len(damaged)} damaged" if damaged else ""),
            error=error if damaged else None,
        )
