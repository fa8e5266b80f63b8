"""Drop-in files: list and describe them by their syntax alone, check options, load one by name.

A drop-in is one Python file with one factory. The factory's keyword-only parameters are the options
that a recipe can give; positional parameters are what the program supplies.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from loba_tui.core.errors import LobaError, RecipeError
from loba_tui.core.option_types import AnnotationError, choices, describe_type, evaluate, type_at
from loba_tui.core.text import clean, nearest, quote


class Kind(NamedTuple):
    """Where the shipped drop-ins of a kind lie, and what each file must define."""

    folder: str
    factory: str
    noun: str


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "adapters": Kind("adapters", "get_adapter", "adapter"),
        "methods": Kind("methods", "get_method", "method"),
        "losses": Kind("losses", "get_loss", "loss"),
        "measures": Kind("measures", "get_measure", "measure"),
        "optimizers": Kind("optimizers", "get_optimizer", "optimizer"),
        "noise": Kind("schedulers/noise", "step_noise", "noise scheduler"),
        "model": Kind("schedulers/model", "get_scheduler", "model scheduler"),
        "layer": Kind("schedulers/layer", "get_scheduler", "layer scheduler"),
        "timestep": Kind("timestep_schedulers", "get_timestep_scheduler", "timestep scheduler"),
    }
)

_PROGRAM = Path(__file__).parent / "program"
_PROGRAM_PACKAGE = "loba_tui.core.program"


@dataclass(frozen=True)
class Option:
    """One keyword of a drop-in's factory.

    Attributes:
        annotation: As written in the file; empty where there is none.
        default: None also where there is no default; see `required`.
        type: What values are checked against; None where the annotation is not one that a recipe
            can give.
        help: What the factory's docstring says of it under Args, on one line.
    """

    name: str
    annotation: str
    default: Any
    required: bool
    type: Any = None
    help: str = ""

    @property
    def expected(self) -> str:
        """What the option takes, in plain language."""
        return describe_type(self.type)


@dataclass(frozen=True)
class Plugin:
    """What a drop-in file says of itself, without being imported."""

    kind: str
    name: str
    path: Path
    doc: str
    factory: str
    options: Mapping[str, Option] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OptionProblem:
    """Something wrong with a choice of drop-in; `key_path` is relative to the choice's section."""

    key_path: tuple[str | int, ...]
    message: str
    suggestion: str | None = None


def names(kind: str, *, search_path: Sequence[Path] = ()) -> list[str]:
    """Return the drop-ins of a kind by name, sorted.

    Args:
        kind: A key of `KINDS`.
        search_path: Further folders that hold `<kind>/<name>.py`; a shipped name cannot be
            replaced from there.
    """
    return sorted(_files(kind, search_path))


def describe(kind: str, name: str, *, search_path: Sequence[Path] = ()) -> Plugin:
    """Read a drop-in's docstring, options and literal constants from its syntax tree.

    Raises:
        RecipeError: There is no such drop-in, or the file does not define its factory.
    """
    path = _find(kind, name, search_path)
    factory_name = KINDS[kind].factory
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise RecipeError(f"{path}:{line}: not a Python file: {clean(error)}") from error
    assigned = _assignments(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == factory_name:
            return Plugin(
                kind=kind,
                name=name,
                path=path,
                doc=ast.get_docstring(tree) or "",
                factory=factory_name,
                options={option.name: option for option in _options(node, assigned)},
                constants=_literals(assigned),
            )
    raise RecipeError(f"{path}: a file of {kind} must define {factory_name}()")


def load(kind: str, name: str, *, search_path: Sequence[Path] = ()) -> Callable[..., Any]:
    """Import a drop-in and return its factory. This is where torch may be loaded."""
    path = _find(kind, name, search_path)
    if path.is_relative_to(_PROGRAM):
        package = ".".join([_PROGRAM_PACKAGE, *KINDS[kind].folder.split("/")])
        module = importlib.import_module(f"{package}.{name}")
    else:
        spec = importlib.util.spec_from_file_location(f"loba_plugins.{kind}.{name}", path)
        if spec is None or spec.loader is None:  # pragma: no cover - a .py path always has both
            raise LobaError(f"{path}: cannot be imported")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    factory: Callable[..., Any] | None = getattr(module, KINDS[kind].factory, None)
    if factory is None:
        raise RecipeError(f"{path}: a file of {kind} must define {KINDS[kind].factory}()")
    return factory


def check_options(
    kind: str, name: str, given: Mapping[str, Any], *, search_path: Sequence[Path] = ()
) -> list[OptionProblem]:
    """Return everything wrong with choosing `name` and giving it these options."""
    known = names(kind, search_path=search_path)
    if name not in known:
        near = nearest(name, known)
        listed = "" if near else f"; there is {', '.join(known)}"
        message = f"there is no {KINDS[kind].noun} called {quote(name)}{listed}"
        return [OptionProblem(("name",), message, near)]
    try:
        plugin = describe(kind, name, search_path=search_path)
    except RecipeError as error:
        return [OptionProblem(("name",), error.message)]
    problems = [
        OptionProblem((option.name,), f"{name} needs this option: {option.expected}")
        for option in plugin.options.values()
        if option.required and option.name not in given
    ]
    for key, value in given.items():
        if key in plugin.options:
            problems += _check_value(plugin.options[key], value)
        else:
            listed = f"it has {', '.join(plugin.options)}" if plugin.options else "it has none"
            suggestion = nearest(key, plugin.options)
            message = f"not an option of {name}" + ("" if suggestion else f" ({listed})")
            problems.append(OptionProblem((key,), message, suggestion))
    return problems


def _check_value(option: Option, value: Any) -> list[OptionProblem]:
    if option.type is None:
        message = f"cannot be set from a recipe: its type is {option.annotation or 'not given'}"
        return [OptionProblem((option.name,), message)]
    try:
        TypeAdapter(option.type).validate_python(value)
    except ValidationError as error:
        found: dict[tuple[str | int, ...], OptionProblem] = {}
        for detail in error.errors(include_url=False, include_context=False):
            path, part = existing_path(detail["loc"], value)
            part_type = type_at(option.type, path)
            message = f"expected {describe_type(part_type)}, got {quote(part)}"
            key_path = (option.name, *path)
            suggestion = nearest(part, choices(part_type)) if isinstance(part, str) else None
            found.setdefault(key_path, OptionProblem(key_path, message, suggestion))
        return list(found.values())
    # Where the default lists something, an empty list is an oversight: layers: [] trains nothing.
    if isinstance(value, list | tuple) and not value and option.default:
        return [OptionProblem((option.name,), f"expected {option.expected}, got an empty list")]
    return []


def existing_path(location: Sequence[str | int], value: Any) -> tuple[tuple[str | int, ...], Any]:
    """Return the part of a pydantic location that names keys and items, and the value there.

    Locations also name the members of a union, which mean nothing to the recipe's author.
    """
    path: list[str | int] = []
    for step in location:
        is_key = isinstance(value, dict) and step in value
        is_item = isinstance(value, list | tuple) and isinstance(step, int) and step < len(value)
        if is_key or is_item:
            value = value[step]
            path.append(step)
    return tuple(path), value


def _files(kind: str, search_path: Sequence[Path]) -> dict[str, Path]:
    folders = [root / kind for root in reversed(search_path)]
    folders.append(_PROGRAM / KINDS[kind].folder)
    return {
        path.stem: path
        for folder in folders
        for path in folder.glob("*.py")
        if path.stem.isidentifier() and not path.stem.startswith("_")
    }


def _find(kind: str, name: str, search_path: Sequence[Path]) -> Path:
    files = _files(kind, search_path)
    if name not in files:
        near = nearest(name, files)
        raise RecipeError(
            f"there is no {KINDS[kind].noun} called {quote(name)}",
            f"Did you mean {near}?" if near else f"There is {', '.join(sorted(files))}.",
        )
    return files[name]


def _assignments(tree: ast.Module) -> dict[str, ast.expr]:
    assigned: dict[str, ast.expr] = {}
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                assigned[name] = value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                assigned[name] = value
    return assigned


def _literals(assigned: Mapping[str, ast.expr]) -> dict[str, Any]:
    constants = {}
    for name, value in assigned.items():
        try:
            constants[name] = ast.literal_eval(value)
        except ValueError:
            continue
    return constants


def _options(factory: ast.FunctionDef, assigned: Mapping[str, ast.expr]) -> list[Option]:
    options = []
    arguments = factory.args
    helps = _argument_docs(ast.get_docstring(factory) or "")
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        annotation = argument.annotation
        try:
            option_type = None if annotation is None else evaluate(annotation, assigned)
        except (AnnotationError, SyntaxError, ValueError):
            option_type = None
        options.append(
            Option(
                name=argument.arg,
                annotation=ast.unparse(annotation) if annotation else "",
                default=_default(default, assigned),
                required=default is None,
                type=option_type,
                help=helps.get(argument.arg, ""),
            )
        )
    return options


def _argument_docs(docstring: str) -> dict[str, str]:
    """Return what a Google-style docstring says of each argument."""
    found: dict[str, str] = {}
    _, _, section = docstring.partition("Args:\n")
    for block in re.split(r"\n(?=    \w)", section.split("\n\n", 1)[0]):
        name, colon, text = block.strip().partition(":")
        if colon and name.isidentifier():
            found[name] = " ".join(text.split())
    return found


def _default(node: ast.expr | None, assigned: Mapping[str, ast.expr]) -> Any:
    """Return a default as a value; where it is not a literal, as the text of its expression."""
    if node is None:
        return None
    if isinstance(node, ast.Name) and node.id in assigned:
        node = assigned[node.id]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
