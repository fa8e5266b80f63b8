"""Recipes in and out: a file or flags to a `Recipe`, and back to YAML.

recipes/slider.yaml:14:3: optimizer.weight_decy: not an option of adamw. Did you mean weight_decay?

    load_recipe, check_recipe    a file with --set; a recipe, or every problem that it has
    parse_text, check_text       a text that is no file: metadata, what is edited or migrated
    parse_with                   a text with --set, and its tree
    parse_recipe                 a mapping, as the specification's flags make one
    recipe_with                  a recipe with one value set, as steering does while a run goes on
    dump_recipe                  back to YAML, for the run folder
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

from loba_tui.core.errors import RefusedError
from loba_tui.core.file_sources import Source, open_source, path_of
from loba_tui.core.files import UnsafeFileError
from loba_tui.core.plugins import Plugins
from loba_tui.core.recipe.checks.recipe import check_tree
from loba_tui.core.recipe.data_paths import with_absolute_paths
from loba_tui.core.recipe.problems import Place, Problem, ProblemsFound
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.parallel import ParallelSection
from loba_tui.core.recipe.tree import Node, node_of
from loba_tui.core.recipe.yaml_tree import read_tree
from loba_tui.core.redact import find_secret, without_secrets
from loba_tui.core.text import clean, nearest

MAX_BYTES = 256 * 1024
_NEWER_KEYS: tuple[tuple[Any, ...], ...] = (
    ("adapter", "init_from", None),
    ("base_model", "quantize", None),
    ("base_model", "long_prompts", "cut"),
    ("base_model", "prompt_weights", False),
    ("base_model", "blocks_on_host", None),
    ("base_model", "vae_slicing", False),
    ("base_model", "vae_tiling", False),
    ("data", "captions", "wildcards", False),
    ("validation", None),
    ("train", "exactness", "exact"),
    ("train", "compile", "none"),
    ("save", "best", None),
    ("method", "preserve", []),
    ("method", "watch", []),
    ("train", "effective_batch_size", None),
    ("train", "global_batch_size", None),
    ("parallel", ParallelSection().model_dump(mode="json")),
)


def load_recipe(
    path: str | Source,
    overrides: Sequence[str] = (),
    *,
    plugins: Plugins,
    origin: str | None = None,
) -> Recipe:
    """Return the recipe in a file, with `key.path=value` overrides applied.

    Args:
        origin: What the file is called in errors; None is its path.

    Raises:
        ProblemsFound: A RecipeError that carries everything that is wrong, each with its place;
            its exit code is 8 where a plugin is not trusted.
        RefusedError: Something in the file or the overrides looks like an access token.
    """
    source = Path(path) if isinstance(path, str) else path
    named = origin or str(path)
    text = read_recipe_text(source, named)
    recipe, tree = parse_with(text, named, overrides, plugins=plugins)
    # Beside a file from elsewhere lies nothing of this user's: its paths are as if typed here.
    file = path_of(source) if origin is None else Path()
    return with_absolute_paths(recipe, tree, file, origin=named)


def parse_with(
    text: str, origin: str, overrides: Sequence[str], *, plugins: Plugins
) -> tuple[Recipe, Node]:
    """Return the recipe of a text with overrides, and its tree, which knows where each value is of.

    Paths are left as they were written.

    Raises:
        ProblemsFound: A RecipeError that carries everything that is wrong.
        RefusedError: Something in it looks like an access token.
    """
    for override in overrides:
        refuse_tokens(override, "--set " + override)
    tree, problems = read_tree(text, origin)
    # An escape in a quoted text can hide a token from the search in the file.
    _refuse_tokens_in(tree)
    for override in overrides:
        try:
            tree = _override(tree, override)
        except ProblemsFound as error:
            problems += error.problems
    return _recipe_of(tree, problems, plugins), tree


def parse_recipe(
    mapping: Mapping[str, Any], origin: str = "<flags>", *, plugins: Plugins
) -> Recipe:
    """Return the recipe that a version 1 mapping stands for; `origin` names it in errors."""
    tree = node_of(mapping, Place(origin))
    _refuse_tokens_in(tree)
    return _recipe_of(tree, [], plugins)


def recipe_with(recipe: Recipe, key: str, value: Any, *, plugins: Plugins) -> Recipe:
    """Return a recipe with one value set at a dotted key, such as `train.steps`.

    Raises:
        ProblemsFound: The value does not fit, or there is no such key.
    """
    place = Place("set")
    tree = node_of(_as_written(recipe), place)
    return _recipe_of(tree.with_value(key.split("."), node_of(value, place)), [], plugins)


def parse_text(text: str, origin: str, *, plugins: Plugins) -> Recipe:
    """Return the recipe in a text that is not a file, such as an adapter's metadata.

    Raises:
        ProblemsFound: A RecipeError that carries everything that is wrong.
        RefusedError: Something in it looks like an access token.
    """
    if len(text) > MAX_BYTES:
        message = f"the recipe is longer than {MAX_BYTES} characters"
        raise ProblemsFound([Problem(origin, 0, 0, "", message)])
    refuse_tokens(text, origin)
    return parse_with(text, origin, (), plugins=plugins)[0]


def check_recipe(
    path: str | Source,
    overrides: Sequence[str] = (),
    *,
    plugins: Plugins,
    origin: str | None = None,
) -> list[Problem]:
    """Return every problem of a recipe file, in the file's order; none means that it is valid."""
    try:
        load_recipe(path, overrides, plugins=plugins, origin=origin)
    except ProblemsFound as error:
        return list(error.problems)
    return []


def check_text(text: str, origin: str, *, plugins: Plugins) -> list[Problem]:
    """Return every problem of a recipe's text; `origin` names it."""
    try:
        parse_text(text, origin, plugins=plugins)
    except ProblemsFound as error:
        return list(error.problems)
    return []


def dump_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML that loads to the same recipe."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.allow_unicode = True
    yaml.width = 10_000
    stream = io.StringIO()
    yaml.dump(_as_written(recipe), stream)
    return stream.getvalue()


def _as_written(recipe: Recipe) -> dict[str, Any]:
    mapping = recipe.model_dump(mode="json")
    # An empty list of prompts stands for the default and is an error when written.
    for section in ("sample", "proof"):
        if not mapping[section]["prompts"]:
            del mapping[section]["prompts"]
    # Left out where they are not used, so that an older run's recipe is written as it was then.
    for *sections, key, unused in _NEWER_KEYS:
        table: Any = mapping
        for each in sections:
            table = (table or {}).get(each)
        if table is not None and table[key] == unused:
            del table[key]
    return mapping


class _Representer(SafeRepresenter):
    """Writes text with line breaks of any kind with escapes, so that it reads as it was."""

    def represent_text(self, text: str) -> Any:
        style = '"' if len(text.splitlines()) > 1 or text != text.strip() else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Representer.add_representer(str, _Representer.represent_text)


def read_recipe_text(source: Source, origin: str | None = None) -> str:
    """Return a recipe file's text; `origin` is what refusals call it, its path if left out.

    Raises:
        ProblemsFound: The file is missing, is not a file, is too large or is not UTF-8.
        RefusedError: It holds something that looks like an access token.
    """
    path = path_of(source)
    try:
        if source is path and path.is_dir():
            raise _unusable(path, f"is a folder, not a recipe{_recipes_in(path)}")
        with open_source(source) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > MAX_BYTES:
                raise _unusable(path, f"has {size} bytes; a recipe has at most {MAX_BYTES}")
            content = stream.read(MAX_BYTES + 1)
    except UnsafeFileError as error:
        what = "is not an ordinary file" if source is path else f"{error.strerror}, and not used"
        raise _unusable(path, what) from error
    except FileNotFoundError as error:
        if not path.parent.is_dir():
            raise _unusable(path, f"there is no folder {clean(path.parent)}") from error
        raise _unusable(path, "there is no such file", _nearest_file(path)) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _unusable(path, f"cannot be read: {clean(reason)}") from error
    text = _decode(content, path)
    refuse_tokens(text, origin or str(path))
    return text


def refuse_tokens(text: str, origin: str) -> None:
    """Refuse text that holds what looks like an access token, without repeating it."""
    found = find_secret(text)
    if found is None:
        return
    line = text.count("\n", 0, found.start()) + 1
    where = clean(without_secrets(origin)) + (f":{line}" if "\n" in text else "")
    raise RefusedError(
        f"{where}: holds what looks like an access token; it is not shown here",
        "Remove it, revoke it if the file was shared, and log in with: hf auth login",
    )


def _refuse_tokens_in(tree: Node) -> None:
    for _, node in tree.walk():
        for text in [*node.keys, node.data]:
            if isinstance(text, str):
                refuse_tokens(text, str(node.place))


def _recipe_of(tree: Node, problems: Sequence[Problem], plugins: Plugins) -> Recipe:
    recipe, found = check_tree(tree, plugins)
    found = [*problems, *found]
    if recipe is None or found:
        raise ProblemsFound(found)
    return recipe


def _unusable(path: Path, message: str, suggestion: str | None = None) -> ProblemsFound:
    return ProblemsFound([Problem(str(path), 0, 0, "", message, suggestion)])


def _decode(content: bytes, path: Path) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _unusable(path, "is UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = before.count(b"\n") + 1
        column = len(before.rsplit(b"\n", 1)[-1].decode("utf-8", "replace")) + 1
        message = f"the byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ProblemsFound([Problem(str(path), line, column, "", message)]) from error


def _nearest_file(path: Path) -> str | None:
    candidates = sorted(p.name for p in path.parent.iterdir() if p.suffix in (".yaml", ".yml"))
    near = nearest(path.name, candidates) or nearest(path.stem, candidates, cutoff=0.4)
    return str(path.parent / near) if near else None


def _recipes_in(folder: Path) -> str:
    try:
        found = sorted(p.name for p in folder.iterdir() if p.suffix in (".yaml", ".yml"))[:5]
    except OSError:
        return ""
    return f"; it holds {', '.join(map(clean, found))}" if found else ""


def _override(tree: Node, override: str) -> Node:
    """Return the tree with one `key.path=value` set; the value is YAML."""
    place = Place("--set " + clean(override, limit=100))
    dotted_path, equals, text = override.partition("=")
    steps = dotted_path.strip().split(".")
    if not equals or not all(steps):
        raise ProblemsFound([Problem(*place, "", "expected key.path=value")])
    if text.strip():
        value, problems = read_tree(text, place.file, fixed=place)
        if problems:
            raise ProblemsFound(problems)
    else:
        value = Node(None, place, {})
    return tree.with_value(steps, value)
