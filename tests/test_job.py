"""What a job does with its Ray and its driver, over a Slurm that is made up."""

import shlex
import signal
import sys

import pytest

from cluster import job, slurm
from pwmray.interruption import GO_ON, TERMINATED

ARRAY = {"SLURM_JOB_ID": "41", "SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": "3"}


@pytest.fixture
def asked(monkeypatch):
    """What Slurm was asked; it answers nothing."""
    commands = []
    monkeypatch.setattr(slurm, "ask", lambda *command: commands.append(shlex.join(command)) or "")
    return commands


def run(monkeypatch, tmp_path, code, number=None):
    """Run a job whose driver ends with `code`, after a signal if it is given one."""
    for name, value in {**ARRAY, "SLURM_JOB_NODELIST": "n1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    monkeypatch.setattr(job.Job, "run", lambda self: setattr(self, "signal", number) or code)
    options = ["--cpus", "1", "--max-requeues", "1", "--", "sweep.py"]
    monkeypatch.setattr(sys, "argv", ["job.py", "--jobs", str(tmp_path), *options])
    return job.main()


def test_task_of_an_array_requeues_itself_alone(asked, monkeypatch, tmp_path):
    assert run(monkeypatch, tmp_path, GO_ON, signal.SIGUSR1) == 0
    assert asked == ["scontrol requeue 41_3"]


def test_cancelled_job_does_not_requeue_itself(asked, monkeypatch, tmp_path):
    assert run(monkeypatch, tmp_path, GO_ON, signal.SIGTERM) == TERMINATED
    assert asked == []
