"""What a job does with its Ray and its driver, on a Slurm that is made up."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from cluster import job, slurm
from cluster.slurm import SlurmError
from pwmray.interruption import GO_ON, TERMINATED
from tests.commands_here import put_command

ROOT = Path(__file__).parent.parent
ARRAY = {"SLURM_JOB_ID": "41", "SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": "3"}
# Every node is this machine. What is asked is written down.
SCONTROL = """
echo "$@" >> asked
case "$*" in
    *"show job"*) echo "JobId=41 EndTime=Unknown  Nodes=n1 CPU_IDs=0 Mem=0 GRES= " ;;
    *"show hostnames"*) echo "$3" | tr , "\\n" ;;
    *"show node"*) echo "NodeName=n1 NodeAddr=127.0.0.1" ;;
esac
"""
# In place of a Ray, a head that listens and a worker that waits.
SRUN = f"""
echo "$@" >> started
exec {sys.executable} -c '
import signal, socket, sys
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(0))
role, ip, port, _ = sys.argv[-4:]
if role == "head":
    listening = socket.create_server((ip, int(port)))
while True:
    signal.pause()
' "$@"
"""


class Place(NamedTuple):
    """A folder with a driver to be written, in an allocation of one node."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def run(self, driver: str, **variables: str) -> subprocess.CompletedProcess:
        """Run a job with this driver in a process of its own."""
        (self.folder / "driver.py").write_text(driver)
        here = {"SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "n1", "SLURMD_NODENAME": "n1"}
        command = [sys.executable, str(ROOT / "cluster" / "job.py"), "--jobs", str(self.folder)]
        return subprocess.run(
            [*command, "--cpus", "1", "--", "driver.py"],
            cwd=self.folder, env={**os.environ, "PYTHONPATH": str(ROOT), **here, **variables},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def lines(self, name: str) -> list[str]:
        return (self.folder / name).read_text().splitlines()


@pytest.fixture
def place(tmp_path, monkeypatch):
    put_command(tmp_path, monkeypatch, "scontrol", SCONTROL)
    put_command(tmp_path, monkeypatch, "srun", SRUN)
    return Place(tmp_path, monkeypatch)


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


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_job_ends_as_its_driver_does(place, code):
    assert place.run(f"raise SystemExit({code})").returncode == code
    assert not list(place.folder.glob(".*.token"))


def test_driver_that_is_killed_is_no_bug_of_its_own(place):
    done = place.run("import os; os.kill(os.getpid(), 9)")
    assert done.returncode == 128 + signal.SIGKILL
    assert "driver ended with -9" in done.stdout


def test_job_asks_again_where_slurm_has_a_weak_moment(place):
    weak = "test -e weak || { touch weak; echo Unable to contact slurm controller >&2; exit 1; }"
    put_command(place.folder, place.monkeypatch, "scontrol", f"{weak}\n{SCONTROL}")
    assert place.run("").returncode == 0


def test_question_that_slurm_never_answers_fails_as_it_says(monkeypatch, tmp_path):
    monkeypatch.setattr(slurm, "PATIENCE_SECONDS", 0.0)
    put_command(tmp_path, monkeypatch, "scontrol", "echo Access denied >&2; exit 1")
    with pytest.raises(SlurmError, match=r"^Access denied$"):
        slurm.ask_again("scontrol", "requeue", "5")


def test_ray_has_the_token_where_the_job_inherits_nothing(place):
    place.run("")
    (step,) = place.lines("started")
    assert step.startswith("--export=ALL ")
