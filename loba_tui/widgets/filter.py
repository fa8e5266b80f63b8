"""The filter language of every table: words that all have to hold.

`slider`         some column holds it        `!dead`        none does
`phase:running`  that column holds it        `loss>0.1`     that column's number is greater, or <
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from loba_tui.core.text import clean, nearest

_TERM = re.compile(r"(?P<no>!?)(?:(?P<column>[A-Za-z_][\w.]*)(?P<how>[:<>]))?(?P<word>.*)")

Test = Callable[[Mapping[str, str], Mapping[str, object]], bool]


@dataclass(frozen=True)
class Filter:
    """A parsed filter.

    Attributes:
        problem: What cannot be understood, with the nearest column; such words are left out.
    """

    text: str = ""
    problem: str = ""
    tests: tuple[Test, ...] = ()

    @classmethod
    def parse(cls, text: str, columns: Sequence[str]) -> Filter:
        """Read a filter over these columns; it never fails."""
        tests: list[Test] = []
        problems: list[str] = []
        for term in text.split():
            match = _TERM.fullmatch(term)
            assert match is not None  # the pattern takes every word
            column = match["column"]
            if column is None:
                tests.append(_negated(_anywhere(match["word"]), match["no"]))
            elif column not in columns:
                meant = nearest(column, columns)
                problems.append(
                    f"no column {clean(column)}"
                    + (f", did you mean {meant}?" if meant else f"; there are {', '.join(columns)}")
                )
            elif match["how"] == ":":
                tests.append(_negated(_within(column, match["word"]), match["no"]))
            else:
                bound = _number(match["word"])
                if bound is None:
                    problems.append(f"{clean(term)}: {clean(match['word'])!r} is not a number")
                else:
                    tests.append(_negated(_beyond(column, match["how"], bound), match["no"]))
        return cls(text, "; ".join(problems), tuple(tests))

    def holds(self, texts: Mapping[str, str], values: Mapping[str, object]) -> bool:
        """Say whether a row passes, by what its columns show (texts) and sort by (values)."""
        return all(test(texts, values) for test in self.tests)


def _anywhere(word: str) -> Test:
    wanted = word.casefold()
    return lambda texts, values: any(wanted in text.casefold() for text in texts.values())


def _within(column: str, word: str) -> Test:
    wanted = word.casefold()
    return lambda texts, values: wanted in texts.get(column, "").casefold()


def _beyond(column: str, how: str, bound: float) -> Test:
    def test(texts: Mapping[str, str], values: Mapping[str, object]) -> bool:
        value = values.get(column)
        if not isinstance(value, int | float):
            return False
        return value > bound if how == ">" else value < bound

    return test


def _negated(test: Test, no: str) -> Test:
    return (lambda texts, values: not test(texts, values)) if no else test


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
