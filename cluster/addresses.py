"""The IP address at which the other nodes of a job reach a node."""

import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.slurm import AGAIN_SECONDS, PATIENCE_SECONDS

_OTHERS_SECONDS = 10.0  # to resolve other nodes' names, which help to choose our own address
_ASK_FOR_ADDRESS = 0x8915  # SIOCGIFADDR of Linux
_IPV6 = Path("/proc/net/if_inet6")  # a line per address: its hexadecimal digits, ..., interface
_ANY_PORT = 9  # nothing is sent to it


def ip_of(address: str, hosts: Sequence[str]) -> str:
    """Return the IP at which other nodes reach a node, from its name or number; IPv4 if it has one.

    A machine's own name often resolves to a loopback address (Debian's /etc/hosts), or to all its
    addresses, those of container bridges included (systemd's resolver). In that case this is the
    address from which this machine reaches the first reachable one of `hosts`; for another
    machine's name none are needed. Raises ValueError for a name that cannot be resolved.
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
    """Return the IP from which this machine reaches another, empty if it does not.

    A name server that fails for a moment is asked again until `deadline`, of time.monotonic.
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
    """Return this machine's IP at an interface such as ib0, IPv4 if it has one.

    Raises ValueError, listing the machine's interfaces, if it has no IP there.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        named = struct.pack("256s", interface.encode()[:255])
        return socket.inet_ntoa(fcntl.ioctl(asked.fileno(), _ASK_FOR_ADDRESS, named)[20:24])
    lines = map(str.split, _IPV6.read_text().splitlines()) if _IPV6.exists() else ()
    found = [bytes.fromhex(packed) for packed, *_, at in lines if at == interface]
    usable = [ip for n in found if not _is_local(ip := socket.inet_ntop(socket.AF_INET6, n))]
    if usable:
        return usable[0]
    there = ", ".join(name for _, name in socket.if_nameindex())
    raise ValueError(
        f"the profile's interface {interface!r} has no address on {here()}; its interfaces: {there}"
    )


def with_port(ip: str, port: int | str) -> str:
    """Return host:port, with an IPv6 address in brackets."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def here() -> str:
    """Return Slurm's name of this node."""
    return os.environ["SLURMD_NODENAME"]


def _resolve_in_time(name: str, deadline: float) -> list[str]:
    """Return `_resolve`, tried again until `deadline` while the name server fails for a moment."""
    while True:
        try:
            return _resolve(name)
        except OSError as error:
            if error.errno != socket.EAI_AGAIN or time.monotonic() >= deadline:
                raise
        time.sleep(AGAIN_SECONDS)


def _resolve(name: str) -> list[str]:
    """Return the IPs that a name resolves to here: those of IPv4 if there are any, else IPv6."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    by_family = {
        family: [str(where[0]) for of, *_, where in found if of == family]
        for family in (socket.AF_INET, socket.AF_INET6)
    }
    return list(dict.fromkeys(by_family[socket.AF_INET] or by_family[socket.AF_INET6]))


def _is_local(ip: str) -> bool:
    """Tell whether an IP is loopback or link-local, so that other machines cannot use it."""
    address = ipaddress.ip_address(ip)
    return address.is_loopback or address.is_link_local
