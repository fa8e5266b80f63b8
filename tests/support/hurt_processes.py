"""Several processes of one run on this machine, each started by itself, to be hurt one by one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loba_tui.core.run.directory import RunDir

PROGRAM = ("-m", "loba_tui.core.program.main")


def free_port() -> int:
    """Return a port of the loopback device that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class ProcessGroup:
    """The processes of a run by rank, as torchrun would start them."""

    def __init__(self, run_dir: RunDir, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self.run_dir = run_dir
        self.processes = processes
        self._steps_before = _num_steps(run_dir)

    def __getitem__(self, rank: int) -> subprocess.Popen[bytes]:
        return self.processes[rank]

    def wait_for_steps(self, num: int) -> None:
        """Wait until so many steps are on record since the group was started."""
        self.wait_until(lambda: _num_steps(self.run_dir) >= self._steps_before + num)

    def wait_until(self, is_so: Callable[[], bool], seconds: float = 150.0) -> None:
        """Wait for something that happens while all processes live."""
        end = time.monotonic() + seconds
        while not is_so():
            ended = [each.poll() for each in self.processes]
            assert all(code is None for code in ended), f"a process has ended: {ended}"
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.02)

    def kill_all(self) -> None:
        """Kill what still lives."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(30)


@contextmanager
def process_group(
    run_dir: RunDir,
    num: int = 2,
    *,
    resume: bool = False,
    options: Sequence[str] = (),
    program: Sequence[str] = PROGRAM,
) -> Iterator[ProcessGroup]:
    """Start the processes of a run, and kill them in the end; their output is `rank-N.txt`."""
    environ = {
        **os.environ,
        "WORLD_SIZE": str(num),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-P", *program, "--run-dir", str(run_dir.path)]
    command += ["--resume", *options] if resume else options
    processes = []
    for rank in range(num):
        own = {**environ, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        with said_by(run_dir, rank).open("ab") as output:
            processes.append(
                subprocess.Popen(command, env=own, stdout=output, stderr=subprocess.STDOUT)
            )
    group = ProcessGroup(run_dir, processes)
    try:
        yield group
    finally:
        group.kill_all()


def _num_steps(run_dir: RunDir) -> int:
    metrics = run_dir.metrics.path
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def said_by(run_dir: RunDir, rank: int) -> Path:
    """Return the file of what a process has printed, beside the run."""
    return run_dir.path.with_name(f"{run_dir.name}.rank-{rank}.txt")
