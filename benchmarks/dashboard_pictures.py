"""The dashboard's pictures in docs/, exported by the dashboard itself from the runs of this user.

python benchmarks/dashboard_pictures.py RUN [--out docs] [--only dashboard-stack]
"""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from loba_tui.app import LobaApp
from loba_tui.client.context import Context
from loba_tui.client.runs.resolve import find_run
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.run.directory import RunDir

# Name, columns, rows, seconds and keys of each picture; the first screen is the monitor.
PICTURES: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("dashboard-monitor", 120, 40, ()),
    ("dashboard-runs", 80, 24, ("1",)),
    # Torch has to be loaded for the first curve.
    (
        "dashboard-stack",
        120,
        40,
        ("4", "wait 30", "j", "l", "plus", "j", *("plus",) * 8, "wait 8"),
    ),
)


async def export(run: RunDir, context: Context, out: Path, only: str) -> None:
    """Write every picture, or the one of a name, as SVG."""
    for name, columns, rows, keys in PICTURES:
        if only not in ("", name):
            continue
        app = LobaApp(context, run=run)
        async with app.run_test(size=(columns, rows)) as pilot:
            await pilot.pause(2.5)
            for key in keys:
                word, _, seconds = key.partition(" ")
                if word == "wait":
                    await pilot.pause(float(seconds))
                else:
                    await pilot.press(key)
                    await pilot.pause(0.3)
            await pilot.pause(1.0)
            path = out / f"{name}.svg"
            path.write_text(app.export_screenshot(title="loba tui"))
            print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--only", default="", help="of this name")
    arguments = parser.parse_args()
    context = Context(environ=os.environ, plugins=SHIPPED)
    run = find_run(arguments.run, context.ledger)
    asyncio.run(export(run, context, arguments.out, arguments.only))


if __name__ == "__main__":
    main()
