"""Checks of a recipe's images against the method that is to train on them."""

from __future__ import annotations

from collections.abc import Iterator

from loba_tui.core.plugins import Plugin
from loba_tui.core.recipe.problems import Problem
from loba_tui.core.recipe.tree import Node

Path = tuple[str | int, ...]


def check_data(tree: Node, method: Plugin | None) -> Iterator[Problem]:
    """Yield what is wrong with `data`, `noise` and `loss.weighting` for the chosen method.

    A method says by the constants DATA ("images" or "pairs") and USES what it makes use of. It is
    None where the recipe names no known one.
    """
    if method is None:
        return
    kind, data = method.constants.get("DATA"), tree.child("data")
    has_data = data is not None and data.data is not None
    if kind and not has_data:
        yield tree.problem(("data",), f"missing; {method.name} trains on images")
    elif kind and data is not None:
        yield from _check_sources(tree, data, method.name, paired=kind == "pairs")
        yield from _check_crop(tree, data)
        yield from _check_prompts(tree, method.name)
    elif has_data and method.origin == "shipped":
        yield tree.problem(("data",), f"{method.name} trains on prompts alone, not on images")
    uses = method.constants.get("USES", ())
    if method.origin == "shipped":
        for path, word in ((("noise",), "noise"), (("loss", "weighting"), "weighting")):
            if word not in uses and tree.plain_at(path) not in (None, []):
                yield tree.problem(path, f"{method.name} makes no use of it")


def _check_sources(tree: Node, data: Node, method: str, *, paired: bool) -> Iterator[Problem]:
    items = data.items_at(("sources",))
    scales = []
    for index, source in enumerate(items):
        if not isinstance(source.data, dict):
            continue
        path: Path = ("data", "sources", index)
        value = source.plain_at(("scale",))
        if not paired and value is not None:
            message = f"{method} trains one strength; scale is for image_slider and addift"
            yield tree.problem((*path, "scale"), message)
        if paired and value is None:
            yield tree.problem((*path, "scale"), f"missing; {method} needs it")
        if paired and value == 0:
            message = "at strength 0 there is nothing to train"
            yield tree.problem((*path, "scale"), message)
        if paired and value is not None and value in scales:
            message = f"another source has strength {value} too"
            yield tree.problem((*path, "scale"), message)
        if paired and source.plain_at(("prior",)) is True:
            yield tree.problem((*path, "prior"), f"{method} has no use for prior images")
        scales.append(value)
    if paired and len(items) == 1:
        message = f"{method} needs at least two sources, of different scale"
        yield tree.problem(("data", "sources"), message)


def _check_crop(tree: Node, data: Node) -> Iterator[Problem]:
    cache = data.plain_at(("cache",)) or "memory"
    if data.plain_at(("crop",)) == "random" and cache != "none":
        message = f"random crops need cache: none; {cache} keeps one crop of each image"
        yield tree.problem(("data", "crop"), message)


def _check_prompts(tree: Node, method: str) -> Iterator[Problem]:
    if not tree.plain_at(("sample", "prompts")) and not tree.plain_at(("method", "concepts")):
        message = f"missing; {method} has no concepts whose prompts could be drawn"
        yield tree.problem(("sample", "prompts"), message)
