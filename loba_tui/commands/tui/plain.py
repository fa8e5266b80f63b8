"""`loba tui` without a terminal: whole lines, no escape byte."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from loba_tui.client.context import Context
from loba_tui.client.runs import describe as listing
from loba_tui.client.runs.events import describe_event
from loba_tui.client.runs.progress import PlainScreen, Progress
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.core.text import clean


def list_runs(context: Context, stream: TextIO) -> None:
    """Write one line a run, newest first."""
    found = [listing.run_line(listing.run_record(run)) for run in reversed(context.ledger.runs())]
    for line in found or ["no runs yet; start the embedded example with: loba run slider"]:
        stream.write(clean(line) + "\n")
    stream.flush()


def follow_run(
    run: RunDir, stream: TextIO, *, seconds: float, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Write what a run does until it ends; at most once for one that has ended already."""
    reader, screen, progress = RunReader(run), PlainScreen(stream), Progress()
    is_alive = True
    while is_alive:
        # Asked before the last look, so that its last words are not missed.
        liveness = reader.liveness()
        is_alive = liveness.is_alive or liveness.state == "queued"
        progress.update(reader.status(), reader.new_metrics())
        for event in reader.new_events():
            text = describe_event(event)
            if text:
                screen.message(text)
        screen.show(progress)
        if is_alive:
            sleep(seconds)
    screen.message(f"{liveness.state}: {liveness.reason}")
