"""The torchrun command that starts the processes of one host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loba_tui.core.run.launching.network import Meeting
from loba_tui.core.run.launching.shape import LaunchShape

_TORCHRUN = ("-P", "-m", "torch.distributed.run")


@dataclass(frozen=True)
class Launch:
    """One start of all processes of a run."""

    shape: LaunchShape
    meeting: Meeting


def torchrun_arguments(
    launch: Launch, place: int, program: Sequence[str], *, python: str
) -> list[str]:
    """Return the command for one host.

    Each host is told its place and the address where all meet. Torchrun never starts processes
    anew by itself: what is left of a launch cannot go on with a new process, so all are started.

    Args:
        place: Of the host among the hosts of the launch.
        program: What each process is; it is told its rank by environment variables.
        python: The interpreter that torchrun runs in.
    """
    hosts = launch.shape.hosts
    return [
        python,
        *_TORCHRUN,
        f"--nnodes={len(hosts)}",
        f"--node-rank={place}",
        f"--nproc-per-node={hosts[place].slots}",
        f"--master-addr={launch.meeting.address}",
        f"--master-port={launch.meeting.port}",
        "--max-restarts=0",
        "--no-python",
        *program,
    ]
