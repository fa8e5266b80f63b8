"""The tones of pieces of text, and how each of them looks in a theme.

These are no CSS component classes: Textual works every one of those out anew for each widget that
has them, which was a tenth of the time to the first paint. Each tone has an attribute or stands
beside a word or a sign, as colour is never the only carrier of meaning.
"""

from __future__ import annotations

from functools import lru_cache

from rich.style import Style
from textual.color import Color
from textual.widget import Widget

SERIES_TONES = ("raw", "one", "two", "three", "four")
"""Tones of the curves of a chart: the run itself, then those laid over it."""

TONES = (
    *("good", "bad", "warn", "dim", "key", "strong", "active", "smooth"),
    *("header", "cursor", "marked"),
    *SERIES_TONES,
)

_COLORS = {
    "good": "success",
    "bad": "error",
    "warn": "warning",
    "key": "accent",
    "smooth": "accent",
    "marked": "accent",
    "header": "secondary",
    "raw": "primary",
    "one": "success",
    "two": "warning",
    "three": "error",
    "four": "secondary",
}
_BOLD = frozenset({"bad", "warn", "key", "strong", "active", "smooth", "marked", "header"})
_REVERSE = frozenset({"active", "cursor"})
_DIM_SHARE = 0.4


class Toned(Widget):
    """A widget that draws pieces of text in tones."""

    _tones: dict[str, Style] | None = None

    def tone(self, name: str) -> Style:
        """Return what a tone adds to the style of ordinary text; nothing for an unknown one."""
        if self._tones is None:
            variables = self.app.theme_variables
            wanted = ("foreground", "background", *sorted(set(_COLORS.values())))
            self._tones = _styles(
                tuple((key, variables[key]) for key in wanted), self.app.native_ansi_color
            )
        return self._tones.get(name, _PLAIN)

    def notify_style_update(self) -> None:
        """Look again: the theme may be another."""
        self._tones = None
        super().notify_style_update()


_PLAIN = Style()


@lru_cache(maxsize=8)
def _styles(variables: tuple[tuple[str, str], ...], is_ansi: bool) -> dict[str, Style]:
    colors = {key: Color.parse(value) for key, value in variables}
    found = {}
    for name in TONES:
        source = _COLORS.get(name)
        found[name] = Style(
            color=colors[source].rich_color if source else None,
            bold=True if name in _BOLD else None,
            reverse=True if name in _REVERSE else None,
        )
    # A terminal's own sixteen colours cannot be mixed, but it has an attribute for this.
    mixed = colors["foreground"].blend(colors["background"], _DIM_SHARE)
    found["dim"] = Style(dim=True) if is_ansi else Style(color=mixed.rich_color)
    return found
