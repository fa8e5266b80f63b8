"""Checks of `parallel` against other sections: combinations that an engine cannot train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loba_tui.core.plugins import Plugin
from loba_tui.core.recipe.problems import Problem
from loba_tui.core.recipe.schema import AdapterSection
from loba_tui.core.recipe.tree import Node
from loba_tui.core.text import quote

_ENGINE = ("parallel", "engine")
_WITHOUT_SHARDS: tuple[tuple[tuple[str, ...], Any, str], ...] = (
    (("base_model", "quantize"), None, "packed weights cannot be divided"),
    (("base_model", "offload"), "none", "offloading moves weights that each process holds whole"),
    (("train", "compile"), "none", "a compiled block has its weights where they were"),
    (("train", "exactness"), "exact", "fast lays out weights that each process holds whole"),
    (("proof", "attacks"), None, "an attack takes gradients on one process alone"),
)
_SHARDED_ADAPTERS = ("lora", "locon", "loha", "lokr", "oft")


def check_parallel(tree: Node, method: Plugin | None) -> Iterator[Problem]:
    """Yield what the chosen engine cannot train together with."""
    if tree.plain_at(_ENGINE) == "fsdp2":
        yield from _check_shards(tree, method)


def _check_shards(tree: Node, method: Plugin | None) -> Iterator[Problem]:
    """Yield what needs weights that are not whole between forwards, or uneven forwards."""
    for path, usual, reason in _WITHOUT_SHARDS:
        given = tree.at(path)
        if given is not None and given.plain() != usual:
            message = f"{reason}, so that it does not go with parallel.engine: fsdp2"
            yield tree.problem(path, f"{message}; leave one of both out")
    if method is not None and method.constants.get("TEXT_ONLY"):
        message = f"{method.name} trains text encoders alone, which each process holds whole"
        yield tree.problem(_ENGINE, f"{message}; take ddp")
    adapter = tree.plain_at(("adapter", "name")) or AdapterSection().name
    if adapter not in _SHARDED_ADAPTERS:
        # DoRA needs the norms of whole weights where nothing gathers them.
        message = f"fsdp2 trains {', '.join(_SHARDED_ADAPTERS)}; take ddp for {quote(adapter)}"
        yield tree.problem(_ENGINE, message)
