"""Real sweeps, and a search, of real trials on a real Slurm of three nodes, submitted by hand."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cluster import submissions
from pwmray import registry
from pwmray.registry import Record, Status
from pwmray.results import read_table
from tests.slurm_folder import (
    PROFILES,
    SECONDS,
    STOPPING,
    SlurmFolder,
    assert_each_ran_whole,
    num_rows,
)
from tests.tiny_gpus import NUM_ROWS
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

# What another job, and a person's own shell, leave to a submission.
OTHERS = {
    "SLURM_JOB_ID": "5", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "1",
    "SLURM_MEM_PER_CPU": "100", "SLURM_RESTART_COUNT": "3", "SLURM_TIME_FORMAT": "relative",
    "SBATCH_TIMELIMIT": "7", "SBATCH_PARTITION": "h200", "SQUEUE_PARTITION": "h200",
}  # fmt: skip
# Rows of half a second, as in tests/tiny_gpus.py.
SEARCH = """
import dataclasses
from tests import held, tiny_gpus, tiny_search
hold = {**tiny_search.search.hold, **tiny_gpus.SETTINGS, "epochs": 8}
search = dataclasses.replace(tiny_search.search, hold=hold)
if __name__ == "__main__":
    held.heed_hold(tiny_gpus.NUM_ROWS)
    search.main()
"""
H200_NODES = ("--partition=h200", "--nodes=2", "--exclusive", "--output=/dev/null")
NODE_TYPES = {"n1": "H100", "n2": "H200", "n3": "H200"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The sweep's data for all tests: whichever job comes first collects it."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def place(slurm, data):
    with tempfile.TemporaryDirectory(prefix="pw") as folder:
        (Path(folder) / "profiles.toml").write_text(PROFILES)
        (Path(folder) / "an environment").symlink_to(Path(sys.executable).parent.parent)
        yield SlurmFolder(slurm, Path(folder), data)
        slurm.clear()


@contextlib.contextmanager
def ray_of_another(address: str):
    """Run a Ray head with the default ports at a node's address, as another user would."""
    with tempfile.TemporaryDirectory(prefix="o") as folder:
        options = [f"--node-ip-address={address}", "--port=6379", "--include-dashboard=false"]
        options += ["--num-cpus=8", '--resources={"H100": 8}', f"--temp-dir={folder}", "--block"]
        log = open(Path(folder) / "log", "w")  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", *options],
            env={**os.environ, "RAY_AUTH_MODE": "disabled"}, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            wait_for(lambda: "Ray runtime started" in (Path(folder) / "log").read_text())
            yield f"{address}:6379"
        finally:
            process.terminate()
            process.wait(60)
            log.close()


def test_two_profiles_share_a_sweep_beside_the_ray_of_another_user(place):
    with ray_of_another(place.slurm.nodes[0].address) as others:
        h100, h200 = place.submitted("--profile", "h100", "--profile", "h200")
        queued = {job.job_id: job for job in submissions.read(place.sweep_folder)}
        for job in (h100, h200):
            assert place.wait(job)["JobState"] == "COMPLETED", place.logs()
    assert_each_ran_whole(place)
    for gpu_type, job in (("H100", h100), ("H200", h200)):
        for record in place.records(gpu_type):
            assert set(record.all("slurm_job_id")) == {str(job)}
            assert record.last("log") == queued[str(job)].log
            assert NODE_TYPES[record.last("slurm_node")] == gpu_type
        log = Path(queued[str(job)].log).read_text()
        assert "2 of 2 trials done" in log and others not in log


def test_trials_of_one_job_land_on_nodes_with_their_gpus(place):
    (job,) = place.submitted("--profile", "any")
    assert place.wait(job)["JobState"] == "COMPLETED", place.logs()
    assert_each_ran_whole(place)
    for gpu_type in ("H100", "H200"):
        nodes = {record.last("slurm_node") for record in place.records(gpu_type)}
        assert {NODE_TYPES[node] for node in nodes} == {gpu_type}


def test_job_is_the_profiles_whatever_it_inherits(place):
    (job,) = place.submitted("--profile", "bare", "--gpu-types", "H100", **OTHERS)
    ended = place.wait(job)
    assert ended["JobState"] == "COMPLETED", place.logs()
    assert (ended["Partition"], ended["TimeLimit"]) == ("h100", "00:30:00")
    assert "driver: " + str(place.folder / "an environment" / "bin" / "python") in place.logs()
    assert_each_ran_whole(place, "H100")
    for record in place.records("H100"):
        assert record.all("slurm_array_job_id") == []
        assert Path(record.last("log")).name == f"{job}.log"


def test_job_told_of_its_end_requeues_itself_and_loses_nothing(place):
    place.hold()
    (job,) = place.submitted("--profile", "h200", "--gpu-types", "H200")
    place.wait_for_rows()
    nodes = ("scontrol", "update", "nodename=n2,n3")
    place.slurm.run(*nodes, "state=DRAIN", "reason=test")  # it is to wait until it was looked at
    before = int(place.slurm.job(job)["Restarts"])  # Slurm itself requeues what it cannot launch
    place.slurm.run("scancel", "--signal=USR1", "--batch", str(job))
    place.wait_for_words(STOPPING)
    place.release()
    assert int(place.wait(job, "PENDING")["Restarts"]) == before + 1, place.logs()
    stopped = [num_rows(folder) for folder in place.trial_folders("H200")]
    for record in place.records("H200"):
        assert (record.status, record.last("reason")) == (Status.QUEUED, "preempted")
    # Not as long as without a limit, nor as short as where Slurm does not answer.
    assert re.search(r"preempted: trials stop at their next rows, within \d+ min", place.logs())
    assert "within 60 min" not in place.logs()
    place.slurm.run(*nodes, "state=RESUME")
    assert place.wait(job)["JobState"] == "COMPLETED", place.logs()
    assert_each_ran_whole(place, "H200")
    assert max(stopped) >= 3
    assert [record.all("epoch")[-1] for record in place.records("H200")] == stopped


def test_sweep_goes_on_without_a_node_that_is_lost(place):
    place.hold()
    (job,) = place.submitted("--profile", "h200", "--gpu-types", "H200")
    lost = place.wait_for_rows("n3")
    owner = registry.running_elsewhere(lost)
    place.slurm.run("scontrol", "update", "nodename=n3", "state=DOWN", "reason=test")
    # Another node may take it up at once.
    wait_for(lambda: registry.running_elsewhere(lost) != owner, SECONDS, place.logs)
    place.release()
    assert place.wait(job)["JobState"] == "COMPLETED", place.logs()
    assert_each_ran_whole(place, "H200")
    again = registry.read(lost)
    assert again.last("slurm_node") == "n2"
    assert again.all("epoch")[-1] >= NUM_ROWS - 1  # it has a checkpoint at every row


def test_job_begins_again_when_its_first_node_is_lost(place):
    place.hold()
    (job,) = place.submitted("--profile", "hasty", "--gpu-types", "H200")
    place.wait_for_rows()
    first = place.slurm.job(job)["BatchHost"]
    place.slurm.lose(first)
    place.wait(job, "PENDING")
    place.release()
    place.slurm.find_again(first)
    assert place.wait(job)["JobState"] == "COMPLETED", place.logs()
    assert f"{first}, the job's first node, is lost: it is requeued" in place.logs()
    assert_each_ran_whole(place, "H200")
    assert max(record.all("epoch")[-1] for record in place.records("H200")) >= 2


def test_requeued_job_keeps_its_trials_in_the_queue(place):
    place.hold()
    (job,) = place.submitted("--profile", "h200", "--gpu-types", "H200")
    place.wait_for_rows()
    nodes = ("scontrol", "update", "nodename=n2,n3")
    place.slurm.run(*nodes, "state=DRAIN", "reason=test")  # it is to wait until it was looked at
    place.slurm.run("scontrol", "requeue", str(job))
    place.slurm.wait(job, "PENDING")  # none of its processes is left
    assert {r.status for r in place.records("H200")} == {Status.QUEUED}, place.logs()
    assert "requeued by Slurm" in {r.last("reason") for r in place.records("H200")}


def test_cancelled_job_leaves_trials_that_the_next_one_takes_up(place):
    place.hold()
    before_it = place.slurm.submit("#!/bin/bash\nsleep 1000\n", *H200_NODES)
    (job,) = place.submitted("--profile", "h200", "--gpu-types", "H200")
    refused = place.submit("--profile", "h200", "--gpu-types", "H200")
    assert refused.returncode == 2
    assert re.fullmatch(rf"error: job {job} of this sweep .* add --again .*\n", refused.stderr)
    place.slurm.run("scancel", str(before_it))
    place.wait_for_rows()

    place.slurm.run("scancel", str(job))
    place.wait(job, "CANCELLED")  # none of its processes is left
    assert {r.status for r in place.records("H200")} == {Status.CANCELLED}, place.logs()
    assert {r.last("reason") for r in place.records("H200")} == {"cancelled by SIGTERM"}

    place.release()
    array = ["--nodes", "1", "--jobs", "2"]  # two drivers, on a node each
    (again,) = place.submitted("--profile", "h200", *array, "--gpu-types", "H200")
    place.wait_for_all()
    assert_each_ran_whole(place, "H200")
    assert max(record.all("epoch")[-1] for record in place.records("H200")) >= 2
    for record in place.records("H200"):
        assert record.last("slurm_array_job_id") == str(again)
        assert record.last("slurm_array_task_id") in ("1", "2")
        assert Path(record.last("log")).name == f"{again}_{record.last('slurm_array_task_id')}.log"


def test_search_is_on_all_nodes_and_goes_on_when_its_job_was_told_of_its_end(place):
    place.hold()
    (place.folder / "search.py").write_text(SEARCH)
    done = place.submit("--profile", "any", file="search.py")
    assert done.returncode == 0, done.stderr
    results = place.folder / "results"
    (submitted,) = submissions.read(results / "tiny_search")
    job = int(submitted.job_id)

    def records() -> list[Record]:
        return [registry.read(path) for path in (results / "trials").glob("*")]

    def nodes() -> set[str]:
        return {node for record in records() for node in record.all("slurm_node")}

    wait_for(lambda: nodes() == {*NODE_TYPES}, SECONDS, Path(submitted.log).read_text)
    place.slurm.run("scancel", "--signal=USR1", "--batch", str(job))
    place.wait_for_words(STOPPING)
    place.release()
    assert place.wait(job)["JobState"] == "COMPLETED", Path(submitted.log).read_text()
    assert int(place.slurm.job(job)["Restarts"]) >= 1
    log = Path(submitted.log).read_text()
    assert "tiny_search, the best first" in log and "5 of 5: " in log
    found = read_table(results / "tiny_search" / "trials.arrow")
    assert found.num_rows == 5
    assert set(found["status"].to_pylist()) <= {"EVALUATED", "CANCELLED"}
    assert "EVALUATED" in found["status"].to_pylist()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--profile", "elsewhere"], "profile elsewhere: unknown partition 'h300'; did you mean"),
        (["--profile", "not-ours"], "profile not-ours: account 'physics' may not use partition"),
        (["--profile", "l40s"], "2 trials ask for an H100, which none of the profiles l40s has"),
        (["--profile", "h100"], "2 trials ask for an H200, which none of the profiles h100 has"),
        (["--profile", "h20"], "unknown profile 'h20'; did you mean 'h200'?"),
        (["--profile", "any", "--nodes", "4"], "profile any: nodes is 4, but partition main has"),
        ([], "--profile is missing"),
    ],
)
def test_what_the_cluster_has_not_is_refused_before_anything_is_queued(place, options, told):
    done = place.submit(*options)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {told}"), done.stderr
    assert done.stderr.count("\n") == 1
    assert not (place.folder / "results").exists()


def test_job_may_wait_for_nodes_that_are_away(place):
    nodes = ("scontrol", "update", "nodename=n2,n3")
    place.slurm.run(*nodes, "state=DRAIN", "reason=test")
    done = place.submit("--profile", "h200", "--gpu-types", "H200")
    assert done.returncode == 0, done.stderr
    assert "note: profile h200: the job waits for nodes: n2, n3 are away or reserved" in done.stdout
    (job,) = (int(job.job_id) for job in submissions.read(place.sweep_folder))
    assert place.slurm.job(job)["JobState"] == "PENDING"


def test_dry_run_shows_the_script_and_writes_nothing(place):
    done = place.submit("--profile", "h100", "--profile", "h200", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("#SBATCH --gres=gpu:h") == 2
    assert not (place.folder / "results").exists()
    assert place.slurm.run("squeue", "--noheader") == ""
