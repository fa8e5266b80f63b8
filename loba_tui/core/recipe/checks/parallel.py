"""Checks of `parallel` against other sections: combinations that an engine cannot train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loba_tui.core.plugins import Plugin
from loba_tui.core.recipe.problems import Problem
from loba_tui.core.recipe.tree import Node

_NOT_WITH_SHARDS: tuple[tuple[tuple[str, str], Any, str], ...] = (
    (("base_model", "quantize"), None, "packed weights cannot be shared by elements"),
    (("base_model", "offload"), "none", "offloading moves weights that each process holds whole"),
    (("train", "compile"), "none", "a compiled block has its weights where they were"),
    (("train", "exactness"), "exact", "it lays out whole weights anew"),
    (("proof", "attacks"), None, "an attack takes gradients on the first process alone"),
)


def check_parallel(tree: Node, method: Plugin | None) -> Iterator[Problem]:
    """Yield what the chosen engine cannot train together with."""
    engine = tree.plain_at(("parallel", "engine"))
    if engine != "fsdp2":
        return
    for path, usual, reason in _NOT_WITH_SHARDS:
        given = tree.at(path)
        if given is not None and given.plain() != usual:
            message = f"{reason}, so that it does not go with parallel.engine: fsdp2"
            yield tree.problem(path, f"{message}; leave one of both out")
    if method is not None and method.constants.get("TEXT_ONLY"):
        message = f"{method.name} trains text encoders alone, which each process holds whole"
        yield tree.problem(("parallel", "engine"), f"{message}; take ddp")
