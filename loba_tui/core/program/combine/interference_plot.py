"""Draws interference.png: overlap by block, what the measures say, and a strip, on one page."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from loba_tui.core.program.combine.interference import Interference
from loba_tui.core.program.evaluation.page import FAINT, GRID, INK, page
from loba_tui.core.text import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 4
MOST_BLOCK_NAMES = 10
WRAP, MOST_SENTENCES = 74, 8
CAPTION = 5
"""Rows of pixels under an image that its prompt takes."""

COLORS = ("#1f77b4", "#d1772f", "#3d9a8b", "#7a5ba8", "#b5577f", "#6b7f2a")


def interference_png(found: Interference, images: np.ndarray, prompts: Sequence[str]) -> bytes:
    """Return the page as a PNG of 1200 x 800 pixels; the same input gives the same bytes.

    Images are (num_prompts, 2 + num_adapters, H, W, 3): none, each alone, all.
    """
    png = io.BytesIO()
    with page(png) as figure:
        title = " + ".join(
            f"{clean(label, limit=30)} @ {strength:g}"
            for label, strength in zip(found.labels, found.strengths, strict=True)
        )
        figure.text(0.03, 0.955, title, size=15, color=INK, weight="bold", parse_math=False)
        _draw_overlap(figure.add_axes((0.09, 0.60, 0.36, 0.30)), found)
        words = [textwrap.wrap(clean(sentence), WRAP) for sentence in found.sentences()]
        figure.text(
            0.03, 0.50, "\n\n".join("\n".join(lines) for lines in words[:MOST_SENTENCES]),
            size=10, color=INK, va="top", linespacing=1.35, parse_math=False,
        )  # fmt: skip
        _draw_strip(figure.add_axes((0.53, 0.05, 0.45, 0.85)), found, images, prompts)
    return png.getvalue()


def _draw_overlap(axes: Axes, found: Interference) -> None:
    """Draw each pair's overlap as a bar in each block, and as a line for the whole."""
    num_pairs = len(found.pairs)
    places = np.arange(len(found.blocks))
    for number, pair in enumerate(found.pairs):
        color = COLORS[number % len(COLORS)]
        values = [pairs[number].overlap or 0.0 for pairs in found.blocks.values()]
        offset = (number - (num_pairs - 1) / 2) * 0.8 / num_pairs
        axes.bar(places + offset, values, 0.8 / num_pairs, color=color)
        if pair.overlap is not None:
            axes.axhline(pair.overlap, color=color, linewidth=1, linestyle="--")
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.set_ylim(-1.05, 1.05)
    # A transformer of 57 blocks has no room for as many names.
    every = -(-len(places) // MOST_BLOCK_NAMES)
    names = [name.replace("_blocks", "") for name in found.blocks]
    axes.set_xticks(places[::every], names[::every], size=9)
    axes.set_title(
        "overlap of their changes: by block, dashed in all", size=10, color=INK, loc="left"
    )
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_strip(
    axes: Axes, found: Interference, images: np.ndarray, prompts: Sequence[str]
) -> None:
    shown = images[:MOST_ROWS]
    num_rows, num_columns, height, width, _ = shown.shape
    caption = CAPTION * max(1, height // 32)
    sheet = np.ones((num_rows * (height + caption), num_columns * (width + 2), 3))
    for row, column in np.ndindex(num_rows, num_columns):
        top, left = row * (height + caption), column * (width + 2)
        sheet[top : top + height, left : left + width] = np.clip(shown[row, column], 0, 1)
    axes.imshow(sheet, interpolation="nearest")
    heads = ["none", *(clean(label, limit=14) for label in found.labels), "all"]
    axes.set_xticks([(c + 0.5) * (width + 2) - 1 for c in range(num_columns)], heads, size=9)
    axes.xaxis.tick_top()
    axes.set_yticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for row, prompt in enumerate(prompts[:num_rows]):
        axes.text(
            0, row * (height + caption) + height, clean(prompt, limit=70), size=8, color=FAINT,
            va="top", parse_math=False,
        )  # fmt: skip
