"""Read a drop-in's options from its syntax tree.

Each keyword-only parameter of the factory is an option. Where there are many, or where several
drop-ins share them, the factory takes them whole, as a frozen dataclass:

    @dataclass(frozen=True, kw_only=True)
    class MyOptions(TrajectoryOptions):
        '''Options of my method.

Attributes:
            action: What becomes of the target.
        '''

        action: Literal["erase", "enhance"] = "erase"

    def get_method(parts: MethodParts, *, options: MyOptions) -> Method: ...

The parameter is called `options`, and a recipe gives each field by its own name, exactly as if it
were a parameter. A class's own options come before those of its bases, unless a base has the name
already. The class and its bases stand in the same file or in a module of this package, from which
they are imported by name; that module is read too, and nothing is imported here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from loba_tui.core.option_types import AnnotationError, describe_type, evaluate, parse_python

OPTIONS_PARAMETER = "options"

_PACKAGE = "loba_tui"
_ROOT = Path(__file__).parents[3]
_MOST_CLASSES = 20


@dataclass(frozen=True)
class Option:
    """One option of a drop-in.

    Attributes:
        annotation: As written in the file; empty where there is none.
        default: None also where there is no default; see `required`.
        type: What values are checked against; None where the annotation is not one that a recipe
            can give.
        help: What the docstring says of it under Args or Attributes, on one line.
    """

    name: str
    annotation: str
    default: Any
    required: bool
    type: Any = None
    help: str = ""

    @property
    def expected(self) -> str:
        """The type in plain language."""
        return describe_type(self.type)


@dataclass(frozen=True)
class Names:
    """The names that a module defines at its top.

    Attributes:
        assigned: Constants and aliases, each with its expression.
        imported: What it imports from this package: the module and the name there.
    """

    assigned: Mapping[str, ast.expr]
    classes: Mapping[str, ast.ClassDef]
    imported: Mapping[str, tuple[str, str]]

    @classmethod
    def of(cls, tree: ast.Module) -> Names:
        """Collect them from a module's syntax tree."""
        assigned: dict[str, ast.expr] = {}
        classes: dict[str, ast.ClassDef] = {}
        imported: dict[str, tuple[str, str]] = {}
        for node in tree.body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    assigned[name] = value
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    assigned[name] = value
                case ast.ClassDef(name=name):
                    classes[name] = node
                case ast.ImportFrom(module=str(module), level=0):
                    if module.partition(".")[0] == _PACKAGE:
                        found = {each.asname or each.name: each.name for each in node.names}
                        imported |= {name: (module, there) for name, there in found.items()}
        return cls(assigned, classes, imported)


def options_class(factory: ast.FunctionDef, names: Names) -> str:
    """Return the dataclass that a factory takes its options as; empty if it takes none."""
    for argument in factory.args.kwonlyargs:
        match argument:
            case ast.arg(arg=name, annotation=ast.Name(id=found)) if name == OPTIONS_PARAMETER:
                return found if next(_lineage(found, names), None) else ""
    return ""


def read_options(
    factory: ast.FunctionDef, names: Names, num_supplied: int, *, untyped: Any
) -> list[Option]:
    """Return the options of a factory.

    Args:
        names: Of its module.
        num_supplied: How many of the program's arguments it takes by position.
        untyped: The type of an option without an annotation.
    """
    arguments = factory.args
    helps = described(factory, "Args")
    found = options_class(factory, names)
    options = []
    by_keyword = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    for argument, default in [*positional(arguments)[num_supplied:], *by_keyword]:
        if found and argument.arg == OPTIONS_PARAMETER:
            options += _fields(found, names)
            continue
        option = _option(argument.arg, argument.annotation, default, names, untyped)
        options.append(replace(option, help=helps.get(option.name, "")))
    return options


def positional(arguments: ast.arguments) -> list[tuple[ast.arg, ast.expr | None]]:
    """Return the parameters that can be given by position, with their defaults."""
    found = [*arguments.posonlyargs, *arguments.args]
    missing: list[ast.expr | None] = [None] * (len(found) - len(arguments.defaults))
    return list(zip(found, [*missing, *arguments.defaults], strict=True))


def described(node: ast.FunctionDef | ast.ClassDef, section: str) -> dict[str, str]:
    """Return what a section of a Google-style docstring says of each name."""
    found: dict[str, str] = {}
    _, _, text = (ast.get_docstring(node) or "").partition(f"{section}:\n")
    for block in re.split(r"\n(?=    \w)", text.split("\n\n", 1)[0]):
        name, colon, words = block.strip().partition(":")
        if colon and name.isidentifier():
            found[name] = " ".join(words.split())
    return found


def _fields(class_name: str, names: Names) -> list[Option]:
    fields: dict[str, Option] = {}
    helps: dict[str, str] = {}
    for definition, at in reversed(list(_lineage(class_name, names))):
        own = {
            name: _option(name, annotation, default, at, None)
            for name, annotation, default in _annotated(definition)
        }
        new = {name: option for name, option in own.items() if name not in fields}
        fields = new | fields | own
        helps |= described(definition, "Attributes")
    return [replace(option, help=helps.get(name, "")) for name, option in fields.items()]


def _annotated(definition: ast.ClassDef) -> Iterator[tuple[str, ast.expr, ast.expr | None]]:
    for node in definition.body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=default):
                if not ast.unparse(annotation).startswith("ClassVar"):
                    yield name, annotation, default


def _lineage(name: str, names: Names) -> Iterator[tuple[ast.ClassDef, Names]]:
    """Yield a dataclass and the dataclasses it inherits from, each with the names of its module."""
    waiting, seen = [(name, names)], 0
    while waiting and seen < _MOST_CLASSES:  # a file that nobody has checked may go in circles
        seen += 1
        found = _find_class(*waiting.pop(0))
        if found is None:
            continue
        definition, at = found
        if any("dataclass" in ast.unparse(decorator) for decorator in definition.decorator_list):
            yield definition, at
        bases = [(base.id, at) for base in definition.bases if isinstance(base, ast.Name)]
        waiting = [*bases, *waiting]


def _find_class(name: str, names: Names) -> tuple[ast.ClassDef, Names] | None:
    if name in names.classes:
        return names.classes[name], names
    if name not in names.imported:
        return None
    module, name = names.imported[name]
    there = _names_of_module(module)
    return (there.classes[name], there) if name in there.classes else None


@lru_cache(maxsize=64)
def _names_of_module(module: str) -> Names:
    """Read a module of this package; one that is not there has no names."""
    path = _ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return Names.of(parse_python(path.read_bytes() if path.is_file() else b""))


def _option(
    name: str, annotation: ast.expr | None, default: ast.expr | None, names: Names, untyped: Any
) -> Option:
    try:
        option_type = untyped if annotation is None else evaluate(annotation, names.assigned)
    except (AnnotationError, SyntaxError, ValueError):
        option_type = None
    return Option(
        name=name,
        annotation=ast.unparse(annotation) if annotation else "",
        default=_default(default, names.assigned),
        required=default is None,
        type=option_type,
    )


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
