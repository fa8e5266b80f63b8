"""How many processes train a run, and where: what `launch.json` in its folder says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from loba_tui.core.errors import CorruptError, RecipeError
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.records import RECORD_VERSION, decode, encode
from loba_tui.core.text import quote

THIS_MACHINE = "localhost"

DEFAULT_RESTARTS = 3

# What ssh takes as a destination; a port or a key belongs into ~/.ssh/config.
_HOST = re.compile(r"(?:[A-Za-z0-9_][\w.-]*@)?[A-Za-z0-9][\w.-]*", re.ASCII)
_INTERFACE = re.compile(r"[A-Za-z0-9][\w.@-]{0,63}", re.ASCII)
_MAX_BYTES = 256 * 1024
_MOST_SLOTS = 1024
_MOST_PORT = 65535


@dataclass(frozen=True)
class Host:
    """A machine of a launch, and how many of the run's processes it gets."""

    name: str
    slots: int = 1


@dataclass(frozen=True)
class LaunchShape:
    """The processes of a run.

    Attributes:
        hosts: The first one is this machine, whatever its name.
        iface: Network interface of every host; None finds the one that leads to the others.
        port: Where the processes meet, on the first host; a relaunch takes the next one. None
            takes a free one.
        restarts: How many times the whole launch is made anew after a process is lost.
        timeout: Seconds after which a process that waits for another one gives up, as the recipe
            has it in `parallel.timeout`.
        remote_python: Python of the other hosts; None is the path of this one.
    """

    hosts: tuple[Host, ...]
    iface: str | None = None
    port: int | None = None
    restarts: int = DEFAULT_RESTARTS
    timeout: int = 600
    remote_python: str | None = None
    version: int = field(default=RECORD_VERSION, kw_only=True)

    @property
    def processes(self) -> int:
        """All processes of the run."""
        return sum(host.slots for host in self.hosts)

    def write(self, run_dir: RunDir) -> None:
        """Write the run's `launch.json`.

        Raises:
            ResourceError: It cannot be written.
        """
        run_dir.launch.replace(encode(asdict(self)))

    @classmethod
    def read(cls, run_dir: RunDir) -> LaunchShape | None:
        """Return the shape of a run; None for one that is a single process of this machine.

        Raises:
            CorruptError: There is one that cannot be used.
        """
        if not run_dir.launch.is_there():
            return None
        try:
            return _shape_of(decode(run_dir.launch.read(_MAX_BYTES)))
        except (OSError, ValueError, RecipeError) as error:
            raise CorruptError(
                f"{run_dir.launch} does not say how the run's processes are started: {error}",
                "Give --processes or --hosts again, with --resume.",
            ) from error


def _shape_of(record: dict[str, Any]) -> LaunchShape:
    try:
        if record.pop("version") != RECORD_VERSION:
            raise ValueError("it is of another version")
        hosts = tuple(Host(str(each["name"]), int(each["slots"])) for each in record.pop("hosts"))
        shape = LaunchShape(hosts=hosts, **record)
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{error!r}") from error
    numbers = (shape.restarts, shape.timeout, 1 if shape.port is None else shape.port)
    texts = (shape.remote_python, shape.iface)
    if not all(isinstance(each, int) for each in numbers) or not all(
        each is None or isinstance(each, str) for each in texts
    ):
        raise ValueError("a value is of another type")
    _require_usable(shape)
    return shape


def parse_hosts(text: str) -> tuple[Host, ...]:
    """Return the hosts of `a,b:2`, each with one process where no number is given.

    Raises:
        RecipeError: It is no such list, or names a host twice.
    """
    hosts = []
    for word in text.split(","):
        name, colon, slots = word.strip().partition(":")
        if not _HOST.fullmatch(name) or (colon and not slots.isdecimal()):
            raise RecipeError(
                f"--hosts: {quote(word)} is not HOST or HOST:SLOTS.",
                "Such as localhost:4,me@gpu2:4; a port or a key belongs into ~/.ssh/config.",
            )
        hosts.append(Host(name, int(slots) if colon else 1))
    return tuple(hosts)


def make_shape(
    *,
    processes: int | None,
    hosts: str | None,
    iface: str | None = None,
    port: int | None = None,
    restarts: int = DEFAULT_RESTARTS,
    remote_python: str | None = None,
    local_names: Sequence[str] = (THIS_MACHINE,),
) -> LaunchShape:
    """Return the shape that the options of a command mean.

    Args:
        local_names: By what names this machine can be the first of `hosts`.

    Raises:
        RecipeError: They exclude each other, or cannot be used.
    """
    if processes is not None and hosts is not None:
        raise RecipeError(
            "--processes and --hosts exclude each other: --hosts says how many on each host.",
            "Such as --hosts localhost:4,gpu2:4",
        )
    found = (Host(THIS_MACHINE, processes or 1),) if hosts is None else parse_hosts(hosts)
    if found[0].name.rpartition("@")[2] not in local_names:
        raise RecipeError(
            f"--hosts: the first host has to be this machine, and {quote(found[0].name)} is not"
            " known to be.",
            f"The run's folder is here: begin the list with {THIS_MACHINE}.",
        )
    shape = LaunchShape(
        hosts=(Host(THIS_MACHINE, found[0].slots), *found[1:]),
        iface=iface,
        port=port,
        restarts=restarts,
        remote_python=remote_python,
    )
    _require_usable(shape)
    return shape


def _require_usable(shape: LaunchShape) -> None:
    """Raise RecipeError where a value is out of range or would be read as an option."""
    names = [host.name for host in shape.hosts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if not names or twice is not None:
        raise RecipeError(f"--hosts: {quote(twice or '')} is there twice.", "Write it as HOST:2.")
    for host in shape.hosts:
        if not _HOST.fullmatch(host.name) or not 1 <= host.slots <= _MOST_SLOTS:
            raise RecipeError(
                f"{quote(f'{host.name}:{host.slots}')}: a host takes 1 to {_MOST_SLOTS} processes."
            )
    if shape.iface is not None and not _INTERFACE.fullmatch(shape.iface):
        raise RecipeError(f"--iface: {quote(shape.iface)} is no name of a network interface.")
    if shape.port is not None and not 1 <= shape.port <= _MOST_PORT:
        raise RecipeError(f"--port: {shape.port} is not from 1 to {_MOST_PORT}.")
    if shape.restarts < 0 or shape.timeout < 1:
        raise RecipeError("--restarts: a number of restarts is 0 or more.")
    python = shape.remote_python
    if python is not None and (not python.startswith("/") or not python.isprintable()):
        raise RecipeError(
            f"--remote-python: {quote(python)} is not an absolute path.",
            "Such as /home/me/loba/.venv/bin/python",
        )
