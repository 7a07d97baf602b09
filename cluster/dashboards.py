"""How to open the Ray dashboards of running jobs from outside: one ssh command for each."""

import functools
import json
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cluster.submissions import JOBS_FOLDER
from pwmray import slurm_jobs
from pwmray.slurm_jobs import Job

_PORT = 8265  # on the user's own machine, for the first job; the next ones follow


def describe(sweep_folders: Iterable[Path], jobs: Sequence[Job]) -> list[str]:
    """Return a line for each of this user's running jobs of some sweeps that has a dashboard."""
    found = [each for folder in sweep_folders for each in _read(folder, jobs)]
    login = f"{slurm_jobs.user()}@{_host()}" if found else ""
    return [
        f"dashboard of {job_id}: ssh -N -L {port}:{where['dashboard']} {login}   then "
        f"http://localhost:{port}, which asks for the token in {where['token']}"
        for port, (job_id, where) in enumerate(found, start=_PORT)
    ]


@functools.cache
def _host() -> str:
    """Return this machine's name for others. It takes long if no name server answers.

    The machine's own /etc/hosts may have its name on the line of localhost.
    """
    name = socket.getfqdn()
    return socket.gethostname() if name.startswith("localhost") else name


def _read(sweep_folder: Path, jobs: Iterable[Job]) -> Iterator[tuple[str, dict[str, str]]]:
    ours = (job for job in jobs if job.user == slurm_jobs.user())  # who alone may read the token
    for job in ours:
        path = sweep_folder / JOBS_FOLDER / f"{job.job_id}.json"
        try:
            where = json.loads(path.read_text()) if job.state == "RUNNING" else {}
        except FileNotFoundError:  # its Ray is not up yet
            continue
        if "dashboard" in where:
            yield job.shown_id, where
