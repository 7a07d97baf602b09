"""Measure submitting, and a job until its trials train, on a real Slurm on this machine.

    ./run python benchmarks/submitting.py --repeat 3

Submits the tests' sweep for H200s to two nodes. Prints one row of a table in docs/performance.md
for each repetition: how long the person waits, then seconds since the job started.
"""

import argparse
import datetime
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cluster import submissions
from pwmray import registry
from pwmray.commands import CommandParser, run_command
from pwmray.registry import CURVE_FILE, Status
from pwmray.results import read_table
from pwmray.sweep_options import count
from pwmray.system import quieten_dm_control

_ROOT = Path(__file__).resolve().parent.parent
_PROFILES = """
[h200]
partition = "h200"
gpus = 1
gpu_type = "H200"
cpus = 1
nodes = 2
time_limit = "30"
simulated_gpus = true
"""
_SECONDS = 300.0


class Times(NamedTuple):
    """Seconds: of the command, and from the job's start to each of these."""

    submit: float
    ray: float  # Ray's head listens
    training: float  # a trial runs
    row: float  # and has written its first row
    all_training: float  # trials run on both nodes


def measure(slurm: Any, folder: Path, data: Path) -> Times:
    """Submit the sweep to the tests' Slurm, wait until both its trials train, and cancel it."""
    (folder / "profiles.toml").write_text(_PROFILES)
    sweep = str(_ROOT / "tests" / "tiny_gpus.py")
    options = ["--profile", "h200", "--gpu-types", "H200", "--scale", "tiny"]
    places = ["--profiles", "profiles.toml", "--data", str(data)]
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, str(_ROOT / "cluster" / "submit.py"), sweep, *options, *places],
        cwd=folder, env=slurm.environment, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    submit = time.perf_counter() - started
    (job,) = submissions.read(folder / "results" / "tiny_gpus")
    where = Path(job.log).with_name(f"{job.job_id}.json")
    trials = folder / "results" / "trials"
    ray = _wait(where.exists)
    training = _wait(lambda: _num_running(trials) > 0)
    row = _wait(lambda: any(read_table(p).num_rows for p in trials.glob(f"*/{CURVE_FILE}")))
    all_training = _wait(lambda: _num_running(trials) > 1)
    begun = slurm.job(int(job.job_id))["StartTime"]
    start = datetime.datetime.fromisoformat(begun).timestamp()
    slurm.clear()
    return Times(submit, ray - start, training - start, row - start, all_training - start)


def _num_running(trials: Path) -> int:
    records = [registry.read(path) for path in trials.glob("*")]
    return sum(record.time_of(Status.RUNNING) is not None for record in records)


def _wait(is_there: Callable[[], bool]) -> float:
    """Return when that became true."""
    deadline = time.monotonic() + _SECONDS
    while not is_there():
        if time.monotonic() > deadline:
            raise ValueError(f"nothing happened for {_SECONDS:.0f} s")
        time.sleep(0.05)
    return time.time()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    return run_command(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> None:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeat", type=count, default=3, metavar="N", help="default: 3")
    chosen = parser.parse_args(arguments)
    sys.path.insert(0, str(_ROOT))
    from tests.minislurm import MiniSlurm

    print("| submitting | Ray listens | first trial trains | its first row | both nodes train |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    with MiniSlurm() as slurm, tempfile.TemporaryDirectory(prefix="b") as data:
        for _ in range(chosen.repeat):
            with tempfile.TemporaryDirectory(prefix="b") as folder:
                times = measure(slurm, Path(folder), Path(data))
            print("| " + " | ".join(f"{seconds:.1f}" for seconds in times) + " |", flush=True)


if __name__ == "__main__":
    quieten_dm_control()
    sys.exit(main())
