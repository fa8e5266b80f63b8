"""The group of processes as torch has formed it: its store, and what an accelerator is given."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate.utils import InitProcessGroupKwargs

from loba_tui.core.errors import PeerLost
from loba_tui.core.program.peers.beats import Beats
from loba_tui.core.program.peers.errors import is_peer_error
from loba_tui.core.program.processes import Processes
from loba_tui.core.run.ranks import RankState


def group_options(timeout: float) -> InitProcessGroupKwargs:
    """Return the options of a group in which no collective waits longer than `timeout` seconds."""
    return InitProcessGroupKwargs(timeout=timedelta(seconds=timeout))


@contextmanager
def forming_a_group() -> Iterator[None]:
    """Say of an error inside a `with` block that not all processes came together.

    Raises:
        PeerLost: Some of them did not come.
    """
    try:
        yield
    except Exception as error:
        if not is_peer_error(error):
            raise
        first_line = str(error).split("\n", maxsplit=1)[0]
        raise PeerLost(
            f"the processes of this run did not come together: {first_line}",
            "Check that all hosts reach the first one, and that all use the same network interface:"
            " GLOO_SOCKET_IFNAME=eth0 (NCCL_SOCKET_IFNAME for GPUs).",
        ) from error


def open_beats(processes: Processes, device: torch.device) -> Beats | None:
    """Return what this process talks to the others by; None where it is alone."""
    if processes.num == 1:
        return None
    # torch's public interface lends no store of the default group.
    store = torch.distributed.distributed_c10d._get_default_store().clone()
    host = socket.gethostname()
    own = RankState(processes.rank, host, os.getpid(), str(device), 0, "starting", 0.0, 0.0)
    return Beats(store, own, processes.num)
