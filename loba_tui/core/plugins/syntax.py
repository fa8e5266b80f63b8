"""What a drop-in file says of itself: its syntax tree is read, its code is not run."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from loba_tui.core.errors import RecipeError
from loba_tui.core.option_types import AnnotationError, describe_type, evaluate, parse_python
from loba_tui.core.text import clean

Origin = Literal["shipped", "user"]


class Kind(NamedTuple):
    """Where the shipped drop-ins of a kind lie, and what each file must define.

    Attributes:
        supplied: What the program passes to the factory, by position.
    """

    folder: str
    factory: str
    noun: str
    supplied: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "adapters": Kind("adapters", "get_adapter", "adapter", ("targets",)),
        "methods": Kind("methods", "get_method", "method", ("parts",)),
        "losses": Kind("losses", "get_loss", "loss"),
        "weightings": Kind("weightings", "get_weighting", "weighting of timesteps"),
        "noising": Kind("noising", "get_noising", "change of noise"),
        "measures": Kind("measures", "get_measure", "measure"),
        "optimizers": Kind("optimizers", "get_optimizer", "optimizer", ("params", "lr")),
        "noise": Kind("schedulers/noise", "step_noise", "noise scheduler", ("config",)),
        "model": Kind(
            "schedulers/model", "get_scheduler", "model scheduler", ("optimizer", "num_steps")
        ),
        "layer": Kind("schedulers/layer", "get_scheduler", "layer scheduler", ("optimizer",)),
        "timestep": Kind("timestep_schedulers", "get_timestep_scheduler", "timestep scheduler"),
    }
)


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
    """What a drop-in file says of itself, without being imported.

    Attributes:
        origin: Whether it came with the package or lies in the user's plugin folder.
        num_supplied: How many of the program's arguments its factory takes by position.
        takes_any_option: Its factory has a bare `**cfg`, so option names cannot be checked.
    """

    kind: str
    name: str
    path: Path
    doc: str
    factory: str
    options: Mapping[str, Option] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin = "shipped"
    num_supplied: int = 0
    takes_any_option: bool = False


def parse(
    kind: str,
    name: str,
    path: Path,
    content: bytes,
    *,
    origin: Origin = "shipped",
) -> Plugin:
    """Return what a drop-in's source says of itself.

    Raises:
        RecipeError: It is not Python, or does not define its factory.
    """
    factory_name = KINDS[kind].factory
    try:
        tree = parse_python(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        what = getattr(error, "msg", None) or error
        raise RecipeError(f"{clean(path)}:{line}: not Python: {clean(what)}") from error
    assigned = _assignments(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == factory_name:
            num_supplied = _num_supplied(node.args, KINDS[kind].supplied)
            options = _options(node, assigned, num_supplied, origin=origin)
            return Plugin(
                kind=kind,
                name=name,
                path=path,
                doc=ast.get_docstring(tree) or "",
                factory=factory_name,
                options={option.name: option for option in options},
                constants=_literals(assigned),
                origin=origin,
                num_supplied=num_supplied,
                takes_any_option=node.args.kwarg is not None,
            )
    raise RecipeError(f"{clean(path)}: a file of {kind} must define {factory_name}()")


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


def _num_supplied(arguments: ast.arguments, supplied: Sequence[str]) -> int:
    """Return how many of the program's arguments a factory takes by position.

    `get_scheduler(optimizer, **cfg)` takes one, the optimizer. A parameter of another name with a
    default is an option and not what the program supplies.
    """
    positional = _positional(arguments)
    if arguments.vararg is not None:
        return len(supplied)
    pairs = zip(positional, supplied, strict=False)
    taken = [default is None or argument.arg == name for (argument, default), name in pairs]
    return taken.index(False) if False in taken else len(taken)


def _positional(arguments: ast.arguments) -> list[tuple[ast.arg, ast.expr | None]]:
    """Return the parameters that can be given by position, with their defaults."""
    found = [*arguments.posonlyargs, *arguments.args]
    missing: list[ast.expr | None] = [None] * (len(found) - len(arguments.defaults))
    return list(zip(found, [*missing, *arguments.defaults], strict=True))


def _options(
    factory: ast.FunctionDef,
    assigned: Mapping[str, ast.expr],
    num_supplied: int,
    *,
    origin: Origin,
) -> list[Option]:
    options = []
    arguments = factory.args
    helps = _argument_docs(ast.get_docstring(factory) or "")
    by_keyword = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    for argument, default in [*_positional(arguments)[num_supplied:], *by_keyword]:
        annotation = argument.annotation
        # A user's option without a type takes what the recipe says; a shipped one has a type.
        untyped = None if origin == "shipped" else Any
        try:
            option_type = untyped if annotation is None else evaluate(annotation, assigned)
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
