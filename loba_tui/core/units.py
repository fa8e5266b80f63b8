"""Quantities as people read and write them: sizes, ages, durations and slider scales.

Bytes are counted in two ways: on disks and over the network in units of ten, as disks are sold, and
in memory and in what a run writes in units of two, as other tools count memory.
"""

from __future__ import annotations

import re

from loba_tui.core.errors import RecipeError
from loba_tui.core.text import clean

_MOST_SECONDS = 1e9  # over thirty years
_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZES |= {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "mo": 30 * 86400, "y": 365 * 86400}
_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)")


def parse_size(text: str) -> int:
    """Return the bytes that `1.5GB` or `500MiB` stands for; units of ten unless they say `i`.

    Raises:
        RecipeError: It is not a size.
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match[2].lower() not in _SIZES:
        raise RecipeError(f"{clean(text, limit=60)} is not a size.", "Write 500MB or 1.5GiB.")
    return int(float(match[1]) * _SIZES[match[2].lower()])


def parse_age(text: str) -> float:
    """Return the seconds that `30d` or `12h` stands for.

    Raises:
        RecipeError: It is not an age.
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match[2] not in _AGES:
        units = ", ".join(_AGES)
        raise RecipeError(
            f"{clean(text, limit=60)} is not an age.", f"Write 30d or 12h; units: {units}."
        )
    return float(match[1]) * _AGES[match[2]]


def show_size(num_bytes: float) -> str:
    """Return bytes on a disk or a line, in units of ten: 6.9 GB."""
    for unit in ("B", "KB", "MB", "GB"):
        if num_bytes < 999.5:
            digits = 0 if unit == "B" or num_bytes >= 99.95 else 1
            return f"{num_bytes:.{digits}f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def show_memory(num_bytes: float) -> str:
    """Return bytes in the largest unit of two that they fill: 6.5 GiB."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes:.0f} B"


def show_mib(num_bytes: float, digits: int = 1) -> str:
    """Return bytes in MiB whatever their number, so that they compare at a glance: 1,024.0 MiB."""
    return f"{num_bytes / 2**20:,.{digits}f} MiB"


def show_age(seconds: float) -> str:
    """Return how long ago something was, in the largest unit: 3 d; "now" below a minute."""
    for unit, length in (("y", 365 * 86400), ("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return "now"


def show_short_age(seconds: float) -> str:
    """Return how long ago something was, for a narrow column that counts seconds too: 3d, 12s."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"


def show_countdown(seconds: float) -> str:
    """Return a time to go to the second, as m:ss or h:mm:ss; "?" where it is none."""
    if not seconds < _MOST_SECONDS:
        return "?"
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    tail = f"{whole % 60:02d}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def show_estimate(seconds: float) -> str:
    """Return a duration that is only estimated, no finer than is known: 60 min, 4.0 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def scale_label(scale: float) -> str:
    """Return the scale with its sign, and a true minus sign: +2, 0."""
    return f"{scale:+g}".replace("-", "\N{MINUS SIGN}") if scale else "0"
