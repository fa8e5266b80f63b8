"""Reach the hosts of a launch: look whether each is fit for it, and start what keeps its ranks."""

from __future__ import annotations

import contextlib
import importlib.metadata
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from loba_tui.core.errors import ResourceError
from loba_tui.core.foreign_json import parse_object
from loba_tui.core.run.launching.network import (
    LOOPBACK,
    Meeting,
    address_of,
    address_towards,
    free_port,
    require_free,
)
from loba_tui.core.run.launching.on_host import Orders
from loba_tui.core.run.launching.shape import Host, LaunchShape
from loba_tui.core.run.records import encode
from loba_tui.core.text import clean

_KEEPER = ("-P", "-m", "loba_tui.core.run.launching.on_host")
_CONNECT_SECONDS = 10
_PROBE_SECONDS = 60
# A connection that is cut is noticed after the product of both.
_SSH = (
    "ssh",
    "-T",
    "-o",
    "BatchMode=yes",
    "-o",
    f"ConnectTimeout={_CONNECT_SECONDS}",
    "-o",
    "ServerAliveInterval=3",
    "-o",
    "ServerAliveCountMax=4",
    # A connection shared with another ssh would end with that one.
    "-o",
    "ControlPath=none",
)
_PACKAGES = ("loba-trainer", "torch")
_PROBE = """
import importlib.metadata as m, json, sys
def version(name):
    try:
        return m.version(name)
    except m.PackageNotFoundError:
        return None
print("loba:" + json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


@dataclass(frozen=True)
class Reach:
    """How the other hosts of a launch are reached.

    Attributes:
        python: Their interpreter.
    """

    python: str = sys.executable

    def address(self, host: Host) -> str:
        """Return the name or address that ssh connects to, as the user's configuration has it."""
        answer = subprocess.run(
            ["ssh", "-G", "--", host.name], capture_output=True, text=True, check=False
        )
        words = [line.split(maxsplit=1) for line in answer.stdout.splitlines()]
        found = [word[1] for word in words if len(word) == 2 and word[0] == "hostname"]
        return found[0] if found else host.name.rpartition("@")[2]

    def require_fit(self, host: Host) -> None:
        """Look by one ssh command whether a host answers and has the versions of this one.

        Raises:
            ResourceError: It does not answer, or has other versions.
        """
        argv = [self.python, "-P", "-c", _PROBE, *_PACKAGES]
        try:
            answer = subprocess.run(
                [*_SSH, "--", host.name, shlex.join(argv)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PROBE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise _unreachable(host, f"no answer for {_PROBE_SECONDS} s") from error
        except OSError as error:
            raise ResourceError(
                f"ssh cannot be started: {error.strerror}.", "Install an OpenSSH client."
            ) from error
        told = [line[5:] for line in answer.stdout.splitlines() if line.startswith("loba:")]
        if answer.returncode != 0 or not told:
            words = clean(" ".join(answer.stderr.split()), limit=300)
            raise _unreachable(host, words or f"exit status {answer.returncode}")
        _require_same(host, parse_object(told[-1]))

    def start(self, host: Host | None, orders: Orders) -> Keeper:
        """Start the keeper of the processes of a host; None is this machine.

        Raises:
            ResourceError: Nothing can be started.
        """
        if host is None:
            argv: Sequence[str] = [sys.executable, *_KEEPER]
        else:
            argv = [*_SSH, "--", host.name, f"exec {shlex.join([self.python, *_KEEPER])}"]
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                # Of this machine's, it notices by its input where the supervisor is killed, and
                # must not be killed with it; ssh ends with the supervisor, which the host notices.
                start_new_session=host is None,
            )
        except OSError as error:
            raise ResourceError(f"{argv[0]} cannot be started: {error.strerror}.") from error
        keeper = Keeper("this machine" if host is None else host.name, process)
        keeper.tell(orders.line())
        return keeper


def meeting_of(shape: LaunchShape, reach: Reach, restart: int) -> Meeting:
    """Return where the processes of a start meet; never where those of an earlier one did.

    Raises:
        LobaError: No route leads to the other hosts, or the port that was asked for is taken.
    """
    others = shape.hosts[1:]
    if shape.iface is not None:
        address = address_of(shape.iface)
    elif others:
        address = address_towards(reach.address(others[0]))
    else:
        address = LOOPBACK
    if shape.port is None:
        return Meeting(address, free_port(address))
    port = shape.port + restart
    require_free(address, port)
    return Meeting(address, port)


def _require_same(host: Host, theirs: dict[str, object]) -> None:
    for package in _PACKAGES:
        try:
            ours = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        if theirs.get(package) != ours:
            found = theirs.get(package)
            what = "no such package" if found is None else clean(found, limit=80)
            raise ResourceError(
                f"{host.name} has {what} of {package}, this machine {ours}.",
                "Install the same versions on all hosts; --remote-python names another Python.",
            )


def _unreachable(host: Host, why: str) -> ResourceError:
    return ResourceError(
        f"{host.name} cannot be reached over ssh: {why}.",
        f"Try `ssh -o BatchMode=yes {host.name} true`; --remote-python names its Python.",
    )


class Keeper:
    """Keeper of the processes of one host: a process of this machine, or ssh to one there.

    Attributes:
        name: Of the host, in words.
    """

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self._process = process
        self._beaten = 0.0

    def status(self) -> int | None:
        """Return torchrun's exit status there, or ssh's where it failed; None while it works."""
        return self._process.poll()

    def beat(self, every: float) -> None:
        """Let the host know, every few seconds, that it is still wanted."""
        if time.monotonic() - self._beaten >= every:
            self._beaten = time.monotonic()
            self.tell(encode({}))

    def signal(self, number: int) -> None:
        """Send a signal to the ranks of the host."""
        self.tell(encode({"signal": number}))

    def tell(self, line: bytes) -> None:
        """Write a line; one that has ended is found by its status."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def close(self) -> None:
        """Have all processes of the host killed."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def end(self, patience: float) -> None:
        """Wait until they are; a host that does not answer kills them by itself, later."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
