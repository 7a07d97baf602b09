"""Filling in the batch script of a job from a profile and a sweep's command."""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.profiles import Profile

_HERE = Path(__file__).resolve().parent
_TEMPLATE = _HERE / "ray.sbatch"
_MEANINGFUL = "%\\\n"  # characters that sbatch replaces in the name of an output file


@dataclass(frozen=True)
class Task:
    """What a job is to run, and where it writes."""

    sweep: str  # its name
    driver: Sequence[str]  # the sweep's file and its options
    command: str  # that a person types to go on with the sweep
    jobs_folder: Path  # absolute
    folder: Path  # the driver's working directory
    num_jobs: int = 1  # of an array of such jobs

    @property
    def log(self) -> Path:
        """The job's log; its name has Slurm's %j, or %A and %a of an array, to be filled in."""
        return self.jobs_folder / ("%A_%a.log" if self.num_jobs > 1 else "%j.log")


def fill(profile: Profile, task: Task) -> str:
    """Return the script that runs `task` on the nodes of `profile`.

    Raises ValueError for a path with a character that sbatch would replace.
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
        # Activating may change the directory; the sweep's paths are relative to this one.
        "FOLDER": f"cd {shlex.quote(str(task.folder))}" if profile.activate else "",
        "PROFILE": shlex.quote(profile.name),
        "COMMAND": shlex.quote(task.command),
        # The activated Python, or without activation the one that submits.
        "PYTHON": "python" if profile.activate else shlex.quote(sys.executable),
        "JOB": shlex.quote(str(_HERE / "job.py")),
        "ARGUMENTS": shlex.join(_arguments(profile, task)),
    }
    lines = _TEMPLATE.read_text().splitlines()
    filled = [_fill_line(line, parts) for line in lines]
    return "\n".join(line for line in filled if line is not None) + "\n"


def _fill_line(line: str, parts: dict[str, str]) -> str | None:
    """Return a line with its @MARKS@ filled in, None if nothing is left of it."""
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
        "--open-mode=append",  # a requeued job goes on in the same log
        f"--nodes={profile.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={profile.cpus}",
        f"--time={profile.time_limit}",
        "--requeue",
        "--no-kill",  # the sweep goes on without a lost node
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
    """Quote a path for a #SBATCH line if it has any unusual character."""
    text = str(path)
    if re.fullmatch(r"[\w/.%+=:@,-]+", text):
        return text
    escaped = text.replace('"', '\\"')
    return f'"{escaped}"'
