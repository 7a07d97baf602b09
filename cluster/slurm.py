"""What Slurm says of a cluster and of a job: text read by pure functions, and who asks for it.

Recorded text of each command is in tests/test_cluster_slurm.py.
"""

import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pwmray.slurm_jobs import environment, read_time

ASK_SECONDS = 20.0  # that a busy controller may take to answer
PATIENCE_SECONDS = 60.0  # of a job with its questions, which a controller may be too busy for
_AGAIN_SECONDS = 2.0
ALL = "ALL"  # in Slurm's lists of who may use a partition
_SINFO = "%R|%a|%l|%c|%m|%D|%G"  # gres last: it is the only one that may be long
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")
# Of a script that no node can run; `sbatch --test-only` counts only those that are there.
NO_SUCH_NODES = "Requested node configuration is not available"
_ENDLESS = ("UNLIMITED", "INFINITE", "NONE", "N/A", "NOT_SET")


class NodeKind(NamedTuple):
    """Nodes of a partition that are alike."""

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
    kinds: tuple[NodeKind, ...] = ()

    @property
    def gpu_types(self) -> list[str]:
        """Slurm's names of the GPUs that its nodes have."""
        return sorted({name for kind in self.kinds for name in kind.gpus})


class Association(NamedTuple):
    """An account that the user may charge, as the accounting database has it."""

    account: str
    partition: str  # empty: any
    qos: tuple[str, ...]


class SlurmError(ValueError):
    """Slurm refused what it was asked for; the message is Slurm's, in one line."""


class NoAnswer(SlurmError):
    """Slurm took too long; it may yet do what it was asked for."""


def read_seconds(text: str) -> int | None:
    """Return the seconds of a time as Slurm writes it; None without a limit.

    That is minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes or
    days-hours:minutes:seconds. Raises ValueError for anything else.
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
    """Return the GPUs of generic resources, by type in lower case ("" where none is told).

    Takes what sinfo and scontrol print: "gpu:h100:4(S:0-1),nvme:1", "gpu:2", "(null)".
    """
    gpus: dict[str, int] = {}
    for entry in re.split(r",(?![^(]*\))", gres):
        found = re.fullmatch(r"gpu(?::([^:()]+?))??(?::(\d+))?(?:\(.*\))?", entry.strip())
        if found is not None:
            name = (found[1] or "").lower()
            gpus[name] = gpus.get(name, 0) + int(found[2] or 1)
    return gpus


def gpu_type(gres: str) -> str:
    """Return the type in what is asked for, such as gpu:h100:4, in lower case; "" without one."""
    return gres.split(":")[1].lower() if gres.count(":") == 2 else ""


def read_fields(line: str) -> dict[str, str]:
    """Return the KEY=VALUE fields of a line of `scontrol --oneliner show`; a key's first one."""
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
            kinds=tuple(kinds.get(name, ())),
        )
    return partitions


def read_associations(sacctmgr: str) -> list[Association]:
    """Return what `sacctmgr --parsable2 show associations format=account,partition,qos` prints."""
    rows = [line.split("|") for line in sacctmgr.splitlines() if line.count("|") == 2]
    return [Association(account, part, _names(qos)) for account, part, qos in rows]


def read_complaint(printed: str) -> str:
    """Return in one line why sbatch or another command refused what it was asked."""
    lines = [re.sub(r"^s\w+: (error: )?", "", line) for line in printed.splitlines()]
    return "; ".join(dict.fromkeys(line.strip() for line in lines if line.strip()))


def read_job_id(parsable: str) -> str:
    """Return the job id that `sbatch --parsable` prints, alone or as id;cluster."""
    # Last: a site's own sbatch may greet one first.
    job_id = parsable.strip().rpartition("\n")[2].partition(";")[0]
    if not job_id.isdecimal():
        raise SlurmError(f"sbatch printed {parsable.strip()!r} in place of a job id")
    return job_id


def read_job_gpus(details: str) -> dict[str, dict[str, int]]:
    """Return a job's GPUs by list of nodes and type: `scontrol --details --oneliner show job`.

    The lists are as Slurm writes them, such as n[1-3]; nodes without GPUs are there, too.
    """
    found = re.findall(r"\sNodes=(\S+) CPU_IDs=\S* Mem=\S* GRES=(\S*)", details)
    return {nodes: read_gpus(gres) for nodes, gres in found}


def read_end(details: str) -> float:
    """Return when a job's time is up, in seconds since 1970; infinite without a limit."""
    end = read_time(read_fields(details).get("EndTime", "Unknown"))
    return float("inf") if end is None else end


def ask(*command: str, given: str | None = None) -> str:
    """Return what one of Slurm's commands prints, with `given` on its input.

    Raises SlurmError with what it complains about.
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
    """`ask` for who cannot come back: again and again, for a minute, where that fails."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return ask(*command)
        except SlurmError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_AGAIN_SECONDS)


def partitions() -> dict[str, Partition]:
    """Ask for the partitions, hidden ones too."""
    told = ask("scontrol", "--all", "--oneliner", "show", "partition")
    # Without --exact, nodes that differ in CPUs or memory alone are one kind, with the least.
    options = ("--all", "--exact", "--noconvert", "--noheader", f"--format={_SINFO}")
    return read_partitions(told, ask("sinfo", *options))


def associations(user: str) -> list[Association] | None:
    """Ask what the user may charge; None where no accounting database knows the user."""
    wanted = ("show", "associations", f"user={user}", "format=account,partition,qos")
    try:
        # A site that only counts what jobs use may have nobody in it.
        return read_associations(ask("sacctmgr", "--noheader", "--parsable2", *wanted)) or None
    except SlurmError:
        return None


def live_jobs(user: str) -> set[str]:
    """Ask for the ids of the user's jobs that wait or run; arrays by the array's own id."""
    return set(ask("squeue", "--noheader", f"--user={user}", "--format=%F").split())


def cluster_name() -> str:
    """Ask how the cluster is called."""
    found = re.search(r"^ClusterName\s*=\s*(\S+)", ask("scontrol", "show", "config"), re.MULTILINE)
    return found[1] if found else ""


def check_script(script: str) -> None:
    """Raise SlurmError if Slurm would not take a script; nothing is submitted."""
    ask("sbatch", "--test-only", given=script)


def nodes_away(partition: str) -> list[str]:
    """Ask for the nodes that are down, drained or under maintenance, of one partition or of all."""
    chosen = [f"--partition={partition}"] if partition else []
    states = "--states=down,drain,fail,maint"
    return sorted(set(ask("sinfo", "--noheader", "--Node", states, "--format=%N", *chosen).split()))


def submit(script: Path) -> str:
    """Submit a script's file and return the job's id."""
    try:
        return read_job_id(ask("sbatch", "--parsable", str(script)))
    except NoAnswer as error:
        raise NoAnswer(f"{error}; squeue tells whether it took {script} all the same") from None


def hostnames(nodes: Iterable[str]) -> list[str]:
    """Return the single nodes of lists such as n[1-3], in order."""
    return ask_again("scontrol", "show", "hostnames", ",".join(nodes)).split()


def node_address(node: str) -> str:
    """Return the address at which Slurm reaches a node: its name, or a number where given."""
    return read_fields(ask_again("scontrol", "--oneliner", "show", "node", node))["NodeAddr"]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name and name != "(null)")
