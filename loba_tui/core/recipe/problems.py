"""Problems of a recipe: where, which key, and what was meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loba_tui.core.errors import ExitCode, RecipeError
from loba_tui.core.text import clean, offer


class Place(NamedTuple):
    """A position in a file; line 0 stands for an origin without lines, such as `--set a=b`."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        name = clean(self.file)
        return f"{name}:{self.line}:{self.column}" if self.line else name


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe; lines and columns count from 1.

    Attributes:
        refused: It is a matter of safety, such as a plugin that is not trusted.
    """

    file: str
    line: int
    column: int
    key: str
    message: str
    suggestion: str | None = None
    refused: bool = False

    @property
    def text(self) -> str:
        """The message, and what was meant where that is known."""
        return f"{self.message}. {offer(self.suggestion)}" if self.suggestion else self.message

    def __str__(self) -> str:
        where = Place(self.file, self.line, self.column)
        key = f"{clean(self.key, limit=120)}: " if self.key else ""
        return f"{where}: {key}{self.text}"


class ProblemsFound(RecipeError):
    """The recipe cannot be used; carries every problem, in the order of the file."""

    def __init__(self, problems: Sequence[Problem], hint: str = "") -> None:
        ordered = sorted(dict.fromkeys(problems), key=lambda p: (p.file, p.line, p.column))
        first, *others = map(str, ordered) if ordered else [""]
        super().__init__(first, hint, lines=others)
        self.problems = tuple(ordered)
        self.exit_code = exit_code(ordered)


def exit_code(problems: Iterable[Problem]) -> ExitCode:
    """Return what a process ends with after these: safety comes before mistakes."""
    found = list(problems)
    if any(problem.refused for problem in found):
        return ExitCode.REFUSED
    return ExitCode.RECIPE if found else ExitCode.DONE


def dotted(path: Sequence[str | int]) -> str:
    """Return a key path as it is written for `--set`: method.concepts.0.target."""
    return ".".join(map(str, path))
