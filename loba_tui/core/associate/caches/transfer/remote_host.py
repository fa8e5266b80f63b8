"""A remote host, reached over ssh: where its cache is, what fits there, and rsync to it.

What a user writes is checked before it becomes an argument, and what the remote shell reads is
quoted. What comes back is foreign text.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from loba_tui.core.associate.caches.hub.layout import INCOMING
from loba_tui.core.errors import RecipeError, ResourceError
from loba_tui.core.text import clean

_HOST = re.compile(r"(?:[A-Za-z0-9_][\w.-]*@)?[A-Za-z0-9][\w.-]*", re.ASCII)
_FACT = re.compile(rb"^loba:(\w+)=(.*)$", re.MULTILINE)
_SSH_FAILED = 255
# rsync's own: the connection or the protocol broke, or a time-out.
_RSYNC_BROKE = frozenset({10, 12, 30, 35, _SSH_FAILED})
_RSYNC_FILE = 11
_TIMEOUT_SECONDS = 60

_LOOK = """\
LC_ALL=C; export LC_ALL
root=$1
named='printf %s "${HF_HUB_CACHE:-${HUGGINGFACE_HUB_CACHE:-${HF_HOME:+$HF_HOME/hub}}}"'
if [ -z "$root" ]; then
  root=$(eval "$named")
  # What a profile sets is not there in a shell that only runs a command.
  [ -n "$root" ] || root=$("${SHELL:-/bin/sh}" -lc "$named" </dev/null 2>/dev/null | tail -n 1)
  [ -n "$root" ] || root=${XDG_CACHE_HOME:-$HOME/.cache}/huggingface/hub
fi
case $root in
  "~/"*) root=$HOME/${root#"~/"} ;;
  /*) ;;
  *) root=$HOME/$root ;;
esac
there=$root
while [ ! -d "$there" ]; do there=$(dirname -- "$there"); done
printf 'loba:root=%s\\n' "$root"
printf 'loba:free=%s\\n' "$(df -Pk -- "$there" | awk 'NR == 2 { print $4 }')"
if [ -w "$there" ]; then echo loba:writable=yes; fi
if command -v rsync >/dev/null; then echo loba:rsync=yes; fi
"""


@dataclass(frozen=True)
class Place:
    """A cache on a remote host: its absolute path there, and the free bytes of its disk."""

    root: str
    free: int


def parse_remote(target: str) -> tuple[str, str]:
    """Return host and path of HOST[:PATH]; no path is "".

    Raises:
        RecipeError: It is none, or could be read as an option or by a shell.
    """
    host, _, path = target.partition(":")
    if not _HOST.fullmatch(host) or any(ord(each) < 32 or ord(each) == 127 for each in path):
        raise RecipeError(
            f"{clean(target, limit=120)} is not HOST or HOST:PATH.",
            "Such as gpu2 or me@gpu2:/data/hub; a port or a key belongs into ~/.ssh/config.",
        )
    return host, path


class RemoteHost:
    """A remote host, reached by an ssh command with its options; use `connected` to get one."""

    def __init__(self, host: str, ssh: Sequence[str]) -> None:
        self.host = host
        self._ssh = list(ssh)

    def look(self, path: str) -> Place:
        """Find the cache, for "" as the hub's client there does, and see if it can be written to.

        Raises:
            ResourceError: The host cannot be reached, lacks rsync, or its folder is not writable.
        """
        facts = dict(_FACT.findall(self.run(_LOOK, path)))
        root = facts.get(b"root", b"").decode("utf-8", "replace").rstrip("/")
        free = facts.get(b"free", b"").decode("ascii", "replace").strip()
        if not root.startswith("/") or "\ufffd" in root or not free.isdecimal():
            raise ResourceError(
                f"{self.host} does not say where its cache is.",
                "Name the folder: HOST:PATH. Is its login shell a POSIX shell?",
            )
        if b"rsync" not in facts:
            raise ResourceError(f"{self.host} has no rsync.", "Install it there.")
        if b"writable" not in facts:
            raise ResourceError(
                f"{self.host}: {clean(root)} cannot be written to.",
                "Name another folder: HOST:PATH.",
            )
        return Place(root, int(free) * 1024)

    def run(self, script: str, *arguments: str, lines: Iterable[bytes] = ()) -> bytes:
        """Run a script of POSIX shell with `lines` as its input, and return what it prints.

        Raises:
            ResourceError: It cannot be reached, or the script failed.
        """
        command = " ".join(["sh", "-c", *map(shlex.quote, [script, "loba", *arguments])])
        return self._answer([*self._ssh, "--", self.host, command], b"".join(lines))

    def rsync(
        self,
        source: Path,
        place: Place,
        paths: Sequence[str],
        options: Sequence[str],
        *,
        screen: TextIO | None = None,
    ) -> bytes:
        """Send files that are not there yet; what is there is never touched.

        `paths` are relative to `source`; on the terminal `screen` rsync draws its progress.

        Raises:
            ResourceError: The connection broke, or the disk there is full; what came is kept.
        """
        command = [
            "rsync",
            "--secluded-args",
            "--from0",
            "--files-from=-",
            "--ignore-existing",
            # Beside the file: with one elsewhere, the rsync of several distributions goes on with
            # an interrupted file and then finds its checksum wrong (seen with 3.2.7).
            f"--partial-dir={INCOMING}",
            f"--timeout={_TIMEOUT_SECONDS}",
            f"--rsh={' '.join(map(_rsync_quote, self._ssh))}",
            *options,
            *(["--info=progress2", "--no-inc-recursive"] if screen is not None else []),
            "--",
            f"{source}/",
            f"{self.host}:{place.root}/",
        ]
        listed = b"".join(path.encode("utf-8", "surrogateescape") + b"\0" for path in paths)
        return self._answer(command, listed, screen)

    def _answer(self, command: list[str], given: bytes, screen: TextIO | None = None) -> bytes:
        out = screen if screen is not None else subprocess.PIPE
        done = subprocess.run(command, input=given, stdout=out, stderr=subprocess.PIPE, check=False)
        if done.returncode != 0:
            raise self._failure(done.returncode, done.stderr)
        return done.stdout or b""

    def _failure(self, code: int, errors: bytes) -> ResourceError:
        said = [line.strip() for line in errors.decode("utf-8", "replace").splitlines()]
        reasons = [line for line in said if line and not line.startswith(("rsync error", "**"))]
        why = clean(reasons[-1], limit=200) if reasons else f"exit code {code}"
        if code in _RSYNC_BROKE:
            return ResourceError(
                f"The connection to {self.host} failed: {why}",
                f"See whether `ssh {self.host}` works, and start again: what came is kept.",
            )
        if code == _RSYNC_FILE or "No space left" in why:
            return ResourceError(
                f"{self.host} could not write: {why}",
                "Free space there and start again; what came is kept.",
            )
        return ResourceError(f"{self.host}: {why}", "Start again; what came is kept.")


@contextmanager
def connected(host: str, *, ssh_config: Path | None, may_ask: bool) -> Iterator[RemoteHost]:
    """Yield a host with one connection for all that is asked of it, and close it after.

    Args:
        ssh_config: Another one than ~/.ssh/config.
        may_ask: Whether ssh may ask for a password on the terminal.

    Raises:
        ResourceError: ssh or rsync is not installed here.
    """
    for program in ("ssh", "rsync"):
        if shutil.which(program) is None:
            raise ResourceError(f"{program} is not installed here.", f"Install {program}.")
    with tempfile.TemporaryDirectory(prefix="loba-") as folder:
        ssh = ["ssh"]
        ssh += ["-F", str(ssh_config.absolute())] if ssh_config is not None else []
        for option in (
            # One login for all: each would ask for the password anew.
            "ControlMaster=auto",
            f"ControlPath={folder}/%C",
            "ControlPersist=30",
            "ServerAliveInterval=15",
            f"BatchMode={'no' if may_ask else 'yes'}",
        ):
            ssh += ["-o", option]
        try:
            yield RemoteHost(host, ssh)
        finally:
            subprocess.run([*ssh, "-O", "exit", "--", host], capture_output=True, check=False)


def _rsync_quote(word: str) -> str:
    """Quote a word for --rsh, which knows quotes that are doubled and no backslash."""
    return "'" + word.replace("'", "''") + "'"
