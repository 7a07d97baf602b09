"""The real Slurm that other tests run on: it starts, runs jobs on its GPUs, and ends whole."""

import os
import subprocess
from pathlib import Path

import pytest

from tests import minislurm
from tests.minislurm import MiniSlurm
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

GPU_JOB = """#!/bin/bash
echo "$SLURMD_NODENAME $SLURM_GPUS_ON_NODE $CUDA_VISIBLE_DEVICES"
"""
LONG_JOB = """#!/bin/bash
setsid sleep 1000 &
echo $! > pid
sleep 1000
"""


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("gpu", "seen"), [("h100:2", ["n1 2 0,1"]), ("h200:1", ["n2 1 0", "n3 1 0"])]
)
def test_job_gets_the_gpus_that_it_asks_for(slurm, gpu, seen):
    job = slurm.submit(GPU_JOB, f"--gres=gpu:{gpu}", "--output=gpus-%j.log")
    assert slurm.wait(job)["JobState"] == "COMPLETED"
    assert (slurm.folder / f"gpus-{job}.log").read_text().strip() in seen


def test_node_has_an_address_of_its_own(slurm):
    shown = slurm.run("scontrol", "--oneliner", "show", "node")
    assert all(f"NodeAddr={node.address} " in shown for node in slurm.nodes)
    assert len({node.address for node in slurm.nodes}) == 3


def test_unknown_partition_is_refused(slurm):
    with pytest.raises(subprocess.CalledProcessError) as refused:
        slurm.submit(GPU_JOB, "--partition=gold")
    assert "invalid partition" in refused.value.stderr


def test_requeued_job_runs_again_under_its_id(slurm):
    job = slurm.submit("#!/bin/bash\nsleep 1000\n", "--requeue")
    slurm.wait(job, "RUNNING")
    slurm.run("scontrol", "requeue", str(job))
    assert slurm.wait(job, "RUNNING")["Restarts"] == "1"
    slurm.clear()


def test_it_ends_with_all_that_it_started(slurm):
    """`slurm` is there only to skip or fail where Slurm is missing."""
    with MiniSlurm() as other:
        job = other.submit(LONG_JOB, "--output=/dev/null")
        other.wait(job, "RUNNING")
        written = other.folder / "pid"
        wait_for(lambda: written.exists() and written.read_text())
        pids = [*other.pids, *([int(written.read_text())] if os.geteuid() == 0 else [])]
        assert all(map(is_running, pids))
    assert not any(map(is_running, pids))
    assert not other.folder.exists()


def test_missing_slurm_skips_but_fails_where_it_is_required(monkeypatch):
    monkeypatch.setattr(minislurm, "_PATH", "")
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("PWMRAY_REQUIRE_SLURM", raising=False)
    with pytest.warns(UserWarning, match="no munged"), pytest.raises(pytest.skip.Exception):
        next(minislurm.start_or_skip())
    monkeypatch.setenv("PWMRAY_REQUIRE_SLURM", "1")
    with pytest.raises(AssertionError, match="it is required"):
        next(minislurm.start_or_skip())
