"""A profile and a sweep's command as a batch script."""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.profiles import Profile

_HERE = Path(__file__).resolve().parent
_TEMPLATE = _HERE / "ray.sbatch"
_MEANINGFUL = "%\\\n"  # in the name of an output file


@dataclass(frozen=True)
class Task:
    """What a job is to run, and where it writes."""

    sweep: str  # its name
    driver: Sequence[str]  # the sweep's file and its options
    command: str  # what a person types to go on with it
    jobs_folder: Path  # absolute
    folder: Path  # where the driver runs
    num_jobs: int = 1  # alike, as an array

    @property
    def log(self) -> Path:
        """The job's log, with Slurm's %j, or %A and %a of an array, in its name."""
        return self.jobs_folder / ("%A_%a.log" if self.num_jobs > 1 else "%j.log")


def fill(profile: Profile, task: Task) -> str:
    """Return the script that submits `task` as `profile` says.

    Raises ValueError for a path that has another meaning in it.
    """
    for path in (task.folder, task.jobs_folder):
        wrong = [character for character in _MEANINGFUL if character in str(path)]
        if wrong:
            raise ValueError(
                f"the path {str(path)!r} has {wrong[0]!r} in it, which sbatch replaces"
            )
    parts = {
        "OPTIONS": "\n".join(f"#SBATCH {option}" for option in _options(profile, task)),
        "ACTIVATE": "\n".join(profile.activate),
        # It may have gone to where its environment lies; the sweep's paths are from here.
        "FOLDER": f"cd {shlex.quote(str(task.folder))}" if profile.activate else "",
        "PROFILE": shlex.quote(profile.name),
        "COMMAND": shlex.quote(task.command),
        # What is activated decides; without it, what submits also runs.
        "PYTHON": "python" if profile.activate else shlex.quote(sys.executable),
        "JOB": shlex.quote(str(_HERE / "job.py")),
        "ARGUMENTS": shlex.join(_arguments(profile, task)),
    }
    lines = _TEMPLATE.read_text().splitlines()
    filled = [_fill_line(line, parts) for line in lines]
    return "\n".join(line for line in filled if line is not None) + "\n"


def _fill_line(line: str, parts: dict[str, str]) -> str | None:
    """Return a line with what its marks stand for; None for one that comes to nothing."""
    if "@" not in line:
        return line
    for name, text in parts.items():
        line = line.replace(f"@{name}@", text)
    return line or None


def _options(profile: Profile, task: Task) -> list[str]:
    options = [
        f"--job-name={task.sweep}-{profile.name}",
        f"--chdir={_quoted(task.folder)}",
        f"--output={_quoted(task.log)}",
        "--open-mode=append",  # of a job that is requeued, too
        f"--nodes={profile.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={profile.cpus}",
        f"--time={profile.time_limit}",
        "--requeue",
        "--no-kill",  # the sweep goes on without a node that is lost
        f"--signal=B:USR1@{profile.signal_seconds}",  # B: to the script alone, not to Ray's steps
    ]
    wanted = {
        "--partition": profile.partition,
        "--account": profile.account,
        "--qos": profile.qos,
        "--gres": profile.gres,
        "--mem": f"{profile.memory_gb}G" if profile.memory_gb else "",
        "--array": f"1-{task.num_jobs}" if task.num_jobs > 1 else "",
    }
    return [*options, *(f"{k}={v}" for k, v in wanted.items() if v), *profile.sbatch]


def _arguments(profile: Profile, task: Task) -> list[str]:
    values = {
        "--jobs": task.jobs_folder,
        "--cpus": profile.cpus,
        "--gres": profile.gres,
        "--gpu-type": profile.gpu_type,
        "--scratch": profile.scratch,
        "--interface": profile.interface,
        "--signal-seconds": profile.signal_seconds,
        "--max-requeues": profile.max_requeues,
    }
    flags = {"--dashboard": profile.dashboard, "--simulated-gpus": profile.simulated_gpus}
    return [
        *(f"{name}={value}" for name, value in values.items() if value != ""),
        *(name for name, is_set in flags.items() if is_set),
        "--",
        *task.driver,
    ]


def _quoted(path: Path) -> str:
    """Quote a path as #SBATCH lines want it, where it has anything unusual."""
    text = str(path)
    if re.fullmatch(r"[\w/.%+=:@,-]+", text):
        return text
    escaped = text.replace('"', '\\"')
    return f'"{escaped}"'
