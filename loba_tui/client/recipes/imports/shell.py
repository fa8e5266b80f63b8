"""Commands and assignments as people keep them in `.sh`, `.bat`, `.env` and `.txt` files.

Nothing is run. A `$NAME` that the same text has set is filled in; every other stays as it is.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from typing import Any

from loba_tui.core.redact import find_secret, is_secret_name

_ASSIGNMENT = re.compile(r"(?:export\s+|set\s+|\$env:)?(?P<name>[A-Za-z_]\w*)\s*=\s*(?P<value>.*)")
_REFERENCE = re.compile(r"\$\{(\w+)\}|\$(\w+)|%(\w+)%")
_CONTINUED = re.compile(r"(?<![ \t])[ \t]*+[\\^`][ \t]*+\n")
_NUMBER = re.compile(r"-(?:\d|\.\d)")
MOST_VALUE = 1024
"""Characters of a value that references are filled into: a few of them double it each time."""
MOST_WORDS = 2_000


@dataclass(frozen=True)
class Shell:
    """A script's assignments in order, and the words of its commands.

    Attributes:
        assignments: Name and value.
        words: All words of all commands, unquoted.
    """

    assignments: tuple[tuple[str, str], ...]
    words: tuple[str, ...]

    @property
    def variables(self) -> dict[str, str]:
        """The last value of each name."""
        return dict(self.assignments)

    @property
    def scripts(self) -> tuple[str, ...]:
        """The Python scripts that are called, without their folders."""
        names = (word.replace("\\", "/").rsplit("/", 1)[-1] for word in self.words)
        return tuple(name for name in names if name.endswith(".py"))

    def flags(self) -> dict[str, Any]:
        """Return the values of `--name value`, `--name=value`, `--name a b` and bare `--name`.

        What stands before the first script's name belongs to a launcher and is left out.
        """
        words = list(self.words)
        start = next((i for i, word in enumerate(words) if word.endswith(".py")), -1)
        found: dict[str, list[str]] = {}
        name = ""
        for word in words[start + 1 :]:
            if word.startswith("--") and len(word) > 2:
                name, equals, value = word[2:].partition("=")
                name = name.replace("-", "_")
                # A flag that comes twice counts as its last one, as argparse has it.
                found[name] = [value] if equals else []
            elif name and (not word.startswith("-") or _NUMBER.match(word)):
                found[name].append(word)
        return {key: _value(values) for key, values in found.items()}

    def without_secrets(self, secrets: list[str]) -> Shell:
        """Return it without what looks like a token, and add the names of those to a list."""
        assignments = []
        for name, value in self.assignments:
            if value and (is_secret_name(name) or find_secret(value)):
                secrets.append(name)
            else:
                assignments.append((name, value))
        words: list[str] = []
        is_hidden = False
        for word in self.words:
            name, equals, value = word.partition("=")
            flag = name.startswith("--")
            if flag:
                is_hidden = is_secret_name(name[2:].replace("-", "_"))
            if find_secret(word) or (is_hidden and (value or not flag)):
                secrets.append(name[2:] if flag else (words[-1].lstrip("-") if words else "a word"))
                words += [name] if flag and equals else []
            else:
                words.append(word)
        kept = [word for word in words if not is_secret_name(word.lstrip("-").replace("-", "_"))]
        return replace(self, assignments=tuple(assignments), words=tuple(kept))


def _value(values: list[str]) -> Any:
    if not values:
        return True
    return values[0] if len(values) == 1 else values


def read_shell(text: str) -> Shell:
    """Return the assignments and words of a script; a line that cannot be split is left out."""
    variables: dict[str, str] = {}
    assignments: list[tuple[str, str]] = []
    words: list[str] = []
    for line in _CONTINUED.sub(" ", text).splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith(("#", "::", "REM ", "rem ")):
            continue
        matched = _ASSIGNMENT.fullmatch(stripped)
        if matched and not stripped.startswith("-"):
            value = _filled(" ".join(_split(matched["value"])), variables)
            variables[matched["name"]] = value
            assignments.append((matched["name"], value))
        else:
            # One more than is kept, so that a long line is not filled in to its end.
            left = MOST_WORDS + 1 - len(words)
            words += [_filled(word, variables) for word in _split(stripped)[:left]]
    return Shell(tuple(assignments), tuple(words[:MOST_WORDS]))


def _split(line: str) -> list[str]:
    # Backslashes are folders on Windows, and nothing else in these files: none is an escape.
    splitter = shlex.shlex(line, posix=True, punctuation_chars=False)
    splitter.whitespace_split = True
    splitter.escape = ""
    try:
        return list(splitter)
    except ValueError:
        return line.split()


def _filled(text: str, variables: dict[str, str]) -> str:
    def value_of(match: re.Match[str]) -> str:
        name = next(filter(None, match.groups()))
        return variables.get(name, match.group())

    filled = _REFERENCE.sub(value_of, text)
    return filled if len(filled) <= MOST_VALUE else text
