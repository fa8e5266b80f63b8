"""The picture of a sweep: the last strip of every run, best first, with what varies beside it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from loba_tui.client.sweeps.results import Result
from loba_tui.core.text import clean

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_STRIP_BYTES = 64 * 1024 * 1024
_MOST_PIXELS = 64 * 1024 * 1024
_MOST_RUNS = 100
_WIDTH = 1400
_MOST_HEIGHT = 700
_TEXT_HEIGHT = 44
_FONT_SIZE = 18
_GAP = 8


def contact_sheet(results: Sequence[Result]) -> bytes | None:
    """Return a PNG of the strips of the best hundred runs; None where none has drawn one."""
    from PIL import Image, ImageDraw, ImageFont

    found = [(result, strip) for result in results if (strip := _strip(result)) is not None]
    found = found[:_MOST_RUNS]
    if not found:
        return None
    width = max(strip.width for _, strip in found)
    height = sum(strip.height + _TEXT_HEIGHT + _GAP for _, strip in found)
    sheet = Image.new("RGB", (width + 2 * _GAP, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    top = 0
    for place, (result, strip) in enumerate(found, start=1):
        label = _label(place, result)
        draw.text((_GAP, top + _GAP), _fitting(label, font, width), "black", font)
        sheet.paste(strip, (_GAP, top + _TEXT_HEIGHT))
        top += strip.height + _TEXT_HEIGHT + _GAP
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _label(place: int, result: Result) -> str:
    values = ", ".join(f"{clean(k)} = {clean(v, limit=60)}" for k, v in result.run.values.items())
    figures = "  ".join(f"{key} {value:.3g}" for key, value in result.figures.items())
    return f"{place}.  run {result.run.number}   {values}   {result.outcome}  {figures}"


def _fitting(text: str, font: object, width: int) -> str:
    """Return as much of a text as fits into a line."""
    measure = font.getlength  # type: ignore[attr-defined]
    while text and measure(text) > width:
        text = text[:-1]
    return text


def _strip(result: Result) -> Image | None:
    """Return the last strip of a run, no larger than a row of the sheet."""
    from PIL import Image, UnidentifiedImageError

    strips = result.run.run.strips()
    if result.state != "finished" or not strips:
        return None
    try:
        opened = Image.open(io.BytesIO(strips[-1].read(_MOST_STRIP_BYTES)), formats=["PNG"])
        if opened.width * opened.height > _MOST_PIXELS:
            return None
        image: Image = opened.convert("RGB")
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    scale = min(_WIDTH / image.width, _MOST_HEIGHT / image.height, 4.0)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resample = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.resize(size, resample)
