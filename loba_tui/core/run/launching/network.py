"""Find the address, the interface and the port by which the processes of a run meet."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import psutil

from loba_tui.core.errors import InUseError, ResourceError

LOOPBACK = "127.0.0.1"
_ANY_PORT = 9  # a datagram socket that is only connected sends nothing


@dataclass(frozen=True)
class Meeting:
    """Where the processes of a launch meet: an address of the first host, and its port."""

    address: str
    port: int


def interface_of(address: str) -> str | None:
    """Return the interface of this machine that has an address."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return name
    return None


def address_of(interface: str) -> str:
    """Return the IPv4 address of an interface of this machine, its IPv6 address if it has no other.

    Raises:
        ResourceError: There is no such interface, or it has no address.
    """
    found = psutil.net_if_addrs().get(interface, [])
    for family in (socket.AF_INET, socket.AF_INET6):
        for each in found:
            if each.family == family:
                return each.address
    raise ResourceError(
        f"--iface: this machine has no interface {interface} with an address.",
        f"It has {', '.join(psutil.net_if_addrs())}.",
    )


def address_towards(host: str) -> str:
    """Return the address of this machine that packets to a host leave from.

    Raises:
        ResourceError: Its name is not known, or no route leads there.
    """
    try:
        family, _, _, _, target = socket.getaddrinfo(host, _ANY_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ResourceError(
            f"No route leads from this machine to {host}: {error.strerror or error}.",
            "Name an interface with --iface, and look whether the host's name is known here.",
        ) from error


def free_port(address: str) -> int:
    """Return a port of an address of this machine that nobody listens on now."""
    with _bound(address, 0) as probe:
        return int(probe.getsockname()[1])


def require_free(address: str, port: int) -> None:
    """Raise InUseError where somebody listens on a port."""
    try:
        with _bound(address, port):
            pass
    except OSError as error:
        raise InUseError(
            f"--port: port {port} of {address} cannot be used: {error.strerror or error}.",
            "Choose another one, or leave --port out.",
        ) from error


def _bound(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family)
