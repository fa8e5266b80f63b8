"""Pictures of the dashboard as text, compared with what was kept."""

from __future__ import annotations

import os
from pathlib import Path

from textual.app import App

FOLDER = Path(__file__).parents[1] / "screens" / "snapshots"


def picture(app: App[None]) -> str:
    """Return every row as text, and below each how its cells are drawn."""
    found = []
    for strip in app.screen._compositor.render_strips():
        found.append(f"|{strip.text}|")
        styles, at = [], 0
        for segment in strip:
            style = str(segment.style or "").strip()
            if segment.text.strip() or "reverse" in style:
                styles.append(f"{at}:{style}")
            at += segment.cell_length
        found.append("    " + "; ".join(styles))
    return "\n".join(line.rstrip() for line in found) + "\n"


def compare(name: str, shown: str) -> None:
    """Compare a picture with the one of that name; LOBA_SNAPSHOTS=write keeps it instead."""
    path = FOLDER / f"{name}.txt"
    if os.environ.get("LOBA_SNAPSHOTS") == "write":
        FOLDER.mkdir(exist_ok=True)
        path.write_text(shown)
    assert shown == path.read_text()
