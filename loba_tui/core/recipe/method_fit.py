"""What the chosen method makes of the other sections: settings that it would leave unused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loba_tui.core.plugins import Plugin
from loba_tui.core.recipe.problems import Problem, dotted
from loba_tui.core.recipe.schema import (
    AdapterSection,
    Choice,
    OptimizerSection,
    SaveSection,
    SchedulerSection,
    TrainSection,
)
from loba_tui.core.recipe.tree import Node

# All that training takes; what drawing and loading take of `train` is left out.
_OF_TRAINING = {
    "adapter": AdapterSection(),
    "optimizer": OptimizerSection(),
    "scheduler": SchedulerSection(),
    "loss": Choice(name="mse"),
    "train": TrainSection(),
    "save": SaveSection(),
}
_USED_ANYWAY = frozenset({("train", "seed"), ("train", "resolution")})


def check_unused(tree: Node, method: Plugin | None) -> Iterator[Problem]:
    """Yield the settings of training where the method computes its adapter without any.

    A setting with its default value says nothing and is left alone: a resolved recipe has them all.

    Args:
        tree: The whole recipe.
        method: None where the recipe names no known method.
    """
    if method is None or not method.constants.get("SOLVES"):
        return
    for section, defaults in _OF_TRAINING.items():
        node = tree.child(section)
        if node is None:
            continue
        for path, leaf in node.walk((section,)):
            if isinstance(leaf.data, dict | tuple) or path in _USED_ANYWAY:
                continue
            if leaf.data != _at(defaults.model_dump(mode="json"), path[1:]):
                message = f"{method.name} computes its adapter without training, so this is unused"
                yield Problem.at(tree.locate(path), dotted(path), message)


def _at(defaults: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        if not isinstance(defaults, dict):
            return None
        defaults = defaults.get(step)
    return defaults
