"""Images in parquet tables, as Hugging Face datasets writes them: a column of bytes and paths.

pyarrow is an extra, because its wheel is larger than all of this package's other needs but torch.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from pathlib import Path
from typing import Any

_IMAGE_COLUMNS = ("image", "img", "jpg", "png")


class BadTable(ValueError):
    """A table cannot be used; the message says why."""


def captions(path: Path, key: str) -> list[Any]:
    """Return the caption column, one entry a row, None where a row has none.

    Raises:
        BadTable: It is no parquet table, or has no column of images.
    """
    table = _open(path)
    image_column(table, path)
    names = table.schema_arrow.names
    if key not in names:
        return [None] * table.metadata.num_rows
    try:
        column: list[Any] = table.read(columns=[key]).column(0).to_pylist()
    except (OSError, ValueError) as error:
        raise BadTable(f"its captions cannot be read: {error}") from error
    return column


def image_bytes(path: Path, row: int) -> bytes:
    """Return the image file in a row.

    Raises:
        OSError: The row holds no image, or cannot be read.
    """
    try:
        ends = list(itertools.accumulate(_row_counts(path)))
        group = bisect.bisect_right(ends, row)
        first = ends[group] - _row_counts(path)[group]
        value = _row_group(path, group)[row - first]
    except (BadTable, ValueError, IndexError) as error:
        raise OSError(f"row {row} cannot be read: {error}") from error
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise OSError("the row holds no bytes of an image")
    return content


def image_column(table: Any, path: Path) -> str:
    """Return the name of the column that holds images.

    Raises:
        BadTable: There is none.
    """
    names = table.schema_arrow.names
    for name in _IMAGE_COLUMNS:
        if name in names:
            return name
    raise BadTable(f"it has no column of images called image (it has {', '.join(names)})")


@functools.lru_cache(maxsize=2)
def _row_group(path: Path, group: int) -> list[Any]:
    """Return the images of a row group; the last ones are kept, as rows are read in order."""
    table = _open(path)
    column: list[Any] = (
        table.read_row_group(group, columns=[image_column(table, path)]).column(0).to_pylist()
    )
    return column


@functools.lru_cache(maxsize=64)
def _row_counts(path: Path) -> tuple[int, ...]:
    metadata = _open(path).metadata
    return tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))


def _open(path: Path) -> Any:
    try:
        from pyarrow import lib
        from pyarrow import parquet as tables
    except ImportError as error:
        raise BadTable("parquet needs pyarrow: pip install 'loba-trainer[parquet]'") from error
    try:
        return tables.ParquetFile(path)
    except (OSError, lib.ArrowException) as error:
        raise BadTable(f"not a parquet table: {error}") from error
