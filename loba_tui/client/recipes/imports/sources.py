"""Files of other tools as plain values: what format they have, and what in them is secret.

Such a file is a stranger's. It is read within bounds, nothing in it is run or expanded, and what
looks like a token, or stands under a name such as `wandb_api_key`, is taken out before anybody else
sees it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.shell import Shell, read_shell
from loba_tui.core.errors import LobaError, RecipeError
from loba_tui.core.file_sources import read_source
from loba_tui.core.files import UnsafeFileError
from loba_tui.core.foreign_json import check_depth, parse_json
from loba_tui.core.recipe.load import MAX_BYTES
from loba_tui.core.recipe.problems import ProblemsFound
from loba_tui.core.recipe.yaml_tree import read_tree
from loba_tui.core.redact import find_secret, is_secret_name
from loba_tui.core.text import clean

Format = Literal["json", "toml", "yaml", "shell", "lines", "folder"]

MOST_LISTED = 4 * 1024 * 1024
"""Bytes of a JSON file, which may list every image; settings themselves are far smaller."""
MOST_KEYS = 500
"""Keys of a mapping that are settings; more are a list, such as captions by image."""

# No pattern may begin again at every character of a long run: that takes the square of its length.
_TOML_LINE = re.compile(r"^[ \t]*+(?:\[\[?[\w.\"' -]+\]\]?|[\w.\"'-]++[ \t]*+=(?!=))", re.MULTILINE)
_SHELL_LINE = re.compile(
    r"^[ \t]*+(?:export[ \t]+|set[ \t]+)?[A-Z][A-Z0-9_]*+=|^#!|(?:^|\s)--[a-z][a-z0-9_]{2,}",
    re.MULTILINE,
)
_YAML_LINE = re.compile(r"^(?:- )?[ \t]*+\{?['\"]?[\w-]++['\"]?[ \t]*+:(?:\s|$)", re.MULTILINE)
# tomllib needs the square of a dotted key's parts; settings have three or four.
_LONG_KEY = re.compile(r"(?<![\w\"'-])(?:[\w\"'-]++[ \t]*+\.[ \t]*+){32}")
_FOLLOWED = frozenset([".txt", ".yaml", ".yml", ".json", ".toml"])


@dataclass(frozen=True)
class ForeignFile:
    """A file, a folder or a command line that somebody wrote for another tool.

    Attributes:
        name: What it is called in messages.
        path: None for a command line.
        values: The mapping or list in it; a `Shell` for commands, its lines for plain text.
        secrets: Keys whose values were taken out.
    """

    name: str
    path: Path | None
    format: Format
    values: Any
    secrets: tuple[str, ...] = field(default=())

    @property
    def mapping(self) -> Mapping[str, Any]:
        """The values by key; empty where they are a list or a text."""
        return self.values if isinstance(self.values, dict) else {}

    @property
    def entries(self) -> list[Mapping[str, Any]]:
        """The mappings of a list; empty where it is none, or holds anything else."""
        values = self.values if isinstance(self.values, list) else []
        return values if values and all(isinstance(each, dict) for each in values) else []

    @property
    def shell(self) -> Shell | None:
        """The assignments and words of a command; None for other files."""
        return self.values if isinstance(self.values, Shell) else None


def read_foreign(path: Path) -> ForeignFile:
    """Return what a file or a folder holds.

    Raises:
        RecipeError: It is missing, too large, or of no format that is read.
    """
    name = str(path)
    if path.is_dir():
        return ForeignFile(name, path, "folder", None)
    text = _read(path)
    try:
        form, values = _parse(text, name)
    except RecursionError as error:
        raise RecipeError(f"{clean(name)}: nested too deeply") from error
    if len(text) > MAX_BYTES and not (isinstance(values, dict) and len(values) > MOST_KEYS):
        raise RecipeError(f"{clean(name)}: has more than {MAX_BYTES} characters")
    secrets: list[str] = []
    if isinstance(values, Shell):
        values = values.without_secrets(secrets)
    else:
        values = _without_secrets(values, "", secrets)
    return ForeignFile(name, path, form, values, tuple(secrets))


def read_words(words: list[str]) -> ForeignFile:
    """Return what was written after `--` on the command line."""
    secrets: list[str] = []
    shell = Shell((), tuple(words)).without_secrets(secrets)
    return ForeignFile("the flags after --", None, "shell", shell, tuple(secrets))


def _read(path: Path) -> str:
    most = MOST_LISTED if path.suffix.lower() == ".json" else MAX_BYTES
    shown = clean(path)
    try:
        content = read_source(path, most)
    except UnsafeFileError as error:
        raise RecipeError(f"{shown}: cannot be used: it {error.strerror}") from error
    except FileNotFoundError as error:
        raise RecipeError(f"{shown}: there is no such file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(f"{shown}: cannot be read: {clean(reason)}") from error
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{shown}: is not text in UTF-8",
            "Name a configuration: YAML, JSON, TOML, or a text with a command.",
        ) from error


def _parse(text: str, name: str) -> tuple[Format, Any]:
    """Return a text's format, told by the text and not by the file's name, and its values."""
    stripped = text.lstrip()
    if not stripped:
        raise RecipeError(f"{clean(name)}: the file is empty")
    suffix = Path(name).suffix.lower()
    if stripped[0] in "{[" and suffix != ".toml":
        try:
            return "json", parse_json(text)
        except ValueError as error:
            if suffix == ".json":
                raise RecipeError(f"{clean(name)}: not valid JSON: {clean(error)}") from error
    is_script = suffix in (".sh", ".bat", ".cmd", ".ps1", ".env") or stripped.startswith("#!")
    if not is_script:
        toml = _toml(text, name, wanted=suffix == ".toml")
        if toml is not None:
            return "toml", toml
    is_yaml = suffix in (".yaml", ".yml") or bool(_YAML_LINE.search(text))
    if is_script or (not is_yaml and _SHELL_LINE.search(text)):
        return "shell", read_shell(text)
    if is_yaml and suffix != ".txt":
        return "yaml", _yaml(text, name)
    return "lines", text.splitlines()


def _toml(text: str, name: str, *, wanted: bool) -> dict[str, Any] | None:
    """Return the values of TOML; None where the text is none and need not be."""
    if not wanted and not _TOML_LINE.search(text):
        return None
    try:
        if _LONG_KEY.search(text):
            raise ValueError("a key has more than 32 parts")
        values = tomllib.loads(text)
        check_depth(values)
    except ValueError as error:
        if wanted:
            raise RecipeError(f"{clean(name)}: not valid TOML: {clean(error)}") from error
        return None
    return values


def _yaml(text: str, name: str) -> Any:
    try:
        tree, problems = read_tree(text, name)
    except ProblemsFound as error:
        problems = list(error.problems)
        tree = None
    if tree is None or problems:
        raise ProblemsFound(problems)
    return tree.plain()


def _without_secrets(value: Any, key: str, secrets: list[str]) -> Any:
    """Return values without secrets and without text that no recipe can hold; name those."""
    if isinstance(value, dict):
        kept = {}
        for name, item in value.items():
            path = f"{key}.{name}" if key else str(name)
            if _is_bad_text(str(name)):
                secrets.append(f"{key or 'the file'}: a key that is not shown")
            elif isinstance(item, str) and item and _is_secret(str(name), item):
                secrets.append(path)
            else:
                kept[str(name)] = _without_secrets(item, path, secrets)
        return kept
    if isinstance(value, list):
        kept_items = []
        for index, item in enumerate(value):
            path = f"{key}.{index}" if key else str(index)
            if isinstance(item, str) and _is_secret("", item):
                secrets.append(path)
            else:
                kept_items.append(_without_secrets(item, path, secrets))
        return kept_items
    return value


def _is_secret(name: str, value: str) -> bool:
    return is_secret_name(name.removeprefix("--")) or _is_bad_text(value)


def _is_bad_text(text: str) -> bool:
    return find_secret(text) is not None or any("\ud800" <= letter <= "\udfff" for letter in text)


def find_named(wanted: str, beside: Path | None) -> Path | None:
    """Return the file that another one names, where it lies with it or in the current folder.

    A configuration from elsewhere may name any file of this machine, and what is read ends up in a
    recipe: those outside of the two folders have to be named on the command line.
    """
    if not wanted or "\0" in wanted:
        return None
    folders = [*([beside.parent] if beside is not None else []), Path()]
    for candidate in _candidates(wanted, folders):
        is_hidden = any(part.startswith(".") and part.strip(".") for part in candidate.parts)
        if is_hidden or candidate.suffix.lower() not in _FOLLOWED:
            continue
        try:
            there = candidate.resolve()
            is_inside = any(there.is_relative_to(folder.resolve()) for folder in folders)
            if is_inside and there.is_file():
                return candidate
        except (OSError, ValueError, RuntimeError):
            continue
    return None


def _candidates(wanted: str, folders: list[Path]) -> Iterator[Path]:
    named = Path(wanted.replace("\\", "/"))
    for folder in folders:
        yield folder / named
    for folder in folders:
        yield folder / named.name


def read_if_there(wanted: str, beside: Path | None, draft: Draft) -> ForeignFile | None:
    """Return the file that another one names; None where it is not at hand or cannot be read."""
    found = find_named(wanted, beside)
    if found is None:
        return None
    try:
        file = read_foreign(found)
    except LobaError:
        return None
    tell_of_secrets(file, draft)
    return file


def tell_of_secrets(file: ForeignFile, draft: Draft) -> None:
    """Tell which keys of a file were taken out, and nothing of their values."""
    for key in file.secrets:
        reason = "a token, a key or no valid text: it is neither kept nor shown"
        draft.left(key, "(not shown)", reason)
