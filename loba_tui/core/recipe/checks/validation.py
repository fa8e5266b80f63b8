"""Checks of `validation` against the method and against what is trained on."""

from __future__ import annotations

from collections.abc import Iterator

from loba_tui.core.plugins import Plugin
from loba_tui.core.recipe.problems import Problem
from loba_tui.core.recipe.sections.method import Concept
from loba_tui.core.recipe.tree import Node

_PATH = ("validation",)


def check_validation(tree: Node, method: Plugin | None) -> Iterator[Problem]:
    """Yield what is wrong with `validation` for the chosen method; None is no known one."""
    section = tree.at(_PATH)
    if method is None or section is None or not isinstance(section.data, dict):
        return
    constants = method.constants
    if constants.get("SOLVES"):
        message = f"{method.name} computes its adapter without training, so this is unused"
        yield tree.problem(_PATH, message)
    elif constants.get("TEXT_ONLY"):
        message = f"{method.name} trains without noise and timesteps; this has nothing to fix"
        yield tree.problem(_PATH, message)
    elif constants.get("DATA"):
        yield from _check_images(tree, section, method.name, paired=constants["DATA"] == "pairs")
    else:
        for key in ("share", "sources"):
            if section.plain_at((key,)) not in (None, []):
                message = f"{method.name} trains on prompts alone; hold out validation.concepts"
                yield tree.problem((*_PATH, key), message)
        yield from _check_concepts(tree)


def _check_images(tree: Node, section: Node, method: str, *, paired: bool) -> Iterator[Problem]:
    if section.items_at(("concepts",)):
        message = f"{method} trains on images; hold out a share of them, or validation.sources"
        yield tree.problem((*_PATH, "concepts"), message)
    trained = {source.plain_at(("scale",)) for source in tree.items_at(("data", "sources"))}
    scales = []
    for index, source in enumerate(section.items_at(("sources",))):
        path = (*_PATH, "sources", index)
        scale = source.plain_at(("scale",))
        scales.append(scale)
        if source.plain_at(("prior",)) is True:
            yield tree.problem((*path, "prior"), "prior images are for training alone")
        if not paired and scale is not None:
            message = f"{method} trains one strength; scale is for image_slider and addift"
            yield tree.problem((*path, "scale"), message)
        if paired and scale not in trained:
            message = f"no source of data has this strength; {method} needs one that is trained"
            yield tree.problem((*path, "scale"), message)
    if paired and scales and len(set(scales)) < max(2, len(scales)):
        message = f"{method} needs at least two sources, of different scale"
        yield tree.problem((*_PATH, "sources"), message)


def _check_concepts(tree: Node) -> Iterator[Problem]:
    trained = _prompts(tree, ("method", "concepts"))
    for index, _ in enumerate(tree.items_at((*_PATH, "concepts"))):
        path = (*_PATH, "concepts", index)
        same = trained & _prompts(tree, (*_PATH, "concepts"), index)
        if same:
            message = f"{min(same)[0]!r} is a concept that is trained; hold out another"
            yield tree.problem(path, message)


def _prompts(
    tree: Node, path: tuple[str, ...], only: int | None = None
) -> set[tuple[str | None, ...]]:
    """Return the prompts of each concept at a path; what is no concept is told elsewhere."""
    found: set[tuple[str | None, ...]] = set()
    for index, item in enumerate(tree.items_at(path)):
        if only in (None, index):
            try:
                concepts = Concept.model_validate(item.plain()).expand()
            except (ValueError, LookupError):
                continue
            found |= {(c.target, c.positive, c.negative, c.neutral) for c in concepts}
    return found
