"""Draws the picture strip: what every scale makes of every prompt and seed. With Pillow."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from loba_tui.core.text import clean
from loba_tui.core.units import scale_label

CELLS_KEY = "loba.cells"
"""Text chunk of a strip's PNG that says where its images lie, for whoever shows one at a time."""

CELL_RANGE = (96, 256)
"""Side of a cell in pixels: tiny images are enlarged by a whole factor, large ones reduced."""

PROMPT_WIDTH = 230
HEADER_HEIGHT = 44
MARGIN, GAP, GROUP_GAP = 16, 4, 14
MAX_PROMPT_LINES = 4

PAPER = (255, 255, 255)
INK = (28, 32, 38)
FAINT = (128, 136, 146)
ACCENT = (31, 119, 180)
ACCENT_FAINT = (221, 235, 247)


def strip(
    images: np.ndarray,
    *,
    scales: Sequence[float],
    prompts: Sequence[str],
    seeds: Sequence[int | None],
) -> Image.Image:
    """Lay images out with one row for each prompt and seed, one column for each scale.

    Args:
        images: (num_prompts, num_seeds, num_scales, H, W, 3) float in [0, 1].
        scales: Column labels; 0 is marked as the base.
        prompts: Written at the left of each group of rows, cleaned and wrapped.
        seeds: Written beside each row; None where rows of it have seeds of their own.
    """
    num_prompts, num_seeds, num_scales, height, width, _ = images.shape
    cell_w, cell_h = _cell_size(width, height)
    left = MARGIN + PROMPT_WIDTH
    top = MARGIN + HEADER_HEIGHT
    group = num_seeds * (cell_h + GAP) - GAP + GROUP_GAP
    size = (
        left + num_scales * (cell_w + GAP) - GAP + MARGIN,
        top + num_prompts * group - GROUP_GAP + MARGIN,
    )
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_header(draw, scales, left, cell_w, size[1])
    for p, prompt in enumerate(prompts):
        y = top + p * group
        _draw_prompt(draw, prompt, y)
        for s, seed in enumerate(seeds):
            row_y = y + s * (cell_h + GAP)
            said = "" if seed is None else f"seed {seed}"
            draw.text((left - 12, row_y + cell_h - 6), said, FAINT, _font(11), anchor="rs")
            for k in range(num_scales):
                cell = _to_cell(images[p, s, k], (cell_w, cell_h))
                sheet.paste(cell, (left + k * (cell_w + GAP), row_y))
    cells = {
        "size": [cell_w, cell_h],
        "x": [left + k * (cell_w + GAP) for k in range(num_scales)],
        "y": [
            top + p * group + s * (cell_h + GAP)
            for p in range(num_prompts)
            for s in range(num_seeds)
        ],
        "scales": [float(scale) for scale in scales],
    }
    sheet.info[CELLS_KEY] = json.dumps(cells)
    return sheet


def strip_png(sheet: Image.Image) -> bytes:
    """Return a strip as PNG, with the text that says where its images lie."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text(CELLS_KEY, sheet.info[CELLS_KEY])
    png = io.BytesIO()
    sheet.save(png, format="PNG", pnginfo=texts)
    return png.getvalue()


def _draw_header(
    draw: ImageDraw.ImageDraw, scales: Sequence[float], left: int, cell_w: int, bottom: int
) -> None:
    draw.text((MARGIN, MARGIN + 26), "scale", FAINT, _font(13), anchor="ls")
    for k, scale in enumerate(scales):
        x = left + k * (cell_w + GAP)
        middle = x + cell_w // 2
        color = ACCENT if scale == 0 else INK
        draw.text((middle, MARGIN + 26), scale_label(scale), color, _font(18), anchor="ms")
        if scale == 0:
            draw.text((middle + 16, MARGIN + 26), "base", ACCENT, _font(11), anchor="ls")
            frame = (x - GAP, MARGIN + HEADER_HEIGHT - 8, x + cell_w + GAP - 1, bottom - MARGIN + 7)
            draw.rounded_rectangle(frame, radius=5, fill=ACCENT_FAINT, outline=ACCENT, width=2)


def _draw_prompt(draw: ImageDraw.ImageDraw, prompt: str, y: int) -> None:
    font = _font(15)
    for number, line in enumerate(_wrap(clean(prompt), font, PROMPT_WIDTH - 20)):
        draw.text((MARGIN, y + 4 + number * 21), line, INK, font)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Break text into lines of at most this width; what is too long ends in an ellipsis."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    shown = [_shorten(line, font, width) for line in lines[:MAX_PROMPT_LINES]]
    if len(lines) > MAX_PROMPT_LINES:
        shown[-1] = _shorten(f"{shown[-1]} {lines[MAX_PROMPT_LINES]}", font, width)
    return shown


def _shorten(line: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}\N{HORIZONTAL ELLIPSIS}") > width:
        line = line[:-1]
    return f"{line}\N{HORIZONTAL ELLIPSIS}"


def _cell_size(width: int, height: int) -> tuple[int, int]:
    """Return the cell's size: a whole multiple of a tiny image, or a reduced large one."""
    smallest, largest = CELL_RANGE
    if max(width, height) < smallest:
        factor = -(-smallest // max(width, height))
        return width * factor, height * factor
    shrink = min(1.0, largest / max(width, height))
    return max(1, round(width * shrink)), max(1, round(height * shrink))


def _to_cell(image: np.ndarray, size: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))
    enlarge = size[0] > picture.width
    return picture.resize(size, Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS)


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans from matplotlib's files: Pillow's own font lacks "é"."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path, size)
