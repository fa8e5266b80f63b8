"""The options of `loba sweep`: what varies, where it runs, and how it is made and shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from loba_tui.commands.options import DryRun, Json, OutDir, Set

Scheduler = Literal["slurm", "skypilot"]


@dataclass(frozen=True)
class What:
    """The values of a sweep, and the assignments that hold for all its runs."""

    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary", metavar="KEY=A,B", help="Values of a key; repeatable: all combinations."
        ),
    ] = None
    zipped: Annotated[
        bool, typer.Option("--zip", help="Take values side by side, not all combinations.")
    ] = False
    overrides: Set = None


@dataclass(frozen=True)
class Where:
    """Who runs a sweep, on which devices, and how often it tries."""

    slots: Annotated[
        str | None,
        typer.Option(metavar="SLOTS", help="Devices that take one run each: 0,1 or cpu,cpu."),
    ] = None
    retries: Annotated[
        int, typer.Option(min=0, max=100, help="How often a run that was killed goes on.")
    ] = 2
    engine: Annotated[
        Literal["queue", "ray"], typer.Option(help="The queue of this machine, or Ray.")
    ] = "queue"
    printed: Annotated[
        Scheduler | None,
        typer.Option("--print", help="Print a script for a scheduler instead of running."),
    ] = None


@dataclass(frozen=True)
class How:
    """How a sweep is made and shown."""

    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the sweep's folder; the recipe's.")
    ] = None
    out_dir: OutDir = Path("output")
    detach: Annotated[bool, typer.Option("--detach", help="Queue the runs and return at once.")] = (
        False
    )
    dry_run: DryRun = False
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Make more than 64 runs.")] = False
    as_json: Json = False
