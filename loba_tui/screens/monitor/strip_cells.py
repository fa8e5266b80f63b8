"""One scale of a picture strip, cut out by what the strip says of itself."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from loba_tui.core.errors import CorruptError
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.owned_files import OwnedFile

# The program writes it, see core/program/sampling/strip.py.
_CELLS_KEY = "loba.cells"
_MOST_PIXELS = 64_000_000
_MOST_BYTES = 256 * 2**20


@dataclass(frozen=True)
class StripCells:
    """Where the images of a strip lie; empty where it does not say."""

    scales: tuple[float, ...] = ()
    size: tuple[int, int] = (0, 0)
    xs: tuple[int, ...] = ()
    ys: tuple[int, ...] = ()

    @classmethod
    def of(cls, text: object) -> StripCells:
        """Read the strip's own text; what is not one is empty."""
        try:
            record = parse_json(str(text))
            width, height = map(int, record["size"])
            found = cls(
                tuple(map(float, record["scales"])),
                (width, height),
                tuple(map(int, record["x"])),
                tuple(map(int, record["y"])),
            )
        except (ValueError, TypeError, KeyError, OverflowError):
            return cls()
        is_sound = len(found.scales) == len(found.xs) and found.ys and width > 0 and height > 0
        return found if is_sound else cls()


def open_strip(file: OwnedFile) -> tuple[Image.Image, StripCells]:
    """Return a strip and where its images lie.

    Raises:
        CorruptError: It is no picture, or too large to be one of ours.
    """
    try:
        image = Image.open(io.BytesIO(file.read(_MOST_BYTES)), formats=("PNG",))
        if image.width * image.height > _MOST_PIXELS:
            raise CorruptError(f"{file.name} has {image.width}×{image.height} pixels.")
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CorruptError(f"{file.name} cannot be shown: {error}") from error
    return image.convert("RGB"), StripCells.of(image.info.get(_CELLS_KEY, ""))


def one_scale(image: Image.Image, cells: StripCells, number: int, columns: int) -> Image.Image:
    """Return all images of one scale, side by side in so many columns."""
    width, height = cells.size
    num = len(cells.ys)
    columns = max(1, min(columns, num))
    gap = max(1, width // 24)
    rows = -(-num // columns)
    size = (columns * (width + gap) - gap, rows * (height + gap) - gap)
    sheet = Image.new("RGB", size, (24, 28, 34))
    x = cells.xs[number]
    for place, y in enumerate(cells.ys):
        cut = image.crop((x, y, x + width, y + height))
        sheet.paste(cut, (place % columns * (width + gap), place // columns * (height + gap)))
    return sheet


def best_columns(num: int, cell: tuple[int, int], room: tuple[int, int]) -> int:
    """Return in how many columns so many images become largest in a room of pixels."""

    def factor(columns: int) -> float:
        rows = -(-num // columns)
        return min(room[0] / (columns * cell[0]), room[1] / (rows * cell[1]))

    return max(range(1, max(1, num) + 1), key=factor)
