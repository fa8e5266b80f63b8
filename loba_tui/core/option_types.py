"""The types that a drop-in's options may have, and how each is said in plain language.

A drop-in's annotations are evaluated from its syntax tree over the names below and nothing else, so
that an option can be checked without importing the file, and therefore without torch.
"""

from __future__ import annotations

import ast
import threading
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import AfterValidator, AllowInfNan, BaseModel, Strict, WithJsonSchema

_PARSING = threading.Lock()
"""CPython 3.11 counts the depth of a syntax tree over all threads that make one: two at a time end
in `SystemError: AST constructor recursion depth mismatch`."""


def parse_python(source: str | bytes, mode: str = "exec") -> Any:
    """Return the syntax tree of Python source; threads take turns."""
    with _PARSING:
        return ast.parse(source, mode=mode)


@dataclass(frozen=True)
class Plain:
    """The plain words for an annotated type, where its parts would not say it well."""

    words: str


def _refuse_zero(number: float) -> float:
    if number == 0:
        raise ValueError("must not be 0")
    return number


_NON_ZERO = (
    AfterValidator(_refuse_zero),
    Plain("a number other than 0"),
    WithJsonSchema({"type": "number", "not": {"const": 0}}),
)
_UNIT = annotated_types.Interval(ge=0, le=1)

NonZeroFloat = Annotated[float, *_NON_ZERO]
UnitFloat = Annotated[float, _UNIT]


_GENERIC = ("list", "tuple", "dict", "Sequence", "Mapping")


class AnnotationError(ValueError):
    """An annotation uses a name that options cannot have."""


def _names() -> dict[str, Any]:
    """Return what a name in an annotation stands for.

    Numbers are strict, because YAML has numbers of its own: "2e-4" in quotes is text, and true is
    not 1. A whole number still counts as a number.
    """
    number, whole = Annotated[float, Strict(), AllowInfNan(False)], Annotated[int, Strict()]
    return {
        "int": whole,
        "float": number,
        "str": Annotated[str, Strict()],
        "bool": Annotated[bool, Strict()],
        "None": None,
        "Any": Any,
        "PositiveInt": Annotated[whole, annotated_types.Gt(0)],
        "NonNegativeInt": Annotated[whole, annotated_types.Ge(0)],
        "PositiveFloat": Annotated[number, annotated_types.Gt(0)],
        "NonNegativeFloat": Annotated[number, annotated_types.Ge(0)],
        "NonZeroFloat": Annotated[number, *_NON_ZERO],
        "UnitFloat": Annotated[number, _UNIT],
        "list": list,
        "tuple": tuple,
        "dict": dict,
        "Sequence": Sequence,
        "Mapping": Mapping,
        "Literal": Literal,
    }


def evaluate(annotation: ast.expr, aliases: Mapping[str, ast.expr] | None = None) -> Any:
    """Return the type that an annotation's syntax tree names.

    Args:
        aliases: Module-level assignments of the same file that annotations may name.

    Raises:
        AnnotationError: When the annotation is outside the whitelist.
    """
    known, aliases = _names(), aliases or {}

    def visit(node: ast.expr, depth: int) -> Any:
        if depth > 20:
            raise AnnotationError(ast.unparse(annotation))
        match node:
            case ast.Constant(value=None):
                return None
            case ast.Constant(value=str(text)):
                return visit(parse_python(text, mode="eval").body, depth + 1)
            case ast.Name(id=name) if name in known:
                return known[name]
            case ast.Name(id=name) if name in aliases:
                return visit(aliases[name], depth + 1)
            case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
                return Literal.__getitem__(ast.literal_eval(choices))
            case ast.Subscript(value=ast.Name(id=head), slice=inside) if head in _GENERIC:
                parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
                return known[head][tuple(visit_item(part, depth + 1) for part in parts)]
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return Union[visit(left, depth + 1), visit(right, depth + 1)]  # noqa: UP007
        raise AnnotationError(ast.unparse(node))

    def visit_item(node: ast.expr, depth: int) -> Any:
        if isinstance(node, ast.Constant) and node.value is ...:
            return ...
        return visit(node, depth)

    return visit(annotation, 0)


def describe_type(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Return a type in plain language, such as "a whole number greater than 0"."""
    if get_origin(annotation) is Annotated:
        return describe_type(get_args(annotation)[0], (*annotation.__metadata__, *metadata))
    # pydantic's Field keeps its bounds one level down.
    flat = [part for item in metadata for part in (getattr(item, "metadata", None) or [item])]
    for part in flat:
        if isinstance(part, Plain):
            return part.words
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        words = [describe_type(argument, flat) for argument in arguments if argument is not _NONE]
        return " or ".join([*words, *(["null"] if _NONE in arguments else [])])
    if origin is Literal:
        texts = [str(argument) for argument in arguments]
        return texts[0] if len(texts) == 1 else f"one of {', '.join(texts)}"
    if annotation in (None, _NONE):
        return "null"
    if annotation is Any:
        return "anything"
    kind = origin or annotation
    if kind in (int, float):
        return ("a whole number" if kind is int else "a number") + _bounds(flat)
    if kind is str:
        return "text that is not empty" if _least(flat) else "text"
    if kind is bool:
        return "true or false"
    if kind in (list, tuple, Sequence):
        return _describe_list(kind, arguments, _least(flat))
    if kind in (dict, Mapping):
        return "a section of keys"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"a section ({', '.join(kind.model_fields)})"
    return "something else"


def type_at(annotation: Any, path: Sequence[str | int]) -> Any:
    """Return the type of the value at a path of keys and item numbers inside `annotation`."""
    for step in path:
        annotation = _type_of_part(annotation, step)
    return annotation


def choices(annotation: Any) -> list[str]:
    """Return every text that a `Literal` anywhere in the type allows."""
    if get_origin(annotation) is Annotated:
        return choices(get_args(annotation)[0])
    texts = [argument for argument in get_args(annotation) if isinstance(argument, str)]
    if get_origin(annotation) is Literal:
        return texts
    return [text for argument in get_args(annotation) for text in choices(argument)]


_NONE = type(None)


def _type_of_part(annotation: Any, step: str | int) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_of_part(arguments[0], step)
    if origin in (Union, types.UnionType):
        parts = [_type_of_part(argument, step) for argument in arguments]
        return next((part for part in parts if part is not Any), Any)
    if isinstance(step, str):
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(step)
            return Any if field is None else Annotated[field.annotation, *field.metadata, None]
        return arguments[1] if origin in (dict, Mapping) else Any
    if origin in (list, tuple, Sequence) and arguments:
        fixed = origin is tuple and arguments[-1] is not ...
        return arguments[min(step, len(arguments) - 1) if fixed else 0]
    return Any


def _describe_list(kind: Any, arguments: tuple[Any, ...], least: int) -> str:
    size = f"a list of at least {least}" if least > 1 else "a list"
    if not arguments:
        return size
    if kind is tuple and arguments[-1] is not ...:
        return f"a list of {len(arguments)} ({', '.join(map(describe_type, arguments))})"
    return f"{size}, each item {describe_type(arguments[0])}"


def _least(metadata: Sequence[Any]) -> int:
    return max((part.min_length for part in metadata if hasattr(part, "min_length")), default=0)


def _bounds(metadata: Sequence[Any]) -> str:
    bound = {
        name: getattr(part, name)
        for part in metadata
        for name in ("gt", "ge", "lt", "le")
        if getattr(part, name, None) is not None
    }
    if "ge" in bound and "le" in bound:
        return f" from {bound['ge']:g} to {bound['le']:g}"
    words = {"gt": "greater than", "ge": "of at least", "lt": "less than", "le": "of at most"}
    said = [f" {words[name]} {value:g}" for name, value in bound.items()]
    return " and".join(said)
