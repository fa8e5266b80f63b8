"""Draws report.png: effect curve, what was kept, a strip excerpt and the verdict, on one page."""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from loba_tui.core.program.evaluation.eraser_effect import Erasure
from loba_tui.core.program.evaluation.page import FAINT, GRID, HEIGHT, INK, WIDTH, page
from loba_tui.core.program.evaluation.preservation import KEPT_SHARE
from loba_tui.core.program.evaluation.report import Report
from loba_tui.core.program.evaluation.slider_effect import Measurement
from loba_tui.core.text import clean
from loba_tui.core.units import scale_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUM_EXCERPT_ROWS = 3

ACCENT = "#1f77b4"
GOOD, SO_SO, BAD = "#2a8f5b", "#c98a1b", "#c0392b"
LINE_COLORS = ("#7a5ba8", "#d1772f", "#3d9a8b", "#b5577f", "#6b7f2a")
BADGES = {
    "working": GOOD,
    "erased": GOOD,
    "partly erased": SO_SO,
    "circumvented": SO_SO,
    "weak": SO_SO,
    "entangled": SO_SO,
    "one-sided": SO_SO,
}
"""Colour of the outcome; every other outcome is bad, "unmeasured" is faint."""


def report_png(report: Report, images: np.ndarray, *, measured: Measurement | None = None) -> bytes:
    """Return the page as a PNG of 1200 x 800 pixels; the same input gives the same bytes.

    Args:
        images: (num_samples, num_scales, H, W, 3), the images it was found on.
        measured: The values behind the effect curve; None draws how far images move instead.
    """
    png = io.BytesIO()
    with page(png) as figure:
        _draw_title(figure, report)
        curve = figure.add_axes((0.065, 0.525, 0.44, 0.335))
        if report.erasure is not None:
            _draw_erasure(curve, report, report.erasure)
        elif measured is not None and report.effect is not None:
            _draw_effect(curve, report, measured)
        else:
            _draw_change(curve, report)
        _draw_kept(figure.add_axes((0.60, 0.525, 0.375, 0.335)), report)
        _draw_excerpt(figure, report, images)
        _draw_words(figure, report)
    return png.getvalue()


def _draw_title(figure: Figure, report: Report) -> None:
    color = FAINT if report.outcome == "unmeasured" else BADGES.get(report.outcome, BAD)
    title = figure.text(
        0.025, 0.945, clean(report.name, limit=48), size=20, color=INK, weight="bold",
        va="center", parse_math=False,
    )  # fmt: skip
    width = title.get_window_extent().width / WIDTH
    figure.text(
        0.025 + width + 0.02, 0.946, report.outcome, size=13, color="white", weight="bold",
        va="center", bbox={"boxstyle": "round,pad=0.35", "facecolor": color, "edgecolor": "none"},
    )  # fmt: skip
    counts = f"{report.num_samples} samples \N{MULTIPLICATION SIGN} {len(report.scales)} scales"
    figure.text(0.975, 0.945, counts, size=11, color=FAINT, va="center", ha="right")


def _draw_effect(axes: Axes, report: Report, measured: Measurement) -> None:
    effect = report.effect
    assert effect is not None
    for sample in measured.values:
        axes.plot(report.scales, sample, color=ACCENT, alpha=0.22, linewidth=0.9)
    axes.fill_between(
        report.scales, effect.quartile_low, effect.quartile_high, color=ACCENT, alpha=0.2, lw=0
    )
    axes.plot(report.scales, effect.mean, color=ACCENT, linewidth=2.6, marker="o", markersize=6)
    for scale, value in zip(report.scales, effect.mean, strict=True):
        if np.isfinite(value):
            axes.annotate(
                f"{value:.3g}", (scale, value), (0, 9), textcoords="offset points", size=9.5,
                color=INK, ha="center", weight="bold",
                bbox={"boxstyle": "round,pad=0.12", "facecolor": "white", "alpha": 0.75, "lw": 0},
            )  # fmt: skip
    unit = f" ({effect.unit})" if effect.unit else ""
    title = f"{effect.measure}{unit}: mean, quartiles, every sample"
    _finish(axes, report, clean(title))


def _draw_erasure(axes: Axes, report: Report, erasure: Erasure) -> None:
    """Draw the share that still shows the concept, and the others that still come as asked."""
    lines = [(f"{erasure.label}, asked for", erasure.share, BAD)]
    if erasure.accuracy is not None:
        lines.append(("others, as asked for", erasure.accuracy, GOOD))
    for label, shares, color in lines:
        axes.plot(
            report.scales, shares, color=color, linewidth=2.6, marker="o", markersize=6,
            label=clean(label, limit=40),
        )  # fmt: skip
        for scale, value in zip(report.scales, shares, strict=True):
            axes.annotate(
                f"{value:.0%}", (scale, value), (0, 8), textcoords="offset points", size=9.5,
                color=INK, ha="center", weight="bold",
            )  # fmt: skip
    attacks = [(each.name, each.share) for each in report.attacks or () if each.share is not None]
    for (name, share), color in zip(attacks, itertools.cycle(LINE_COLORS)):
        label = f"by {name}, {share:.0%}"
        axes.plot(erasure.at, share, "X", color=color, markersize=9, label=label)
    axes.set_ylim(-0.05, 1.18)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.set_yticklabels(["0", "25 %", "50 %", "75 %", "100 %"])
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.03, -0.08), ncols=3 if attacks else 2,
        frameon=False, fontsize=9, labelcolor=INK, borderaxespad=0, columnspacing=1.2,
    )  # fmt: skip
    _finish(axes, report, clean(f"share of samples by {erasure.measure}"))


def _draw_change(axes: Axes, report: Report) -> None:
    change = report.images.change
    axes.plot(report.scales, change, color=ACCENT, linewidth=2.6, marker="o", markersize=6)
    axes.set_ylim(bottom=0)
    _finish(axes, report, "how far images move from scale 0 (root mean square of pixels)")


def _draw_kept(axes: Axes, report: Report) -> None:
    """Draw one line for each label; lines that coincide stay visible through their dashes."""
    lines = [(kept.label, kept.share_unchanged) for kept in report.preservation if kept.num_judged]
    if report.effect is not None:
        lines.append(("attribute found", report.effect.share_present))
    lines.append(("image unbroken", report.images.share_sound))
    axes.axhspan(KEPT_SHARE, 1.03, color=GOOD, alpha=0.07, linewidth=0)
    axes.axhline(KEPT_SHARE, color=GOOD, linewidth=1, linestyle=(0, (4, 3)))
    markers = "osD^vP"
    for number, (label, shares) in enumerate(lines):
        # Equal shares would hide one another, so each line is set off by a hair.
        shifted = np.asarray(shares) - 0.006 * number
        color = LINE_COLORS[number % len(LINE_COLORS)]
        axes.plot(
            report.scales, shifted, color=color, linewidth=1.8, label=clean(label),
            marker=markers[number % len(markers)], markersize=5,
        )  # fmt: skip
    axes.set_ylim(-0.02, 1.03)
    axes.set_yticks([0, 0.25, 0.5, 0.75, KEPT_SHARE, 1.0])
    axes.set_yticklabels(["0", "25 %", "50 %", "75 %", "90 %", "100 %"])
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.03, -0.08), ncols=3, frameon=False, fontsize=9,
        labelcolor=INK, borderaxespad=0, handlelength=1.6, columnspacing=1.2,
    )  # fmt: skip
    _finish(axes, report, "share of samples in which it stayed as at scale 0")


def _finish(axes: Axes, report: Report, title: str) -> None:
    """Give both curves the same look: the clean range shaded, the base marked, little ink."""
    span = report.scales[-1] - report.scales[0]
    if report.clean_range is not None:
        low, high = report.clean_range
        edge = 0.02 * span
        axes.axvspan(low - edge, high + edge, color=GOOD, alpha=0.06, linewidth=0, zorder=0)
    axes.axvline(0, color=FAINT, linewidth=0.9, linestyle=(0, (2, 3)), zorder=0)
    axes.set_xlim(report.scales[0] - 0.06 * span, report.scales[-1] + 0.06 * span)
    axes.set_xticks(report.scales)
    axes.set_xticklabels([scale_label(scale) for scale in report.scales])
    axes.set_title(title, loc="left", size=11, color=INK, pad=9, parse_math=False)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelcolor=INK, labelsize=9.5, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)


def _draw_excerpt(figure: Figure, report: Report, images: np.ndarray) -> None:
    """Show a few samples, evenly picked, under the curves' scales."""
    num_rows = min(NUM_EXCERPT_ROWS, len(images))
    picks = np.linspace(0, len(images) - 1, num_rows).round().astype(int)
    left, right, bottom, top = 0.025, 0.505, 0.04, 0.4
    cell = min(
        (right - left) * WIDTH / len(report.scales), (top - bottom) * HEIGHT / max(num_rows, 1)
    )
    for row, pick in enumerate(picks):
        for column, scale in enumerate(report.scales):
            x, y = left + column * cell / WIDTH, top - (row + 1) * cell / HEIGHT
            axes = figure.add_axes((x, y, (cell - 4) / WIDTH, (cell - 4) / HEIGHT))
            axes.imshow(np.clip(images[pick, column], 0, 1), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(scale == 0)
                spine.set_color(ACCENT)
                spine.set_linewidth(2)
            if row == 0:
                color = ACCENT if scale == 0 else INK
                axes.set_title(scale_label(scale), size=10, color=color, pad=4)


def _draw_words(figure: Figure, report: Report) -> None:
    """Write the verdict, smaller where it is long: no sentence is left out."""
    left, top, height = 0.555, 0.4, 0.37
    for shrink in (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5):
        lines = _wrapped_verdict(report.verdict, shrink)
        if sum(step for _, _, step in lines) <= height:
            break
    y = top
    for text, is_first, step in lines:
        figure.text(
            left, y, text, color=INK, va="top", parse_math=False,
            size=(13 if is_first else 11) * shrink, weight="bold" if is_first else "normal",
        )  # fmt: skip
        y -= step


def _wrapped_verdict(verdict: Sequence[str], shrink: float) -> list[tuple[str, bool, float]]:
    """Return lines as (text, whether of the headline, height as a share of the page)."""
    lines = []
    for number, sentence in enumerate(verdict):
        is_first = number == 0
        wrapped = textwrap.wrap(clean(sentence), width=int((45 if is_first else 59) / shrink))
        step = (0.033 if is_first else 0.028) * shrink
        lines += [(text, is_first, step) for text in wrapped[:-1]]
        lines += [(text, is_first, step + 0.012 * shrink) for text in wrapped[-1:]]
    return lines
