"""Quantities as they are shown to people."""

from __future__ import annotations


def scale_label(scale: float) -> str:
    """Return the scale with its sign, and a true minus sign: +2, 0."""
    return f"{scale:+g}".replace("-", "\N{MINUS SIGN}") if scale else "0"
