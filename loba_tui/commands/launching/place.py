"""Options of `loba run` that say where a run's processes are: on this machine, and on others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from loba_tui.client.launching.place import Wanted


@dataclass(frozen=True)
class Place:
    """Which processes train the run; all None is what the run has, or one process."""

    processes: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Train by N processes of this machine."),
    ] = None
    hosts: Annotated[
        str | None,
        typer.Option(
            metavar="HOST[:SLOTS],...",
            help="Train by SLOTS processes on each host, over ssh; localhost comes first.",
        ),
    ] = None
    iface: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Network interface that the hosts have in common."),
    ] = None
    port: Annotated[
        int | None,
        typer.Option(metavar="N", help="Where they meet; each restart takes the next. Free: any."),
    ] = None
    restarts: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Restarts after a process is lost; 3 if left out."),
    ] = None
    remote_python: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Python of the other hosts, if it is elsewhere there."),
    ] = None
    print_launch: Annotated[
        Literal["torchrun", "slurm", "skypilot"] | None,
        typer.Option(help="Make the run's folder, start nothing, and print what starts it."),
    ] = None

    def wanted(self) -> Wanted:
        """Return what is wanted of the processes."""
        from loba_tui.client.launching.place import Wanted

        return Wanted(
            processes=self.processes,
            hosts=self.hosts,
            iface=self.iface,
            port=self.port,
            restarts=self.restarts,
            remote_python=self.remote_python,
        )
