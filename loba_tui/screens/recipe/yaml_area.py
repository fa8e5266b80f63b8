"""An editor for recipes: YAML in colours, problems marked on their lines.

What is drawn of a line has no character that does anything; what is in the file stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import TextArea

from loba_tui.core.recipe.problems import Problem

_TOKEN = re.compile(
    r"""(?P<comment>(?:(?<=\s)|^)\#.*)
    |(?P<key>[\w.$-]+(?=:(?:\s|$)))
    |(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^']|'')*')
    |(?P<value>(?<![\w.])(?:[-+]?\d[\d_.]*(?:[eE][-+]?\d+)?|true|false|null)(?![\w.]))
    |(?P<mark>[\[\]{},]|(?:^|(?<=\s))-(?=\s))
    |[\w.$/-]+|.""",
    re.VERBOSE,
)
KINDS = ("comment", "key", "text", "value", "mark")


def tokens(line: str) -> Iterator[tuple[str, int, int]]:
    """Yield the kind, begin and end of each part of a line of YAML that has a colour."""
    for match in _TOKEN.finditer(line):
        if match.lastgroup:
            yield match.lastgroup, *match.span()


def harmless(line: str) -> str:
    """Return a line of the same length in which every character only stands where it is."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or c == "\t" else "·" for c in line)


class YamlArea(TextArea):
    """The text of a recipe."""

    BINDING_GROUP_TITLE = "Editor"
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"yaml--{kind}" for kind in (*KINDS, "problem")}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n,f8", "next_problem", "next problem", id="editor.next_problem"),
    ]

    def __init__(self, *, id: str) -> None:
        super().__init__(
            id=id,
            soft_wrap=False,
            show_line_numbers=True,
            tab_behavior="indent",
            highlight_cursor_line=True,
            compact=True,
        )
        self.indent_width = 2
        self.cursor_blink = False
        self._problems: dict[int, list[Problem]] = {}

    @property
    def problem_lines(self) -> list[int]:
        """Return the numbers of the lines that have problems, from 1."""
        return sorted(self._problems)

    def show_problems(self, problems: Iterable[Problem]) -> None:
        """Mark the lines that these problems are on."""
        found: dict[int, list[Problem]] = {}
        for problem in problems:
            found.setdefault(max(1, problem.line), []).append(problem)
        if found != self._problems:
            self._problems = found
            self._line_cache.clear()
            self.refresh()

    def problems_here(self) -> Sequence[Problem]:
        """Return what is wrong with the line that the cursor is on."""
        return self._problems.get(self.cursor_location[0] + 1, ())

    def get_line(self, line_index: int) -> Text:
        line = harmless(self.document.get_line(line_index))
        drawn = Text(line, end="", no_wrap=True)
        for kind, begin, end in tokens(line):
            drawn.stylize(self.get_component_rich_style(f"yaml--{kind}", partial=True), begin, end)
        if line_index + 1 in self._problems:
            drawn.stylize(self.get_component_rich_style("yaml--problem", partial=True))
        return drawn

    def action_next_problem(self) -> None:
        """Go to the next line with a problem, from the last one to the first."""
        lines = self.problem_lines
        if lines:
            here = self.cursor_location[0] + 1
            line = next((each for each in lines if each > here), lines[0])
            first = self._problems[line][0]
            self.move_cursor((line - 1, max(0, first.column - 1)), center=True)
