"""What code and which versions a result came from."""

import functools
import importlib.metadata
import os
import platform
import socket
import subprocess
from pathlib import Path
from typing import Any

import pwmray

_ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def code() -> dict[str, str | None]:
    """Return the versions of this code and of the packages that can change a result."""
    return {
        "code_version": pwmray.__version__,
        "git_commit": _git_commit(),
        "python_version": platform.python_version(),
        "torch_version": _version("torch"),
        "mujoco_version": _version("mujoco"),
        "ray_version": _version("ray"),
    }


def process() -> dict[str, Any]:
    """Return where this process runs."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of this checkout, with "+changes" when tracked files differ from it."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return commit[:12] + ("+changes" if changes else "")


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(_ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
