"""Keeps the processes of a run on one host, and ends them when nobody asks for them any more.

    python -m loba_tui.core.run.launching.on_host

It is started on each host, by ssh on others, and is told on standard input what to start: a JSON
object, then one a line for each signal to hand on. A line has to come every few seconds. Where the
input ends or falls silent, as when the connection is cut, all processes are killed: none outlives
its launch and holds a device that the next one needs.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from loba_tui.core.errors import ExitCode, LobaError, ResourceError
from loba_tui.core.output import start_log
from loba_tui.core.run.launching.children import adopt_orphans, end_with_parent, num_cores
from loba_tui.core.run.launching.network import LOOPBACK, address_towards, interface_of
from loba_tui.core.run.records import decode, encode

BEAT_SECONDS = 2.0
SILENT_SECONDS = 20.0
"""After so long without a line the processes of a host are killed."""

MARK = "LOBA_LAUNCH"
"""The variable by which the processes of an earlier launch are found on a host."""

_POLL_SECONDS = 0.2
_LEFT_SECONDS = 30.0


@dataclass(frozen=True)
class Orders:
    """The processes to start on a host.

    Attributes:
        argv: The torchrun command.
        mark: Run and place of the host, for MARK.
        folder: Working directory, where the host has it.
        environ: Variables that are set, unless the host sets them itself.
        iface: Network interface; None finds the one that leads to `towards`.
        towards: Address where the processes meet.
        slots: Processes of this host.
        recipe: Text of the recipe for a host that may lack the run's folder; None where it is.
    """

    argv: tuple[str, ...]
    mark: str
    folder: str
    environ: Mapping[str, str]
    iface: str | None
    towards: str
    slots: int
    recipe: str | None

    def line(self) -> bytes:
        """Return them as a line of the input."""
        return encode(asdict(self))

    @classmethod
    def of_line(cls, line: bytes) -> Orders:
        """Read them; raise ValueError where they are none."""
        record = decode(line)
        try:
            return cls(**{**record, "argv": tuple(record["argv"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"no orders: {error!r}") from error


class Input:
    """Lines of standard input, without waiting for one.

    Attributes:
        is_over: Whether no more lines come.
        heard: Monotonic time of the last line.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self._put_back: list[bytes] = []
        self.is_over = False
        self.heard = time.monotonic()

    def put_back(self, lines: list[bytes]) -> None:
        """Have lines returned again by the next call of `lines`."""
        self._put_back = lines

    def lines(self, seconds: float) -> list[bytes]:
        """Return the lines that have come, after waiting for so long at most."""
        if self._put_back:
            lines, self._put_back = self._put_back, []
            return lines
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return []
        data = os.read(self._descriptor, 1 << 20)
        self.is_over = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        if lines:
            self.heard = time.monotonic()
        return lines


def keep(orders: Orders, source: Input) -> int:
    """Start the processes, stay until they have ended, and return torchrun's exit status."""
    kill_earlier(orders.mark)
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="loba-") as folder:
        argv = list(orders.argv)
        if orders.recipe is not None:
            file = Path(folder, "recipe.yaml")
            file.write_text(orders.recipe, "utf-8")
            argv += ["--join", str(file)]
        torchrun = subprocess.Popen(
            argv,
            cwd=orders.folder if os.path.isdir(orders.folder) else None,
            env=environ_of(orders, os.environ),
            stdin=subprocess.DEVNULL,
            preexec_fn=end_with_parent,
        )
        try:
            return _stay(torchrun, source)
        finally:
            _kill_all(torchrun)


def _stay(torchrun: subprocess.Popen[bytes], source: Input) -> int:
    waiting: list[int] = []
    while torchrun.poll() is None:
        for line in source.lines(_POLL_SECONDS):
            number = decode(line).get("signal")
            if isinstance(number, int):
                waiting.append(number)
        ranks = _children(torchrun.pid)
        while waiting and ranks:
            number = waiting.pop(0)
            for rank in ranks:
                with contextlib.suppress(psutil.Error):
                    rank.send_signal(number)
        if source.is_over or time.monotonic() - source.heard > SILENT_SECONDS:
            return -signal.SIGKILL
    return torchrun.returncode


def environ_of(orders: Orders, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the processes; what the user has set there stays.

    Raises:
        ResourceError: The interface that leads to the meeting place is not found.
    """
    name = orders.iface
    if name is None:
        name = interface_of(
            orders.towards if orders.towards == LOOPBACK else address_towards(orders.towards)
        )
    if name is None:
        raise ResourceError(
            f"No interface of this host leads to {orders.towards}.", "Name one with --iface."
        )
    # Left to itself, gloo takes the address of the host's name, which is often 127.0.0.1.
    found = {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name, **orders.environ}
    if orders.slots > 1:  # torchrun would give each process a single core
        found["OMP_NUM_THREADS"] = str(max(1, num_cores() // orders.slots))
    return {**found, **environ, MARK: orders.mark}


def kill_earlier(mark: str) -> None:
    """Kill what an earlier launch has left on this host, and wait until it is gone."""
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                process.kill()
                left.append(process)
    end = time.monotonic() + _LEFT_SECONDS
    while any(map(_lives, left)) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS / 10)


def _kill_all(torchrun: subprocess.Popen[bytes]) -> None:
    """Kill torchrun and all that it has started, ranks in sessions of their own included."""
    if torchrun.poll() is None:
        # Stopped, it cannot start another one meanwhile.
        torchrun.send_signal(signal.SIGSTOP)
    while found := _children(os.getpid(), recursive=True):
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(_POLL_SECONDS / 10)
    torchrun.wait()


def _children(pid: int, *, recursive: bool = False) -> list[psutil.Process]:
    """Return the children of a process that live."""
    try:
        return list(filter(_lives, psutil.Process(pid).children(recursive=recursive)))
    except psutil.Error:
        return []


def _lives(process: psutil.Process) -> bool:
    """Say whether a process lives; one that has ended and waits for its parent does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def main() -> int:
    """Keep one host's processes."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitCode.RESUMABLE))
    source = Input(sys.stdin.fileno())
    lines: list[bytes] = []
    while not lines and not source.is_over:
        lines = source.lines(SILENT_SECONDS)
    if not lines:
        return 1
    try:
        orders = Orders.of_line(lines[0])
        source.put_back(lines[1:])
        return keep(orders, source) & 0xFF
    except LobaError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)


if __name__ == "__main__":
    os.umask(0o077)
    start_log(os.environ)
    sys.exit(main())
