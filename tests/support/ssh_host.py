"""A real sshd on loopback, and a wire to it that can be cut."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("ssh", "ssh-keygen", "rsync", "sshd")


def missing() -> list[str]:
    """Return what is not installed of what a remote host takes."""
    return [name for name in PROGRAMS if _which(name) is None]


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@dataclass
class Wire:
    """Forwards a port; `cut_after` bytes towards the host it breaks, once.

    Attributes:
        sent: Bytes that went towards the host.
    """

    target: int
    cut_after: int | None = None
    sent: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        # Closing alone would leave the thread accepting.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                threading.Thread(target=self._copy, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self._copy, args=(far, near, False), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, is_out: bool) -> None:
        with suppress(OSError):
            while data := source.recv(16_384):
                sink.sendall(data)
                if is_out:
                    self.sent += len(data)
                    if self.cut_after is not None and self.sent > self.cut_after:
                        self.cut_after = None
                        break
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
                each.close()


@dataclass
class SshHost:
    """The other side: its home, its cache, and how ssh finds it as `remote`."""

    home: Path
    config: Path
    wire: Wire

    @property
    def root(self) -> Path:
        return self.home / "hub"


@contextmanager
def ssh_host(place: Path) -> Iterator[SshHost]:
    """Start a host whose HF_HOME is a folder of its own."""
    home = place / "the remote host's home"
    home.mkdir()
    for name in ("host_key", "key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)]
        subprocess.run(command, check=True)
    (place / "authorized").write_bytes((place / "key.pub").read_bytes())
    port = _free_port()
    # The folder that sshd gives up its rights in; some packages make it only at boot.
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    (place / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {place / 'host_key'}\n"
        f"AuthorizedKeysFile {place / 'authorized'}\nPidFile {place / 'pid'}\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        f'SetEnv HF_HOME="{home}"\n'
    )
    sshd = _which("sshd")
    assert sshd is not None
    log = (place / "sshd.log").open("wb")
    server = subprocess.Popen(
        [sshd, "-D", "-e", "-f", str(place / "sshd_config")], stdout=log, stderr=log
    )
    wire = Wire(port)
    try:
        _wait_for(port, server)
        config = place / "ssh config"
        config.write_text(
            f"Host remote\n  HostName 127.0.0.1\n  Port {wire.port}\n  User {getpass.getuser()}\n"
            f"  IdentityFile {place / 'key'}\n  IdentitiesOnly yes\n  LogLevel ERROR\n"
            "  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n"
        )
        yield SshHost(home, config, wire)
    finally:
        wire.close()
        server.terminate()
        server.wait(30)
        log.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise AssertionError("sshd did not start; see its log")
