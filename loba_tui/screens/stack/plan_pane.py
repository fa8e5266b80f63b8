"""The plan of a recipe, drawn: its curves, and the memory that it needs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from textual import events

from loba_tui.client.plans.ascii_charts import Canvas
from loba_tui.client.plans.client import SECTIONS, Answer
from loba_tui.client.plans.requirements_text import fits, flops
from loba_tui.client.plans.text import DRAWN
from loba_tui.core.units import show_memory
from loba_tui.widgets.line import Lines, Piece

_LEAST_WIDTH = 24


class PlanPane(Lines):
    """Draws the answers of a `PlanClient`, the wanted section first, as many as fit."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._answers: dict[str, Answer] = {}
        self._first_needs: Mapping[str, Any] | None = None
        self._number = 0
        self._wanted = ""
        self._trouble = ""

    def begin(self) -> None:
        """Forget everything: another recipe is at hand."""
        self._answers, self._first_needs, self._trouble, self._number = {}, None, "", 0
        self.draw()

    def complain(self, text: str) -> None:
        """Say why there is nothing to draw."""
        self._trouble = text
        self.draw()

    def ask(self, number: int) -> None:
        """Take note that the recipe of this number was asked for."""
        self._number, self._trouble = number, ""
        self.draw()

    def want(self, section: str) -> None:
        if section != self._wanted:
            self._wanted = section
            self.draw()

    def take(self, answer: Answer) -> None:
        """Take an answer in; one to an older question is of no more interest."""
        if answer.number == 0:
            self._trouble = f"the curves cannot be drawn: {answer.error}"
        elif answer.number != self._number:
            return
        elif not answer.section:
            self._trouble = answer.error
        else:
            self._answers[answer.section] = answer
            if answer.section == "needs" and self._first_needs is None:
                self._first_needs = answer.data
        self.draw()

    @property
    def is_waiting(self) -> bool:
        """Say whether something of what was asked is not there yet."""
        return not self._trouble and any(
            section not in self._answers or self._answers[section].number != self._number
            for section in SECTIONS
        )

    def on_resize(self, event: events.Resize) -> None:
        self.draw()

    def draw(self) -> None:
        width, height = self.size
        if width < _LEAST_WIDTH or not height:
            self.show([])
            return
        rows = list(self._needs(width))
        order = [self._wanted, *(s for s in SECTIONS if s not in (self._wanted, "needs"))]
        for section in order:
            drawn = list(self._section(section, width)) if section else []
            # A chart that is cut off says nothing; the wanted one is shown as far as it goes.
            if drawn and (len(rows) + 1 + len(drawn) <= height or section == self._wanted):
                rows += [[""], *drawn]
        self.show(rows[:height])

    def _section(self, section: str, width: int) -> Iterator[list[Piece]]:
        answer = self._answers.get(section)
        if answer is None:
            return
        if answer.data is None:
            yield from _wrapped(f"{section}: {answer.error}", width, "bad")
            return
        lines = DRAWN[section](answer.data, Canvas(width, is_unicode=True))
        for index, line in enumerate(lines):
            heading = "strong" if answer.number == self._number else "dim"
            yield [(line, heading if index == 0 else "dim")]

    def _needs(self, width: int) -> Iterator[list[Piece]]:
        answer = self._answers.get("needs")
        if self._trouble:
            for line in self._trouble.splitlines():
                yield from _wrapped(line, width, "bad")
        if answer is None or answer.data is None:
            if answer is not None:
                yield from _wrapped(answer.error, width, "bad")
            elif not self._trouble:
                said = "working out what it needs; the first time takes some seconds …"
                yield from _wrapped(said, width, "dim")
            return
        # Until the new answer is there, the one on the recipe before the last change is shown.
        is_old = answer.number != self._number
        yield from _needs_rows(answer.data, self._first_needs, width, is_old=is_old)


def _needs_rows(
    needs: Mapping[str, Any], first: Mapping[str, Any] | None, width: int, *, is_old: bool
) -> Iterator[list[Piece]]:
    memory, work = needs["memory"], needs["work"]
    moved = memory["needed"] - first["memory"]["needed"] if first else 0
    change = f" ({'+' if moved > 0 else '−'}{show_memory(abs(moved))})" if moved else ""
    tone = "dim" if is_old else "strong"
    wait = " …" if is_old else ""
    problem = needs.get("problem")
    yield [
        ("memory ", "dim"),
        (f"{fits(needs)}{change}", "bad" if problem else tone),
        (f" while {memory['worst_phase']}{wait}", "dim"),
    ]
    facts = [
        f"trains {needs['trained_parameters']:,}",
        f"disk {show_memory(needs['disk']['needed'])}",
        f"{flops(work['flops_per_step'])} a step",
    ]
    yield from _wrapped(" · ".join(facts), width, "dim")
    if problem:
        yield from _wrapped(f"! {problem}", width, "bad")


def _wrapped(text: str, width: int, tone: str) -> Iterator[list[Piece]]:
    for line in textwrap.wrap(text, width):
        yield [(line, tone)]
