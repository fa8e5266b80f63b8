"""Files of what an edit does: a table for other programs, and a picture to look at."""

from __future__ import annotations

import csv
import io
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from loba_tui.core.program.evaluation.costs.concept_costs import ConceptCosts
from loba_tui.core.program.evaluation.page import FAINT, INK, page
from loba_tui.core.run.directory import RunDir
from loba_tui.core.text import clean, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = ("kind", "name", "becomes", "undone", "is_moved", "moves_in_the_mean", "moves_most")
MOST_ROWS, MOST_COLUMNS = 36, 40
_MOST_LETTERS = 24
_TOP, _ROOM, _ROW = 0.82, 0.58, 0.05
_LEAST_SHADED = 10.0
"""Percent that get the darkest shade where nothing moves more."""
_MOST_WRITTEN = 16
"""Rows and columns of which each cell's number is written, too."""


def write_costs(costs: ConceptCosts, run_dir: RunDir) -> None:
    """Write both files into a run's folder of its adapter."""
    run_dir.costs.replace(costs_csv(costs).encode())
    run_dir.costs_picture.replace(costs_png(costs))


def costs_csv(costs: ConceptCosts) -> str:
    """Return the table as CSV; shares are 0 to 1."""
    text = io.StringIO()
    writer = csv.DictWriter(text, (*_COLUMNS, "most"), restval="")
    writer.writeheader()
    for row in costs.table():
        writer.writerow(
            {
                key: f"{value:.4g}" if isinstance(value, float) else _plain(value)
                for key, value in row.items()
            }
        )
    return text.getvalue()


def costs_png(costs: ConceptCosts) -> bytes:
    """Return a page with how far each concept moves each prompt, the dearest of both first.

    The same costs give the same bytes.
    """
    png = io.BytesIO()
    with page(png) as figure:
        title = f"{counted(len(costs.concepts), 'concept')} erased: the cost to other prompts"
        figure.text(0.03, 0.955, title, fontsize=15, color=INK, weight="bold", va="center")
        lines = [line for each in costs.sentences() for line in textwrap.wrap(clean(each), 150)]
        figure.text(
            0.03, 0.925, "\n".join(lines), fontsize=9.5, color=INK, va="top", linespacing=1.5
        )
        height = min(_ROOM, _ROW * min(len(costs.concepts), MOST_ROWS))
        below = _TOP - height
        if costs.prompts:
            _draw_moves(figure.add_axes((0.18, below, 0.53, height)), costs)
        _draw_undone(figure.add_axes((0.82, below, 0.15, height)), costs)
    return png.getvalue()


def _draw_moves(axes: Axes, costs: ConceptCosts) -> None:
    moves = 100 * np.array([concept.moves for concept in costs.concepts])
    rows = np.argsort(-moves.max(axis=1), kind="stable")[:MOST_ROWS]
    columns = np.argsort([-prompt.moved for prompt in costs.prompts], kind="stable")[:MOST_COLUMNS]
    shown = moves[rows][:, columns]
    most = max(_LEAST_SHADED, shown.max())
    image = axes.imshow(shown, aspect="auto", cmap="YlOrRd", vmin=0, vmax=most)
    if max(shown.shape) <= _MOST_WRITTEN:
        for (row, column), value in np.ndenumerate(shown):
            color = "white" if value > 0.6 * most else INK
            axes.text(
                column, row, f"{value:.1f}", fontsize=7, ha="center", va="center", color=color
            )
    axes.set_yticks(range(len(rows)), [_short(costs.concepts[i].label) for i in rows], fontsize=7)
    prompts = [costs.prompts[i] for i in columns]
    names = [_short(p.label) + ("" if p.is_preserved else " (watched)") for p in prompts]
    axes.set_xticks(range(len(columns)), names, fontsize=7, rotation=90)
    axes.tick_params(length=0, colors=INK)
    told = "By how many % of their length each concept alone moves a prompt's states"
    told += f" (dearest {len(rows)} of {len(moves)})" if len(rows) < len(moves) else ""
    axes.set_title(told, fontsize=9.5, color=INK, loc="left")
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.03, pad=0.015)
    bar.ax.tick_params(labelsize=7, colors=INK)
    bar.outline.set_visible(False)
    for side in axes.spines.values():
        side.set_visible(False)


def _draw_undone(axes: Axes, costs: ConceptCosts) -> None:
    worst = sorted(costs.concepts, key=lambda concept: -concept.undone)[:MOST_ROWS]
    axes.barh(range(len(worst)), [100 * concept.undone for concept in worst], color="#1f77b4")
    axes.set_yticks(range(len(worst)), [_short(each.label) for each in worst], fontsize=7)
    axes.set_ylim(len(worst) - 0.5, -0.5)
    axes.set_xlim(0, max(1.0, 105 * max(concept.undone for concept in worst)))
    axes.tick_params(length=0, colors=INK, labelsize=7)
    axes.set_title("Change undone, %", fontsize=9.5, color=INK, loc="left")
    axes.grid(axis="x", color=FAINT, alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _short(label: str) -> str:
    plain = clean(label).replace("$", r"\$")
    return plain if len(plain) <= _MOST_LETTERS else plain[: _MOST_LETTERS - 1] + "…"


def _plain(value: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    plain = clean(value)
    return f"'{plain}" if plain.startswith(("=", "+", "-", "@")) else plain
