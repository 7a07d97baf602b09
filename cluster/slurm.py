"""Slurm's commands: pure functions that read what they print, and functions that run them.

tests/test_cluster_slurm.py has recorded output of each command.
"""

import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pwmray.slurm_jobs import environment, read_time

ASK_SECONDS = 20.0  # for a busy controller to answer
PATIENCE_SECONDS = 60.0  # for which a job repeats a question that a busy controller refuses
AGAIN_SECONDS = 2.0
ALL = "ALL"  # in Slurm's lists of who may use a partition
ROOT = "root"  # the account of which all others are part
_SINFO = "%R|%a|%l|%c|%m|%D|%G"  # gres last: it may have any length
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")
# What sbatch says of a script that no node can run; --test-only counts only nodes that are up.
NO_SUCH_NODES = "Requested node configuration is not available"
_ENDLESS = ("UNLIMITED", "INFINITE", "NONE", "N/A", "NOT_SET")


class NodeKind(NamedTuple):
    """The nodes of a partition that have the same resources."""

    gpus: Mapping[str, int]  # by Slurm's name of their type, in lower case; "" where it has none
    cpus: int
    memory_mb: int
    number: int


@dataclass(frozen=True)
class Partition:
    """A partition, who may use it, and the kinds of nodes in it."""

    name: str
    is_default: bool
    state: str
    limit_seconds: int | None  # None: no limit
    max_nodes: int | None
    accounts: tuple[str, ...]  # that may use it, or (ALL,)
    denied_accounts: tuple[str, ...]
    qos: tuple[str, ...]
    denied_qos: tuple[str, ...]
    kinds: tuple[NodeKind, ...] = ()

    @property
    def gpu_types(self) -> list[str]:
        """Slurm's names of the GPU types in this partition, "" for GPUs without a type."""
        return sorted({name for kind in self.kinds for name in kind.gpus})


class Association(NamedTuple):
    """An account that the user may charge, as the accounting database has it."""

    account: str
    partition: str  # empty: any
    qos: tuple[str, ...]


class SlurmError(ValueError):
    """Slurm refused a request; the message is Slurm's own, in one line."""


class NoAnswer(SlurmError):
    """Slurm did not answer in time; it may still carry out the request."""


def read_seconds(text: str) -> int | None:
    """Return a time limit in Slurm's notation as seconds; None for no limit.

    The notation is minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes
    or days-hours:minutes:seconds. Raises ValueError for anything else.
    """
    if text.upper() in _ENDLESS:
        return None
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a Slurm time, such as 90, 12:00:00 or 2-00:00:00")
    numbers = [int(part) for part in found.group("first", "second", "third") if part is not None]
    days = found["days"]
    if days is not None:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
        return ((int(days) * 24 + hours) * 60 + minutes) * 60 + seconds
    if len(numbers) == 3:
        return (numbers[0] * 60 + numbers[1]) * 60 + numbers[2]
    return numbers[0] * 60 + (numbers[1] if len(numbers) == 2 else 0)


def read_gpus(gres: str) -> dict[str, int]:
    """Return the GPUs among generic resources, by type in lower case, "" for no type.

    `gres` is as sinfo and scontrol print it: "gpu:h100:4(S:0-1),nvme:1", "gpu:2", "(null)".
    """
    gpus: dict[str, int] = {}
    for entry in re.split(r",(?![^(]*\))", gres):
        found = re.fullmatch(r"gpu(?::([^:()]+?))??(?::(\d+))?(?:\(.*\))?", entry.strip())
        if found is not None:
            name = (found[1] or "").lower()
            gpus[name] = gpus.get(name, 0) + int(found[2] or 1)
    return gpus


def gpu_type(gres: str) -> str:
    """Return the GPU type in a request such as gpu:h100:4, in lower case; "" without one."""
    return gres.split(":")[1].lower() if gres.count(":") == 2 else ""


def read_fields(line: str) -> dict[str, str]:
    """Return the KEY=VALUE fields of a `scontrol --oneliner show` line, the first of each key."""
    fields: dict[str, str] = {}
    for key, value in re.findall(r"(\S+?)=(\S*)", line):
        fields.setdefault(key, value)
    return fields


def read_partitions(scontrol: str, sinfo: str) -> dict[str, Partition]:
    """Return the partitions by name, from what `scontrol show partition` and sinfo print."""
    kinds: dict[str, list[NodeKind]] = {}
    for line in sinfo.splitlines():
        if line.count("|") < _SINFO.count("|"):  # "CLUSTER: big", where SLURM_CLUSTERS names one
            continue
        name, _, _, cpus, memory, number, gres = line.split("|", 6)
        sizes = (int(text.rstrip("+")) for text in (cpus, memory, number))
        kinds.setdefault(name, []).append(NodeKind(read_gpus(gres), *sizes))
    partitions = {}
    for line in filter(str.strip, scontrol.splitlines()):
        fields = read_fields(line)
        name, most = fields["PartitionName"], fields["MaxNodes"]
        partitions[name] = Partition(
            name=name,
            is_default=fields.get("Default") == "YES",
            state=fields["State"],
            limit_seconds=read_seconds(fields["MaxTime"]),
            max_nodes=int(most) if most.isdecimal() else None,
            accounts=_names(fields.get("AllowAccounts", ALL)),
            denied_accounts=_names(fields.get("DenyAccounts", "")),
            qos=_names(fields.get("AllowQos", ALL)),
            denied_qos=_names(fields.get("DenyQos", "")),
            kinds=tuple(kinds.get(name, ())),
        )
    return partitions


def read_associations(sacctmgr: str) -> list[Association]:
    """Read the output of `sacctmgr --parsable2 show associations format=account,partition,qos`."""
    rows = [line.split("|") for line in sacctmgr.splitlines() if line.count("|") == 2]
    return [Association(account, part, _names(qos)) for account, part, qos in rows]


def read_complaint(printed: str) -> str:
    """Return in one line the errors that sbatch or another command printed."""
    lines = [re.sub(r"^s\w+: (error: )?", "", line) for line in printed.splitlines()]
    return "; ".join(dict.fromkeys(line.strip() for line in lines if line.strip()))


def read_job_id(parsable: str) -> str:
    """Return the job id that `sbatch --parsable` prints, alone or as id;cluster."""
    # On the last line: a site's own sbatch may print a greeting first.
    job_id = parsable.strip().rpartition("\n")[2].partition(";")[0]
    if not job_id.isdecimal():
        raise SlurmError(f"sbatch printed {parsable.strip()!r} in place of a job id")
    return job_id


def read_job_gpus(details: str) -> dict[str, dict[str, int]]:
    """Return a job's GPUs by list of nodes and by type.

    `details` is from `scontrol --details --oneliner show job`. The lists are in Slurm's notation,
    such as n[1-3]; nodes without GPUs are among them.
    """
    found = re.findall(r"\sNodes=(\S+) CPU_IDs=\S* Mem=\S* GRES=(\S*)", details)
    return {nodes: read_gpus(gres) for nodes, gres in found}


def read_end(details: str) -> float:
    """Return when a job's time limit ends, in seconds since 1970; infinite without a limit."""
    end = read_time(read_fields(details).get("EndTime", "Unknown"))
    return float("inf") if end is None else end


def ask(*command: str, given: str | None = None) -> str:
    """Run one of Slurm's commands, with `given` as its stdin, and return what it prints.

    Raises SlurmError with the command's error message.
    """
    try:
        done = subprocess.run(
            command, env=environment(command[0]), input=given, capture_output=True, text=True,
            timeout=ASK_SECONDS,
        )  # fmt: skip
    except FileNotFoundError:
        raise SlurmError(f"no {command[0]} here: is this a Slurm login node?") from None
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{command[0]} did not answer within {ASK_SECONDS:.0f} s") from None
    if done.returncode:
        raise SlurmError(read_complaint(done.stderr) or f"{command[0]} gave {done.returncode}")
    return done.stdout


def ask_again(*command: str) -> str:
    """Like `ask`, but repeat a failing command for up to a minute: a job cannot come back later."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return ask(*command)
        except SlurmError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(AGAIN_SECONDS)


def partitions() -> dict[str, Partition]:
    """Ask for the partitions by name, hidden ones included."""
    told = ask("scontrol", "--all", "--oneliner", "show", "partition")
    # Without --exact, sinfo lumps nodes that differ only in CPUs or memory, and prints the least.
    options = ("--all", "--exact", "--noconvert", "--noheader", f"--format={_SINFO}")
    return read_partitions(told, ask("sinfo", *options))


def associations(user: str) -> list[Association] | None:
    """Ask which accounts the user may charge; None if no accounting database knows the user."""
    wanted = ("show", "associations", f"user={user}", "format=account,partition,qos")
    try:
        # A site that only measures usage may have no associations at all.
        return read_associations(ask("sacctmgr", "--noheader", "--parsable2", *wanted)) or None
    except SlurmError:
        return None


def accounts_above(account: str, cluster: str) -> list[str]:
    """Ask which accounts an account is part of: its parent first, ROOT last.

    Fewer where the site does not show its users other accounts than their own.
    """
    above: list[str] = []
    while account != ROOT:
        wanted = (f"cluster={cluster}", f"account={account}", "format=parentname")
        try:
            told = ask("sacctmgr", "--noheader", "--parsable2", "show", "associations", *wanted)
        except SlurmError:
            return above
        parents = told.split()  # the lines of its users are empty
        if not parents:
            return above
        account = parents[0]
        above.append(account)
    return above


def live_jobs() -> dict[str, str]:
    """Ask for the users of all jobs that wait or run, by id; of an array, by the array's own id."""
    told = ask("squeue", "--noheader", "--format=%F %u").splitlines()
    return dict(line.split(maxsplit=1) for line in told)


def cluster_name() -> str:
    """Ask for the cluster's name."""
    found = re.search(r"^ClusterName\s*=\s*(\S+)", ask("scontrol", "show", "config"), re.MULTILINE)
    return found[1] if found else ""


def check_script(script: str) -> None:
    """Raise SlurmError if Slurm would refuse a script; submits nothing."""
    ask("sbatch", "--test-only", given=script)


def nodes_away(partition: str) -> list[str]:
    """Ask for the nodes of a partition, "" for all, that are down, drained, or reserved by now.

    Or soon: Slurm finds no nodes for a job that would run into a reservation of some of them.
    """
    chosen = [f"--partition={partition}"] if partition else []
    told = ask("scontrol", "--oneliner", "show", "reservation")
    lists = [read_fields(line).get("Nodes", "") for line in told.splitlines()]
    reserved = ",".join(nodes for nodes in lists if nodes not in ("", "(null)"))
    away = ["--states=down,drain,fail,maint", *([f"--nodes={reserved}"] if reserved else [])]
    names = (ask("sinfo", "--noheader", "--Node", a, "--format=%N", *chosen) for a in away)
    return sorted({name for told in names for name in told.split()})


def submit(script: Path) -> str:
    """Submit a script and return the job's id."""
    try:
        return read_job_id(ask("sbatch", "--parsable", str(script)))
    except NoAnswer as error:
        raise NoAnswer(f"{error}; squeue tells whether it took {script} all the same") from None


def hostnames(nodes: Iterable[str]) -> list[str]:
    """Ask for the single nodes in lists such as n[1-3], in order."""
    return ask_again("scontrol", "show", "hostnames", ",".join(nodes)).split()


def node_address(node: str) -> str:
    """Ask for the address at which Slurm reaches a node: its name, or an IP if configured."""
    return read_fields(ask_again("scontrol", "--oneliner", "show", "node", node))["NodeAddr"]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name and name != "(null)")
