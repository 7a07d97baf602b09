"""Sweeps across hosts that share a folder and a network, and nothing else."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pwmray.registry import CLAIM_FILE, Status, claim
from tests import hosts
from tests.slurm_folder import (
    PROFILES,
    ROOT,
    SECONDS,
    STOPPING,
    SlurmFolder,
    assert_each_ran_whole,
)
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

PWMRAY = [sys.executable, "-m", "pwmray"]
TOKEN = """
import sys, urllib.error, urllib.request
where, token = sys.argv[1:]
for headers in ({}, {"Authorization": f"Bearer {open(token).read()}"}):
    request = urllib.request.Request(f"http://{where}/api/version", headers=headers)
    try:
        print(urllib.request.urlopen(request, timeout=10).status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""


@pytest.fixture(scope="module")
def slurm():
    yield from hosts.start_or_skip()


@pytest.fixture
def place(slurm):
    with tempfile.TemporaryDirectory(prefix="pw", dir=slurm.folder) as folder:
        (Path(folder) / "profiles.toml").write_text(PROFILES.replace("dashboard = false", ""))
        yield SlurmFolder(slurm, Path(folder), Path(folder) / "data")
        slurm.clear()


def on(host: str, place: SlurmFolder, *command: str) -> str:
    """Return what a command prints on a host, in the folder that all of them see."""
    done = subprocess.run(
        [*place.slurm.enter(host), "env", f"--chdir={place.folder}", *command],
        env={**place.slurm.environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def claims_on_two_hosts(place: SlurmFolder) -> list[Path]:
    """Wait until trials run on two hosts, whose claims are among those that are returned."""
    claims = [folder / CLAIM_FILE for folder in place.trial_folders()]

    def hosts() -> set[str | None]:
        return {claim.holder(path).get("host") for path in claims} - {None}

    wait_for(lambda: len(hosts()) >= 2, SECONDS, place.logs)
    return claims


def test_trials_of_a_cancelled_job_are_free_at_once_on_all_hosts(place):
    place.hold()
    (job,) = place.submitted("--profile", "any", "--nodes", "2")
    claims = claims_on_two_hosts(place)
    place.slurm.run("scancel", str(job))
    place.wait_for_all()
    assert {record.status for record in place.records()} == {Status.CANCELLED}, place.logs()
    assert not any(path.exists() for path in claims)


def test_sweep_on_two_hosts_is_seen_from_a_third_and_goes_on_after_its_job_was_told_to_end(
    place,
):
    place.hold()
    (job,) = place.submitted("--profile", "any", "--nodes", "2")
    claims_on_two_hosts(place)
    place.wait_for_rows(gpu_type=None)
    watched = on("login", place, *PWMRAY, "watch", "tiny_gpus", "--once")
    assert re.search(rf" {job} +n[1-3] +cpu", watched), watched
    where = json.loads((place.sweep_folder / "jobs" / f"{job}.json").read_text())
    assert f":{where['dashboard']} " in watched
    shown = on("login", place, sys.executable, "-c", TOKEN, where["dashboard"], where["token"])
    assert shown.split() == ["401", "200"]

    place.slurm.run("scancel", "--signal=USR1", "--batch", str(job))
    place.wait_for_words(STOPPING)
    place.release()
    assert place.wait(job)["JobState"] == "COMPLETED", place.logs()
    assert int(place.slurm.job(job)["Restarts"]) >= 1
    assert_each_ran_whole(place)
    nodes = [record.all("slurm_node") for record in place.records()]
    assert [record.all("host") for record in place.records()] == nodes
    assert len(set().union(*nodes)) >= 2
    assert max(record.all("epoch")[-1] for record in place.records()) >= 3
