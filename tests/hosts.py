"""Several hosts on this machine, and a real Slurm on them: what crosses a network in tests.

Each host is a set of namespaces: a network, process numbers, a name, a /tmp and a /dev/shm of its
own. One folder of /tmp is shared, as are this checkout and its Python; `login` has the bridge
that joins them, and Slurm's controller. Needs root.
"""

import contextlib
import dataclasses
import secrets
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.minislurm import MiniSlurm, Started, check_installed
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parent.parent
_UNSHARE = ["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child"]
_PROBE = "mount -t tmpfs tmp /mnt && ip link add br0 type bridge && ip link add to-n1 type veth"
_START_SECONDS = 10.0
# As the first process of a host sees it: shared folders of /tmp are put back into the new one.
_SET_UP = """
set -e
name=$1 hosts=$2; shift 2
hostname "$name"
mount --make-rprivate /
mount -t tmpfs tmp /mnt
chmod 1777 /mnt
for shared; do mkdir -p "/mnt/${shared#/tmp/}"; mount --bind "$shared" "/mnt/${shared#/tmp/}"; done
mount --rbind /mnt /tmp
mount -t tmpfs shm /dev/shm
mount --bind "$hosts" /etc/hosts
mount -t proc proc /proc
ip link set lo up
"""


class Hosts(Started):
    """Hosts by name, the first of which has the bridge; use it as a context manager."""

    def __init__(self, addresses: dict[str, str], shared: Path):
        self._addresses, self._shared = addresses, shared
        self._holders: dict[str, subprocess.Popen] = {}  # whose end is that of a host
        self._pids: dict[str, int] = {}  # of each host's first process
        self._switch = next(iter(addresses))

    def enter(self, name: str) -> list[str]:
        """Return what comes before a command for it to run on a host."""
        target = ["nsenter", "--target", str(self._pids[name])]
        return [*target, "--net", "--uts", "--ipc", "--mount", "--pid"]

    def stop(self) -> None:
        """End all that runs on the hosts, and the hosts with it."""
        for holder in self._holders.values():
            holder.kill()
        for holder in self._holders.values():
            holder.wait()

    def _start(self) -> None:
        hosts = self._shared / "hosts"
        names = [f"{address} {name}\n" for name, address in self._addresses.items()]
        hosts.write_text("127.0.0.1 localhost\n" + "".join(names))
        for name in self._addresses:
            self._holders[name] = subprocess.Popen([*_UNSHARE, "sleep", "infinity"])
        python = [Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()]
        shared = [path for path in (self._shared, ROOT, *python) if path.is_relative_to("/tmp")]
        for name, holder in self._holders.items():
            self._pids[name] = _first_child(holder.pid)
            self._run(name, "bash", "-c", _SET_UP, "-", name, str(hosts), *map(str, shared))
        self._run(self._switch, "ip", "link", "add", "br0", "type", "bridge")
        for name, address in self._addresses.items():
            self._connect(name, address)

    def _connect(self, name: str, address: str) -> None:
        device = "br0"
        if name != self._switch:
            device, there = "eth0", str(self._pids[name])
            link = ["ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", device]
            self._run(self._switch, *link, "netns", there, entered="--net")
            self._run(self._switch, "ip", "link", "set", f"to-{name}", "master", "br0", "up")
        self._run(name, "ip", "address", "add", f"{address}/24", "dev", device)
        self._run(name, "ip", "link", "set", device, "up")

    def _run(self, name: str, *command: str, entered: str | None = None) -> None:
        # Only from outside is another host's number known.
        enter = ["nsenter", "--target", str(self._pids[name]), entered] if entered else None
        subprocess.run([*(enter or self.enter(name)), *command], check=True)


class HostsSlurm(MiniSlurm):
    """A Slurm whose nodes n1, n2 and n3 are hosts, and whose clients run on one called login."""

    def __init__(self) -> None:
        super().__init__()
        network = f"10.{secrets.randbelow(250)}.{secrets.randbelow(250)}"
        self.nodes = [
            dataclasses.replace(node, address=f"{network}.{10 + i}", host=node.name)
            for i, node in enumerate(self.nodes, start=1)
        ]
        self.controller = f"login({network}.10)"
        addresses = {"login": f"{network}.10", **{n.name: n.address for n in self.nodes}}
        self._hosts = Hosts(addresses, self.folder)

    def enter(self, host: str) -> list[str]:
        """Return what comes before a command for it to run on the host of this name."""
        return self._hosts.enter(host)

    def stop(self) -> None:
        """End everything, jobs first: a host's end leaves nothing that runs there."""
        if "slurmctld" in self._daemons:
            with contextlib.suppress(subprocess.SubprocessError, TimeoutError):
                self.clear()
        self._hosts.stop()
        super().stop()

    def _start(self) -> None:
        with contextlib.ExitStack() as started:
            started.enter_context(self._hosts)
            super()._start()
            started.pop_all()

    def _listens(self) -> bool:
        port = ["bash", "-c", f": < /dev/tcp/login/{self._port}"]
        return not subprocess.run([*self.enter("login"), *port], capture_output=True).returncode


def start_or_skip() -> Iterator[MiniSlurm]:
    """Yield a running Slurm on hosts of its own, the body of a fixture.

    Skips where the system gives no namespaces; where it does, as `minislurm.start_or_skip`.
    """
    check_installed("ip", "nsenter", "unshare")
    probe = ["bash", "-c", _PROBE]
    done = subprocess.run([*_UNSHARE, *probe], capture_output=True, text=True)
    if done.returncode:
        told = f"no hosts out of namespaces here: {done.stderr.strip()}"
        warnings.warn(f"{told}; their tests are skipped", stacklevel=2)
        pytest.skip(told)
    with HostsSlurm() as slurm:
        yield slurm


def _first_child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return int(wait_for(lambda: children.read_text().split(), _START_SECONDS)[0])
