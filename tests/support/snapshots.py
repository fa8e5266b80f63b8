"""Pictures of the dashboard as text, compared with what was kept."""

from __future__ import annotations

import os
import time
from pathlib import Path

from textual.app import App
from textual.pilot import Pilot

FOLDER = Path(__file__).parents[1] / "screens" / "snapshots"
SECONDS = 20.0


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


async def compare(pilot: Pilot[None], name: str) -> None:
    """Compare what is shown with the picture of that name; LOBA_SNAPSHOTS=write keeps it instead.

    The last of it may still be drawn, on a busy machine for seconds: it has time to become equal.
    """
    path = FOLDER / f"{name}.txt"
    if os.environ.get("LOBA_SNAPSHOTS") == "write":
        await pilot.pause(1.0)
        FOLDER.mkdir(exist_ok=True)
        path.write_text(picture(pilot.app))
    wanted = path.read_text()
    deadline = time.monotonic() + SECONDS
    while picture(pilot.app) != wanted and time.monotonic() < deadline:
        await pilot.pause(0.05)
    assert picture(pilot.app) == wanted
