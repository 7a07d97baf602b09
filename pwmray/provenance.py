"""What code and which versions a result came from."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pwmray

_JOB = {
    "slurm_job_id": "SLURM_JOB_ID",
    "slurm_array_job_id": "SLURM_ARRAY_JOB_ID",
    "slurm_array_task_id": "SLURM_ARRAY_TASK_ID",
    "slurm_cluster": "SLURM_CLUSTER_NAME",
    "slurm_uid": "SLURM_JOB_UID",  # whose it is: who began a trial's record may be another user
    "profile": "PWMRAY_PROFILE",  # these two are set by cluster/
    "log": "PWMRAY_LOG",
}
PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
# What git tells those that it starts, as its hooks, of the repository that it is at work in.
_OF_ANOTHER = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")


@functools.cache
def code() -> dict[str, str | None]:
    """Return the versions of this code and of the packages that can change a result."""
    return {
        "code_version": pwmray.__version__,
        "git_commit": _git_commit(),
        "python_version": platform.python_version(),
        "torch_version": _version("torch"),
        "mujoco_version": _version("mujoco"),
        "dm_control_version": _version("dm_control"),
        "ray_version": _version("ray"),
    }


def process() -> dict[str, Any]:
    """Return where this process runs."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "slurm_uid": os.environ.get("SLURM_JOB_UID"),
        "slurm_node": os.environ.get("SLURMD_NODENAME"),
    }


def job() -> dict[str, str]:
    """Return the Slurm job that this process runs in, its ids and log; nothing outside of one."""
    return {name: os.environ[key] for name, key in _JOB.items() if key in os.environ}


@functools.cache
def package_files() -> list[Path]:
    """Return the files of this package that are code, those new to git too; none of a zip's."""
    # An editor may keep a link there that leads nowhere, as `.#config.py`.
    found = (path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".cpp"))
    return sorted(path for path in found if path.is_file())


def digest_files(files: Iterable[Path], name: str = "") -> str | None:
    """Return 8 hex digits over some files, and a name of what they are; None without files."""
    found, num_files = hashlib.sha256(name.encode()), 0
    named = {str(p.relative_to(PACKAGE)) if p.is_relative_to(PACKAGE) else p.name: p for p in files}
    for shown, path in sorted(named.items()):  # by names that are alike wherever the files lie
        found.update(f"{shown}\0".encode() + path.read_bytes() + b"\0")
        num_files += 1
    return found.hexdigest()[:8] if num_files else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of this checkout, with "+changes" when tracked files differ from it.

    Behind these stands a hash of the package: trials under unlike changes are to be told apart.
    """
    # A copy of this code may lie in a repository that knows nothing of it.
    is_ours = _git("ls-files", "--error-unmatch", str(Path(__file__).resolve())) is not None
    commit = _git("rev-parse", "HEAD") if is_ours else None
    if commit is None:
        return None
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return commit[:12] + (f"+changes.{digest_files(package_files())}" if changes else "")


def _git(*arguments: str) -> str | None:
    # Git asks before it looks into another user's checkout; its code runs in this process already.
    trusted = ["-c", f"safe.directory={ROOT}"]
    command = ["git", *trusted, "-C", str(ROOT), *arguments]
    kept = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER}
    try:
        done = subprocess.run(
            command, env=kept, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
