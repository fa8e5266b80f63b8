"""Two hosts on this machine: network namespaces joined by a cable, with a real sshd in the second.

The second one has a host name of its own, and no disk in common for the folder that is hidden from
it. A cable can be cut, and a host killed and started again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.records import Event

FIRST, SECOND = "10.77.0.1", "10.77.0.2"
SECOND_NAME = "second"
_PROGRAMS = ("ip", "unshare", "mount", "hostname", "ssh", "ssh-keygen", "sshd")


def why_not() -> str:
    """Return why there can be no two hosts here, "" where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    paths = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [each for each in _PROGRAMS if shutil.which(each, path=paths) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    name = f"loba-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return "" if tried.returncode == 0 else "this machine allows no network namespaces"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@dataclass
class TwoHosts:
    """This machine, as `localhost` of the first namespace, and `second`.

    Attributes:
        place: A folder for keys and logs.
        hidden: A folder that the second host does not have.
    """

    place: Path
    hidden: Path
    environ: Mapping[str, str]
    names: tuple[str, str] = field(
        default_factory=lambda: (f"loba-{os.getpid()}-a", f"loba-{os.getpid()}-b")
    )
    _sshd: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Join both by a cable, and start the second one."""
        first, second = self.names
        for name in self.names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip(
            "link", "add", "cable", "netns", first, "type", "veth", "peer", "cable", "netns", second
        )
        for name, address in ((first, FIRST), (second, SECOND)):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "cable", "up")
        self._write_keys()
        self.boot()

    def boot(self) -> None:
        """Start the second host's sshd; it serves that namespace alone."""
        sshd = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/local/sbin")
        command = (
            f"hostname {SECOND_NAME}; mount -t tmpfs none '{self.hidden}';"
            f" exec {sshd} -D -e -f '{self.place}/sshd_config'"
        )
        log = (self.place / "sshd.log").open("ab")
        # `ip netns exec` gives it mounts of its own, `unshare` a host name of its own.
        self._sshd = subprocess.Popen(
            ["ip", "netns", "exec", self.names[1], "unshare", "-u", "sh", "-c", command],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        self._wait_until(lambda: self.ssh("true").returncode == 0, "the second host does not start")

    def kill_second(self) -> None:
        """Kill all that runs on the second host, as when its power fails."""
        self.cut()
        self._kill_all(self.names[1])
        assert self._sshd is not None
        self._sshd.wait()

    def cut(self) -> None:
        """Cut the cable."""
        _ip("-n", self.names[0], "link", "set", "cable", "down")

    def mend(self) -> None:
        """Join both again."""
        _ip("-n", self.names[0], "link", "set", "cable", "up")

    def pids(self, host: int) -> list[int]:
        """Return the processes on a host, 0 or 1."""
        told = subprocess.run(
            ["ip", "netns", "pids", self.names[host]], capture_output=True, text=True, check=False
        )
        return [int(word) for word in told.stdout.split()]

    def rank(self, number: int) -> int:
        """Return the process that is a rank of the run, wherever it is."""
        for pid in [*self.pids(0), *self.pids(1)]:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.environ().get("RANK") == str(number):
                    return pid
        raise AssertionError(f"there is no rank {number}")

    def ssh_lines(self) -> list[int]:
        """Return the ssh clients on the first host that keep the second one's processes."""
        found = []
        for pid in self.pids(0):
            with contextlib.suppress(psutil.Error):
                if psutil.Process(pid).name() == "ssh":
                    found.append(pid)
        return found

    def ssh(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the second host."""
        argv = ["ip", "netns", "exec", self.names[0], str(self.place / "bin" / "ssh")]
        return subprocess.run(
            [*argv, SECOND_NAME, command], capture_output=True, text=True, timeout=20, check=False
        )

    def loba(self, *arguments: str, folder: Path) -> subprocess.Popen[str]:
        """Start the command on the first host."""
        command = (sys.executable, "-P", "-m", "loba_tui.cli", *arguments)
        return subprocess.Popen(
            ["ip", "netns", "exec", self.names[0], *command],
            cwd=folder,
            env={**os.environ, **self.environ, "PATH": f"{self.place}/bin:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def stop(self) -> None:
        """End all that runs there, and remove both."""
        for name in self.names:
            self._kill_all(name)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        if self._sshd is not None:
            self._sshd.wait(10)

    def _kill_all(self, name: str) -> None:
        end = time.monotonic() + 10
        while (pids := self.pids(self.names.index(name))) and time.monotonic() < end:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def _write_keys(self) -> None:
        place = self.place
        for name in ("host_key", "key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)]
            subprocess.run(command, check=True)
        (place / "authorized").write_bytes((place / "key.pub").read_bytes())
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        variables = " ".join(f'{key}="{value}"' for key, value in self.environ.items())
        (place / "sshd_config").write_text(
            f"Port 22\nListenAddress {SECOND}\nHostKey {place / 'host_key'}\n"
            f"AuthorizedKeysFile {place / 'authorized'}\nPidFile none\nUseDNS no\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
            f"SetEnv {variables}\n"
        )
        config = place / "ssh_config"
        config.write_text(
            f"Host {SECOND_NAME}\n  HostName {SECOND}\n  User root\n"
            f"  IdentityFile {place / 'key'}\n  IdentitiesOnly yes\n  LogLevel ERROR\n"
            "  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n"
        )
        (place / "bin").mkdir()
        client = place / "bin" / "ssh"
        client.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F "{config}" "$@"\n')
        client.chmod(0o755)

    @staticmethod
    def _wait_until(is_so: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < end, what
            time.sleep(0.1)


class Followed:
    """A run on two hosts, followed by what it records."""

    def __init__(self, run_dir: RunDir, process: subprocess.Popen[str]) -> None:
        self.run_dir, self.process = run_dir, process
        self._reader = RunReader(run_dir)
        self.events: list[Event] = []
        self._later: list[Event] = []
        self._num_steps = 0
        self.steps = 0

    def wait_for(self, kind: str, seconds: float = 60.0) -> Event:
        """Return the next event of a kind."""
        return self.wait_for_any((kind,), seconds)

    def wait_for_any(self, kinds: Sequence[str], seconds: float = 60.0) -> Event:
        """Return the next event of some kinds; those that were read before do not count."""
        while True:
            num_before = len(self.events)
            self._until(self._has_more_than(num_before), " or ".join(kinds), seconds)
            for number in range(num_before, len(self.events)):
                if self.events[number].kind in kinds:
                    # What came after it is for the next call.
                    self._later, self.events = self.events[number + 1 :], self.events[: number + 1]
                    return self.events[number]

    def _has_more_than(self, num: int) -> Callable[[], bool]:
        return lambda: len(self.events) > num

    def wait_for_step(self, step: int, seconds: float = 60.0) -> None:
        """Wait until a step is on record after everything that was read before."""
        self.steps = 0
        self._until(lambda: self.steps >= step, f"step {step}", seconds)

    def wait_for_steps(self, num: int, seconds: float = 60.0) -> None:
        """Wait until so many more steps are on record."""
        end = self._num_steps + num
        self._until(lambda: self._num_steps >= end, f"{num} steps", seconds)

    def _until(self, is_so: Callable[[], bool], what: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            is_over = self.process.poll() is not None
            self.events += self._later + self._reader.new_events()
            self._later = []
            steps = [each.step for each in self._reader.new_metrics()]
            self._num_steps += len(steps)
            self.steps = max([self.steps, *steps])
            if is_so():
                return
            assert not is_over, f"the run ended before {what}:\n{self.said()}"
            assert time.monotonic() < end, f"{what} did not come in {seconds:.0f} s:\n{self.said()}"
            time.sleep(0.05)

    def said(self) -> str:
        """Return the end of the run's log."""
        return self.run_dir.log.path.read_text("utf-8", "replace")[-6000:]


def found_run(parent: Path, seconds: float = 30.0) -> RunDir:
    """Return the only run below a folder, as soon as it is there."""
    end = time.monotonic() + seconds
    while not (found := list(parent.glob("*/status.json"))):
        assert time.monotonic() < end, f"no run in {parent}"
        time.sleep(0.05)
    return RunDir(found[0].parent)


@contextmanager
def two_hosts(place: Path, hidden: Path, environ: Mapping[str, str]) -> Iterator[TwoHosts]:
    """Lend two hosts; all that runs on them is killed in the end.

    Args:
        environ: Of commands on both hosts.
    """
    hosts = TwoHosts(place, hidden, environ)
    try:
        hosts.start()
        yield hosts
    finally:
        hosts.stop()
