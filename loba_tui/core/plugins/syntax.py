"""Read what a drop-in file says of itself from its syntax tree; its code is not run.

The options that a recipe can give are the factory's keyword-only parameters, or the fields of a
frozen dataclass that the factory takes as `options`; `plugins.options` reads both.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from loba_tui.core.errors import RecipeError
from loba_tui.core.option_types import parse_python
from loba_tui.core.plugins.options import Names, Option, options_class, positional, read_options
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
        "measures": Kind("measures", "get_measure", "measure", ("models",)),
        "quantizers": Kind("quantizers", "get_quantizer", "quantizer"),
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
class Plugin:
    """A drop-in as its file describes it, without being imported.

    Attributes:
        options_class: The dataclass that its factory takes options as; see `plugins.options`.
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
    options_class: str = ""
    constants: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin = "shipped"
    num_supplied: int = 0
    takes_any_option: bool = False


def parse(
    kind: str, name: str, path: Path, content: bytes, *, origin: Origin = "shipped"
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
    module = Names.of(tree)
    # A user's option without a type takes what the recipe says; a shipped one has a type.
    untyped = None if origin == "shipped" else Any
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == factory_name:
            num_supplied = _num_supplied(node.args, KINDS[kind].supplied)
            options = read_options(node, module, num_supplied, untyped=untyped)
            return Plugin(
                kind=kind,
                name=name,
                path=path,
                doc=ast.get_docstring(tree) or "",
                factory=factory_name,
                options={option.name: option for option in options},
                options_class=options_class(node, module),
                constants=_literals(module.assigned),
                origin=origin,
                num_supplied=num_supplied,
                takes_any_option=node.args.kwarg is not None,
            )
    raise RecipeError(f"{clean(path)}: a file of {kind} must define {factory_name}()")


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
    if arguments.vararg is not None:
        return len(supplied)
    pairs = zip(positional(arguments), supplied, strict=False)
    taken = [default is None or argument.arg == name for (argument, default), name in pairs]
    return taken.index(False) if False in taken else len(taken)
