"""What Slurm says of jobs: squeue, and of those that it has forgotten sacct where there is one.

Only what asks starts a program; the rest is text read by pure functions. It needs no accounting
database: squeue knows an ended job for the site's MinJobAge, five minutes unless changed.
"""

import calendar
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from pwmray.system import user_name

# Name last: it alone may have the separator in it.
_FIELDS = (
    "JobID", "ArrayJobID", "ArrayTaskID", "State", "Reason", "exit_code", "RestartCnt",
    "NumNodes", "NodeList", "Partition", "TimeUsed", "TimeLimit", "StartTime", "UserName",
    "Command", "Name",
)  # fmt: skip
_ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "TIMEOUT",
}  # fmt: skip
ANY_TASK = "_*"
# Of a person's own: they change what the commands look at, and how they print it.
_OPTIONS = re.compile(r"(SQUEUE|SINFO|SACCT|SCONTROL|SCANCEL)_|SLURM_(TIME_FORMAT|BITSTR_LEN)$")
# Those that count more than a script's own lines, and those of the job that submits another; not
# those that tell where the cluster is, and who asks.
_OF_JOBS = re.compile(r"(SBATCH|SALLOC|SRUN|SLURM|SLURMD)_(?!CONF|CLUSTERS$|JWT$|SACK_)")
_NOTHING = ("", "N/A", "(null)", "Unknown", "None")


class Job(NamedTuple):
    """A job, or the tasks of an array that wait together, as Slurm tells it."""

    job_id: str
    array_job_id: str = ""  # of the whole array
    array_tasks: tuple[str, ...] = ()  # as 4012555_7
    state: str = ""
    reason: str = ""
    exit_code: str = "0:0"  # code:signal, as sacct writes it
    restarts: int = 0
    num_nodes: int = 0
    nodes: str = ""
    partition: str = ""
    time_used: str = ""
    time_limit: str = ""
    start: str = ""  # when it began, or is expected to; UTC
    user: str = ""
    script: str = ""  # its path
    name: str = ""

    @property
    def is_over(self) -> bool:
        """Whether it has ended for good; a state that we do not know has not."""
        return self.state in _ENDED

    @property
    def shown_id(self) -> str:
        """Its number as people know it: 4012555_7 in an array, 4012555_1..6 of those that wait."""
        tasks = self.array_tasks
        if len(tasks) < 2:
            return tasks[0] if tasks else self.job_id
        return f"{tasks[0]}..{tasks[-1].rpartition('_')[2]}"


def environment(command: str) -> dict[str, str]:
    """Return the environment in which one of Slurm's commands does what it is told, and no more.

    A script that sbatch takes says itself what it wants, and its job is started with nothing of
    another one. The others write times in UTC: in local time, an hour of autumn is there twice.
    """
    kept = {key: value for key, value in os.environ.items() if not _OPTIONS.match(key)}
    if command != "sbatch":
        return {**kept, "TZ": "UTC0"}
    return {key: value for key, value in kept.items() if not _OF_JOBS.match(key)}


def user() -> str:
    """Return who this process is for Slurm, which goes by its number.

    LOGNAME may be another's, as after `su` without a dash.
    """
    return user_name(os.geteuid())


def is_here() -> bool:
    """Tell whether this machine has Slurm's commands."""
    return shutil.which("squeue") is not None


def ask(
    names: Iterable[str], seconds: float, past: dict[str, list[Job]] | None = None
) -> list[Job] | None:
    """Return what Slurm knows of jobs by their names, see `find`.

    What it has forgotten is left out. None where it does not answer within `seconds`. `past`
    keeps what the accounting knows of jobs that squeue has forgotten, so that it is asked once.
    """
    wanted = list(dict.fromkeys(names))
    if not wanted:
        return []
    # squeue calls one unknown job an error, and of several leaves the unknown out.
    ids = [name.removesuffix(ANY_TASK) for name in wanted * 2]
    fields = ",".join(f"{name}:|" for name in _FIELDS)
    told = _run(
        ("squeue", "--noheader", "--all", "--states=all", f"--jobs={','.join(ids)}", "-O", fields),
        seconds,
    )
    if told is None:
        return None
    known = read_squeue(told)
    past = {} if past is None else past
    unknown = [name for name in wanted if not find(known, name)]
    new = [name for name in unknown if name not in past]
    told = {name: find(found, name) for found in [_ask_accounting(new, seconds)] for name in new}
    # It lags: of one that has ended it may say for a while that it runs.
    past |= {name: jobs for name, jobs in told.items() if all(job.is_over for job in jobs)}
    return known + [job for name in unknown for job in (told | past)[name]]


def find(jobs: Iterable[Job], name: str) -> list[Job]:
    """Return the jobs of a name: 4012555, 4012555_7 of an array, or 4012555_* for all its tasks."""
    if name.endswith(ANY_TASK):
        return [job for job in jobs if job.array_job_id == name.removesuffix(ANY_TASK)]
    return [job for job in jobs if name == job.job_id or name in job.array_tasks]


def cluster_name(seconds: float) -> str | None:
    """Return the name of the cluster that this machine's commands ask, empty where it has none.

    None where Slurm does not answer within `seconds`: then nobody knows whose jobs are here.
    """
    if shutil.which("scontrol") is None:
        return ""
    told = _run(("scontrol", "show", "config"), seconds)
    if told is None:
        return None
    found = re.search(r"^ClusterName\s*=\s*(\S+)", told, re.MULTILINE)
    return found[1] if found else ""


def own_name() -> str | None:
    """Return by which name Slurm's commands take this process's job alone; None outside of one.

    Each task of an array has a number, but one of them has the array's, which stands for all.
    """
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")


def ends_at(name: str, seconds: float) -> float | None:
    """Return when a single job's time is up, in seconds since 1970; a preemption's grace counts.

    None where Slurm does not answer within `seconds`, or knows of no end.
    """
    told = _run(("squeue", "--noheader", f"--jobs={name}", "-O", "EndTime:|"), seconds) or ""
    return read_time(told.strip().rstrip("|"))


def num_restarts() -> int:
    """Return how often this process's job was requeued before this start; 0 outside of a job."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def was_requeued(seconds: float) -> bool:
    """Tell whether Slurm has put this process's job back into its queue, and ends it for that.

    By its state it cannot be told from a cancelled one before it has ended. False outside of a job,
    and where Slurm does not answer within `seconds`.
    """
    name = own_name()
    if name is None:
        return False
    return any(job.restarts > num_restarts() for job in find(ask([name], seconds) or [], name))


def read_time(text: str) -> float | None:
    """Return a time as Slurm writes it (UTC) in seconds since 1970, None for N/A or Unknown."""
    try:
        return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def read_squeue(text: str) -> list[Job]:
    """Read what squeue prints of the fields that `ask` wants."""
    return [_read_line(line) for line in text.splitlines() if line.count("|") >= len(_FIELDS)]


def read_sacct(text: str) -> list[Job]:
    """Read `sacct --parsable2` of the fields JobIDRaw (or JobID), JobID, State and ExitCode."""
    jobs = []
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) == 4 and fields[0][:1].isdigit() and fields[2]:
            job_id, shown, state, exit_code = fields
            array, is_task = shown.partition("_")[0], "_" in shown
            word = state.split()[0].rstrip("+")  # of "CANCELLED by 1000"
            jobs.append(Job(job_id, array, (shown,) * is_task, word, exit_code=exit_code))
    return jobs


def describe_wait(job: Job) -> str:
    """Return in plain words why a job waits, empty for one that does not."""
    if job.state != "PENDING":
        return ""
    reason = job.reason.partition(",")[0].strip()
    if _NOT_PERMITTED.match(job.reason):
        return f"never starts: {job.reason}"
    words = _WAITS.get(reason) or _describe_limit(reason) or reason
    if "NotAvail" in reason and ":" in job.reason:  # ReqNodeNotAvail, UnavailableNodes:n[3-4]
        words += f" ({job.reason.rpartition(':')[2]})"
    start = read_time(job.start)
    # Of one that somebody has to let go, Slurm tells from when on it might have begun.
    if start is None or words.startswith(("held", "never starts")):
        return words
    return f"{words}; expected {time.strftime('%F %H:%M', time.localtime(start))}"


def describe_end(job: Job) -> str:
    """Return how a job ended in Slurm's own words, empty for one that has not."""
    if not job.is_over:
        return ""
    # Of a job that is cancelled while it waits Slurm keeps why it waited.
    reason = "" if job.reason in ("", "None", "Priority", "Resources") else f" {job.reason}"
    code = "" if job.exit_code == "0:0" else f", exit code {job.exit_code}"
    return f"{job.state}{reason}{code}"


_WAITS: Mapping[str, str] = {
    "None": "Slurm's scheduler has not looked at it yet",
    "Priority": "jobs of higher priority are before it",
    "Resources": "next in line, waits for nodes or GPUs to become free",
    "BeginTime": "not before its begin time (a requeued job waits two minutes)",
    "Dependency": "waits for another job to end",
    "DependencyNeverSatisfied": "never starts: the job it depends on failed; cancel it",
    "JobArrayTaskLimit": "as many tasks of its array run as may at once",
    "JobHeldUser": "held by its user; `scontrol release` lets it go",
    "JobHeldAdmin": "held by an administrator",
    "JobHoldMaxRequeue": "held after too many requeues; `scontrol release` lets it go",
    "launch failed requeued held": "held: its launch failed; ask the administrators",
    "job requeued in held state": "held by who requeued it; `scontrol release` lets it go",
    "ReqNodeNotAvail": "nodes it needs are down, drained or reserved",
    "NodeDown": "a node it needs is down",
    "BadConstraints": "never starts: no node has what it asks for; cancel it",
    "Reservation": "waits for its reservation to begin",
    "Licenses": "waits for a licence",
    "Cleaning": "its earlier run is being cleaned up",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is closed",
    "PartitionTimeLimit": "never starts: asks for more time than its partition allows",
    "PartitionNodeLimit": "never starts: asks for more nodes than its partition allows, or has up",
    "InvalidAccount": "never starts: its account is not valid",
    "InvalidQOS": "never starts: its QOS is not valid",
    "QOSNotAllowed": "never starts: its QOS may not be used in this partition",
    "MaxMemPerLimit": "never starts: asks for more memory than its partition allows",
    "QOSUsageThreshold": "your use of late is above what this QOS admits; it starts as that decays",
}
# Slurm's own sentences: "Job's account not permitted to use this partition (gpu allows a,b not c)".
_NOT_PERMITTED = re.compile(
    r"Job's (account|QOS) not (permitted to|known, so it can't) use this partition"
)
# MaxGRESPerAccount is a QOS's, too, though it does not say so.
_LIMIT = re.compile(
    r"(QOS|Assoc|(?=Max\w+Per(?:User|Account)))(Grp|Max|Min)?([A-Z].*?)?"
    r"(PerUser|PerAccount|PerJob|PerNode)?"
)
_LIMITED = {
    "GRES": "GPUs", "Cpu": "CPUs", "CPU": "CPUs", "Node": "nodes", "Jobs": "jobs", "Job": "jobs",
    "Mem": "memory", "Memory": "memory", "WallDuration": "time", "Wall": "time", "Time": "time",
    "SubmitJob": "submitted jobs", "SubmitJobs": "submitted jobs",
}  # fmt: skip


def _describe_limit(reason: str) -> str:
    """Return the words for limits of a QOS or an association, as QOSMaxGRESPerUser."""
    found = _LIMIT.fullmatch(reason.removesuffix("Limit").removesuffix("NotSatisfied"))
    if found is None:
        return ""
    source, kind, what, per = found.groups()
    where = "this account" if source == "Assoc" else "this QOS"
    budget = re.fullmatch(r"(.*?)(Run)?Min(ute)?s", what or "")
    limited = _LIMITED.get(budget[1] if budget else what or "", "resources")
    if kind == "Min":
        return f"never starts: {where} demands more {limited} of a job ({reason})"
    if per in ("PerJob", "PerNode"):
        asked = f"{limited} times minutes" if budget else limited
        return f"never starts: asks for more {asked} than {where} allows ({reason})"
    whose = "all users'" if kind == "Grp" else "your account's" if per == "PerAccount" else "your"
    amount = f"budget of {limited} times minutes" if budget else f"limit of {limited}"
    return f"{whose} {amount} in {where} is used up ({reason})"


def _read_line(line: str) -> Job:
    raw = dict(zip(_FIELDS, line.split("|", len(_FIELDS) - 1), strict=True))
    kept = {name: "" if value in _NOTHING else value for name, value in raw.items()}
    array = kept["ArrayJobID"]
    return Job(
        job_id=kept["JobID"],
        array_job_id=array,
        array_tasks=tuple(f"{array}_{i}" for i in _indices(kept["ArrayTaskID"])),
        state=kept["State"],
        reason=raw["Reason"],
        exit_code=_read_exit_code(kept["exit_code"]),
        restarts=int(kept["RestartCnt"] or 0),
        num_nodes=int(kept["NumNodes"] or 0),
        nodes=kept["NodeList"],
        partition=kept["Partition"],
        time_used=kept["TimeUsed"],
        time_limit=kept["TimeLimit"],
        start=kept["StartTime"],
        user=kept["UserName"],
        script=kept["Command"],
        name=kept["Name"].removesuffix("|"),
    )


def _read_exit_code(text: str) -> str:
    """Return code:signal, which newer squeues print; that of 22.05 prints what wait(2) gives."""
    if not text.isdecimal():
        return text or "0:0"
    status = int(text)
    return f"{status >> 8}:{status & 127}"


def _indices(text: str) -> Iterator[int]:
    """Yield the tasks of an array: "7" of one that runs, "1-3,9%2" of those that wait."""
    for part in filter(None, text.partition("%")[0].split(",")):
        numbers = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if numbers is not None:  # "..." where there are too many to be shown
            first, last, step = numbers.groups()
            yield from range(int(first), int(last or first) + 1, int(step or 1))


def _ask_accounting(names: list[str], seconds: float) -> list[Job]:
    """Return what the accounting database knows, else the file of ended jobs, else nothing."""
    if not names:
        return []
    ids = ",".join(name.removesuffix(ANY_TASK) for name in names)
    wanted = (f"--jobs={ids}", "--noheader", "--parsable2")
    told = _run(("sacct", "--allocations", *wanted, "-o", "JobIDRaw,JobID,State,ExitCode"), seconds)
    if told:
        return read_sacct(told)
    file = ("sacct", "--completion", *wanted, "-o", "JobID,JobID,State,ExitCode")
    return read_sacct(_run(file, seconds) or "")


def _run(command: tuple[str, ...], seconds: float) -> str | None:
    try:
        done = subprocess.run(
            command, env=environment(command[0]), capture_output=True, text=True, timeout=seconds,
            check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
