"""Checks of `parallel` against other sections: combinations that an engine cannot train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from loba_tui.core.plugins import Plugin
from loba_tui.core.recipe.problems import Problem
from loba_tui.core.recipe.schema import AdapterSection, OptimizerSection
from loba_tui.core.recipe.tree import Node
from loba_tui.core.text import quote

_ENGINE = ("parallel", "engine")
_STAGE = ("parallel", "zero_stage")
_DEGREES = ("ulysses", "ring")
_WITHOUT_SHARDS: tuple[tuple[tuple[str, ...], Any, str], ...] = (
    (("base_model", "quantize"), None, "packed weights cannot be divided"),
    (("base_model", "offload"), "none", "offloading moves weights that each process holds whole"),
    (("train", "compile"), "none", "a compiled block has its weights where they were"),
    (("train", "exactness"), "exact", "fast lays out weights that each process holds whole"),
    (("proof", "attacks"), None, "an attack takes gradients on one process alone"),
)
# DoRA needs the norms of whole weights where nothing gathers them.
_SHARDED_ADAPTERS = ("lora", "locon", "loha", "lokr", "oft")
_ZERO_ADAPTERS = ("lora", "locon")
# DeepSpeed steps a flat part of all weights, so that an optimizer must know no shapes, no norms of
# a layer, and no other weights for drawing.
_SHARED_OPTIMIZERS = ("adamw", "lion", "nadam", "radam", "sgd")
_WITHOUT_SHARED_STATES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("adapter", "text_encoders"), "text encoders have no gradients where no row has a prompt"),
    (("adapter", "init"), "no process has the whole gradient that the adapter is to begin along"),
)


def check_parallel(tree: Node, method: Plugin | None) -> Iterator[Problem]:
    """Yield what the chosen engine cannot train together with."""
    engine, stage = tree.plain_at(_ENGINE), tree.plain_at(_STAGE) or 3
    if engine == "fsdp2":
        yield from _check_shards(tree, method, "parallel.engine: fsdp2", _SHARDED_ADAPTERS)
    elif engine == "deepspeed" and stage == 3:
        yield from _check_shards(tree, method, "parallel.zero_stage: 3", _ZERO_ADAPTERS)
    elif engine == "deepspeed":
        yield from _check_shared_states(tree, method, f"parallel.zero_stage: {stage}")
    degrees = [tree.plain_at(("parallel", key)) or 1 for key in _DEGREES]
    if any(isinstance(degree, int) and degree > 1 for degree in degrees):
        yield from _check_shared_tokens(tree, degrees)


def _check_shared_tokens(tree: Node, degrees: Sequence[Any]) -> Iterator[Problem]:
    """Yield what processes cannot share the tokens of a row with."""
    if 1 not in degrees:
        message = "ulysses and ring do not go together; take their product for one of both"
        yield tree.problem(("parallel", "ring"), message)
    engine = tree.plain_at(_ENGINE) or "ddp"
    if engine != "ddp":
        message = f"ulysses and ring share tokens with engine: ddp, not with {engine}"
        yield tree.problem(_ENGINE, message)
    if (tree.plain_at(("train", "compile")) or "none") != "none":
        message = "a compiled block cannot exchange tokens; leave it or parallel's degrees out"
        yield tree.problem(("train", "compile"), message)


def _check_shards(
    tree: Node, method: Plugin | None, engine: str, adapters: tuple[str, ...]
) -> Iterator[Problem]:
    """Yield what needs weights that are not whole between forwards, or uneven forwards."""
    for path, usual, reason in _WITHOUT_SHARDS:
        given = tree.at(path)
        if given is not None and given.plain() != usual:
            message = f"{reason}, so that it does not go with {engine}"
            yield tree.problem(path, f"{message}; leave one of both out")
    if method is not None and method.constants.get("TEXT_ONLY"):
        message = f"{method.name} trains text encoders alone, which each process holds whole"
        yield tree.problem(_ENGINE, f"{message}; take ddp")
    adapter = tree.plain_at(("adapter", "name")) or AdapterSection().name
    if adapter not in adapters:
        message = f"{engine.removeprefix('parallel.engine: ')} trains {', '.join(adapters)}"
        message += f"; take ddp for {quote(adapter)}"
        yield tree.problem(_ENGINE, message)


def _check_shared_states(tree: Node, method: Plugin | None, stage: str) -> Iterator[Problem]:
    """Yield what needs whole gradients, or an optimizer that sees each weight by itself."""
    for path, reason in _WITHOUT_SHARED_STATES:
        given = tree.at(path)
        if given is not None and given.plain() is not None:
            message = f"{reason}, so that it does not go with {stage}"
            yield tree.problem(path, f"{message}; take zero_stage: 3")
    if method is not None and method.constants.get("TEXT_ONLY"):
        message = f"{method.name} trains text encoders alone"
        yield tree.problem(_ENGINE, f"{message}, whose gradients {stage} cannot share; take ddp")
    optimizer = tree.plain_at(("optimizer", "name")) or OptimizerSection().name
    if optimizer not in _SHARED_OPTIMIZERS:
        message = f"{stage} steps {', '.join(_SHARED_OPTIMIZERS)}"
        yield tree.problem(_STAGE, f"{message}; take 3 for {quote(optimizer)}")
