"""Checks of the names in a recipe: revision, variant, the base model's id, and paths."""

from __future__ import annotations

from collections.abc import Iterator

from loba_tui.core.names import local_path_problem, revision_problem, variant_problem
from loba_tui.core.recipe.problems import Problem
from loba_tui.core.recipe.tree import Node

Path = tuple[str | int, ...]


def check_names(tree: Node) -> Iterator[Problem]:
    """Yield the names that could lead elsewhere, each a matter of safety.

    The base model, images and an adapter may lie in any folder of the user's own, in any alphabet,
    so of those only what no path needs is refused.
    """
    paths: list[Path] = [("base_model", key) for key in ("id", "vae", "config")]
    paths += [("adapter", "init_from")]
    for section in ("data", "validation"):
        for index, _ in enumerate(tree.items_at((section, "sources"))):
            paths += [(section, "sources", index, key) for key in ("path", "masks")]
    measures: list[Path] = [("proof", "measure"), ("save", "best", "measure")]
    measures += [
        ("proof", "preserve", index) for index, _ in enumerate(tree.items_at(("proof", "preserve")))
    ]
    paths += [(*path, "model") for path in measures]
    checks = [(path, local_path_problem) for path in paths]
    checks += [((*path, "revision"), revision_problem) for path in (("base_model",), *measures)]
    checks += [(("base_model", "variant"), variant_problem)]
    for path, problem_of in checks:
        value = tree.plain_at(path)
        problem = problem_of(value) if isinstance(value, str) else ""
        if problem and isinstance(value, str) and set(value) & set("\a\b\t\n\v\f\r\x1b"):
            problem += "; in double quotes a backslash makes such: write a path in single quotes"
        if problem:
            yield tree.problem(path, problem, refused=True)
