"""The address by which the other nodes of a job reach a node."""

import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.slurm import PATIENCE_SECONDS

_AGAIN_SECONDS = 2.0
_OTHERS_SECONDS = 10.0  # to resolve the names of others, which help to choose our own address
_ASK_FOR_ADDRESS = 0x8915  # SIOCGIFADDR of Linux
_SIX = Path("/proc/net/if_inet6")  # a line per address: its hexadecimal digits, ..., interface
_ANY_PORT = 9  # to which nothing is sent


def ip_of(address: str, hosts: Sequence[str]) -> str:
    """Return the IP by which other nodes reach a node's address, IPv4 where it has one.

    A machine's own name often resolves to a loopback address (Debian's /etc/hosts), or to all that
    the machine has, bridges of containers included (systemd's resolver). Then it is the one from
    which this machine reaches the first of `hosts` that it can; another machine's name has no need
    of them. Raises ValueError for a name that cannot be resolved.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        found = _resolve_in_time(address, deadline)
    except OSError as error:
        raise ValueError(
            f"{address!r}, a node's address in Slurm (NodeAddr), cannot be resolved on {here()}: "
            f"{error.strerror}"
        ) from error
    if address in found:
        return address
    usable = [ip for ip in found if not _is_local(ip)]
    if len(usable) == 1:
        return usable[0]
    deadline = min(deadline, time.monotonic() + _OTHERS_SECONDS)
    ours = (ip_towards(host, deadline) for host in hosts)
    return next((ip for ip in ours if ip and (ip in usable or not usable)), (usable or found)[0])


def ip_towards(host: str, deadline: float) -> str:
    """Return the IP from which this machine reaches another, empty where it does not.

    Until `deadline`, of time.monotonic, a name server that fails for a moment is asked again.
    """
    with contextlib.suppress(OSError):
        theirs = _resolve_in_time(host, deadline)[0]
        family = socket.AF_INET6 if ":" in theirs else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((theirs, _ANY_PORT))
            ours = probe.getsockname()[0]
            return "" if _is_local(ours) else ours
    return ""


def ip_at(interface: str) -> str:
    """Return this machine's IP at an interface such as ib0, IPv4 where it has one.

    Raises ValueError, with the interfaces that there are, where it has none there.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        named = struct.pack("256s", interface.encode()[:255])
        return socket.inet_ntoa(fcntl.ioctl(asked.fileno(), _ASK_FOR_ADDRESS, named)[20:24])
    lines = map(str.split, _SIX.read_text().splitlines()) if _SIX.exists() else ()
    found = [bytes.fromhex(packed) for packed, *_, at in lines if at == interface]
    usable = [ip for n in found if not _is_local(ip := socket.inet_ntop(socket.AF_INET6, n))]
    if usable:
        return usable[0]
    there = ", ".join(name for _, name in socket.if_nameindex())
    raise ValueError(
        f"the profile's interface {interface!r} has no address on {here()}; its interfaces: {there}"
    )


def with_port(ip: str, port: int | str) -> str:
    """Return host:port, in the way that tells an IPv6 address from its port."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def here() -> str:
    """Return what Slurm calls this node."""
    return os.environ["SLURMD_NODENAME"]


def _resolve_in_time(name: str, deadline: float) -> list[str]:
    """Return `_resolve`, tried again until `deadline` while the name server fails for a moment."""
    while True:
        try:
            return _resolve(name)
        except OSError as error:
            if error.errno != socket.EAI_AGAIN or time.monotonic() >= deadline:
                raise
        time.sleep(_AGAIN_SECONDS)


def _resolve(name: str) -> list[str]:
    """Return the IPs that a name stands for here, those of IPv4 where there are any."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    by_family = {
        family: [str(where[0]) for of, *_, where in found if of == family]
        for family in (socket.AF_INET, socket.AF_INET6)
    }
    return list(dict.fromkeys(by_family[socket.AF_INET] or by_family[socket.AF_INET6]))


def _is_local(ip: str) -> bool:
    """Tell whether an IP is of this machine or its own link alone, so that others cannot use it."""
    address = ipaddress.ip_address(ip)
    return address.is_loopback or address.is_link_local
