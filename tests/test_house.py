"""Measures of the house: how much a folder, a module and a function hold, and who imports whom.

They read the sources and import nothing of the package.
"""

from __future__ import annotations

import ast
import itertools
import statistics
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
PACKAGE = CHECKOUT / "loba_tui"
DROP_IN_ROOMS = frozenset(
    f"loba_tui/core/program/{name}"
    for name in (
        "adapters",
        "losses",
        "measures",
        "methods",
        "noising",
        "optimizers",
        "quantizers",
        "schedulers/layer",
        "schedulers/model",
        "schedulers/noise",
        "timestep_schedulers",
        "weightings",
    )
)
"""Folders that grow by a file for each drop-in."""
MOST_MODULES = 15
MOST_LINES = 350
MEDIAN_LINES = 120
MOST_FUNCTION_LINES = 60
MOST_PARAMETERS = 8
EMPTY_WORDS = ("What ", "Do nothing", "Be empty")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def modules() -> dict[str, Path]:
    """Return every module by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(CHECKOUT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def num_lines(path: Path) -> int:
    return path.read_text("utf-8").count("\n")


def place(path: Path, node: ast.AST | None = None) -> str:
    """Return `file:line` as an editor opens it."""
    line = f":{node.lineno}" if hasattr(node, "lineno") else ""
    return f"{path.relative_to(CHECKOUT).as_posix()}{line}"


def nodes() -> Iterator[tuple[Path, ast.AST]]:
    for path in modules().values():
        for node in ast.walk(tree_of(path)):
            yield path, node


def test_no_folder_holds_more_modules_than_can_be_overlooked() -> None:
    counts = Counter(
        place(path.parent) for path in modules().values() if path.name != "__init__.py"
    )
    full = [
        f"{folder}: {count} modules, at most {MOST_MODULES}"
        for folder, count in counts.items()
        if count > MOST_MODULES and folder not in DROP_IN_ROOMS
    ]
    assert not full, "\n".join(full)


def test_the_drop_in_rooms_are_folders() -> None:
    missing = [folder for folder in sorted(DROP_IN_ROOMS) if not (CHECKOUT / folder).is_dir()]
    assert not missing, f"named as drop-in rooms, but not there: {missing}"


def test_no_module_is_long() -> None:
    long = [
        f"{place(path)}: {num_lines(path)} lines, at most {MOST_LINES}"
        for path in modules().values()
        if num_lines(path) > MOST_LINES
    ]
    assert not long, "\n".join(long)


def test_the_middle_module_is_short() -> None:
    counts = [num_lines(path) for path in modules().values() if num_lines(path) > 3]
    middle = statistics.median(counts)
    assert middle <= MEDIAN_LINES, f"half of the modules have more than {middle:g} lines"


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"{place(path, node)}: {node.name} has {length} lines, at most {MOST_FUNCTION_LINES}"
        for path, node in nodes()
        if isinstance(node, Function)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MOST_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


def test_no_constructor_takes_many_parameters() -> None:
    many = []
    for path, node in nodes():
        if isinstance(node, Function) and node.name == "__init__":
            given = node.args
            count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - 1
            if count > MOST_PARAMETERS:
                many.append(f"{place(path, node)}: {count} parameters, at most {MOST_PARAMETERS}")
    assert not many, "\n".join(many)


def imports_of(name: str) -> set[str]:
    """Return the modules of the package that a module imports, wherever in it that stands."""
    found: set[str] = set()
    for node in ast.walk(tree_of(modules()[name])):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules() else node.module)
    return {each for each in found if each in modules() and each != name}


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of one circle of imports, its first again at the end; [] if none."""
    done: set[str] = set()
    for start in graph:
        path: list[str] = []
        waiting = [(start, iter(sorted(graph[start])))] if start not in done else []
        while waiting:
            name, rest = waiting[-1]
            if len(path) < len(waiting):
                path.append(name)
            following = next((each for each in rest if each not in done), None)
            if following is None:
                done.add(name)
                path.pop()
                waiting.pop()
            elif following in path:
                return [*path[path.index(following) :], following]
            else:
                waiting.append((following, iter(sorted(graph[following]))))
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    circle = find_cycle({name: imports_of(name) for name in modules()})
    assert not circle, "a circle of imports: " + " → ".join(circle)


def test_a_circle_is_found_and_a_tree_is_none() -> None:
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}) == ["b", "c", "d", "b"]


def test_docstrings_say_what_a_thing_is_or_does() -> None:
    empty = [
        f"{place(path, node)}: {first!r}"
        for path, node in nodes()
        if isinstance(node, ast.Module | ast.ClassDef | Function)
        and (first := (ast.get_docstring(node) or "").partition("\n")[0]).startswith(EMPTY_WORDS)
    ]
    assert not empty, "\n".join(empty)


def test_a_home_folder_that_is_not_there_is_a_mistake_and_no_bug() -> None:
    raising = [
        place(path, node)
        for path, node in nodes()
        if isinstance(node, ast.Attribute)
        and node.attr == "expanduser"
        and not (isinstance(node.value, ast.Attribute) and node.value.attr == "path")
        and path.name != "user_folders.py"
    ]
    assert not raising, f"take core.user_folders.with_home: {raising}"


def test_import_contracts_name_packages_and_top_modules_alone() -> None:
    text = (CHECKOUT / "pyproject.toml").read_text("utf-8")
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    named = itertools.chain.from_iterable(each.get("source_modules", ()) for each in contracts)
    single = [
        name
        for name in named
        if name.count(".") > 1 and modules().get(name, Path("x/__init__.py")).name != "__init__.py"
    ]
    assert not single, f"single modules stand in import contracts: {single}"
