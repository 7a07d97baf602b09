"""Real sweeps on a Ray that the sweep starts itself, in processes of their own."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pwmray import registry
from pwmray.failures import POLICIES, Failure
from pwmray.registry import CLAIM_FILE, Status, claim
from pwmray.results import read_table
from tests.fault_rounds import below
from tests.gated import FIRST_END, FIRST_ROW, open_gate, start_gated, wait_for_gate
from tests.held import start_held
from tests.started_sweeps import TINY, curves, run, start, trial_statuses, wait_for_event
from tests.tiny import sweep
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


def test_ray_that_dies_while_its_driver_waits_for_others_trials_is_started_again(tmp_path):
    theirs = sweep.cells("tiny")[1].fingerprint
    held = claim.acquire(registry.trial_folder(tmp_path / "results", theirs) / CLAIM_FILE)
    process = start(tmp_path, "--scale", "tiny", "--limit", "2")
    wait_for_event(tmp_path, Status.EVALUATED)
    for pid, name in below(process.pid).items():
        if name == "raylet":
            os.kill(pid, signal.SIGTERM)  # of a kill Ray knows only after a while
    time.sleep(5)
    held.release()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count("Ray's node on this machine died; going on with another") == 1
    assert trial_statuses(tmp_path) == ["EVALUATED"] * 2


def test_sweep_without_a_compiler_says_so_once_and_its_tables_do(tmp_path):
    code, out, err = run(tmp_path, "--scale", "tiny", "--limit", "2", CXX="/no/such/g++")
    assert code == 0, err
    why = "off: No such file or directory: /no/such/g++"
    (said,) = [line for line in out.splitlines() if line.startswith("kernels ")]
    assert said.startswith(f"kernels {why} (first seen: ")
    table = read_table(tmp_path / "results" / "tiny" / "trials.arrow")
    assert table["kernels"].to_pylist() == [why] * 2
    assert table["cuda_graph"].to_pylist() == ["off"] * 2


def test_sweep_trains_evaluates_and_runs_nothing_twice(tmp_path):
    code, out, err = run(tmp_path, "--scale", "planned", "--limit", "2")
    assert code == 0, err
    assert trial_statuses(tmp_path) == ["EVALUATED"] * 2
    (printed,) = re.findall(r"^see who wins: python (.* tiny --plot)$", out, re.MULTILINE)
    done = subprocess.run([sys.executable, *shlex.split(printed)], cwd=tmp_path)
    assert done.returncode == 0
    evaluations = [read_table(p) for p in tmp_path.glob("results/trials/*/evaluations.arrow")]
    assert all("planner" in table["actor"].to_pylist() for table in evaluations)
    events = {p: p.read_bytes() for p in tmp_path.glob("results/trials/*/events.jsonl")}

    plan = ("--scale", "planned", "--limit", "3", "--plan", "--format", "json")
    states = [trial["state"] for trial in json.loads(run(tmp_path, *plan)[1])["trials"]]
    assert states == ["done", "done", "new"]

    again, out, _ = run(tmp_path, "--scale", "planned", "--limit", "2")
    assert again == 0
    assert "2 of 2 trials done" in out
    assert {p: p.read_bytes() for p in events} == events

    grown, _, err = run(tmp_path, "--scale", "planned", "--limit", "3")
    assert grown == 0, err
    assert {p: p.read_bytes() for p in events} == events
    assert trial_statuses(tmp_path) == ["EVALUATED"] * 3


def test_two_sweeps_of_one_trial_give_identical_curves(tmp_path, undisturbed):
    code, _, err = run(tmp_path, "--scale", "tiny", "--limit", "4")
    assert code == 0, err
    assert curves(tmp_path) == undisturbed


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(tmp_path, hold):
    four = ("--scale", "tiny", "--limit", "4")
    process = start_held(tmp_path, *four, HELD_AT="4")  # two end there
    wait_for_event(tmp_path, Status.EVALUATED)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert "go on with: python" in out
    assert set(trial_statuses(tmp_path)) == {"EVALUATED", "CANCELLED"}

    code, out, err = run(tmp_path, *four)
    assert code == 0, err
    assert trial_statuses(tmp_path) == ["EVALUATED"] * 4


def test_sweep_goes_on_after_its_driver_was_killed(tmp_path):
    process = start_gated(tmp_path, FIRST_ROW, "tiny", "--scale", "tiny", "--limit", "3")
    wait_for_gate(tmp_path, process)
    process.kill()
    process.communicate(timeout=60)

    code, _, err = run(tmp_path, "--scale", "tiny", "--limit", "3")
    assert code == 0, err
    assert trial_statuses(tmp_path) == ["EVALUATED"] * 3


def test_killed_trial_is_recorded_and_resumed(tmp_path):
    process = start_gated(tmp_path, FIRST_ROW, "tiny", "--scale", "tiny", "--limit", "3")
    folder = wait_for_gate(tmp_path, process)
    os.kill(registry.read(folder).last("pid"), signal.SIGKILL)
    open_gate(tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert trial_statuses(tmp_path) == ["EVALUATED"] * 3
    assert "its process died" in out
    record = registry.read(folder)
    assert (record.all("failure"), record.all("retry")) == (["process died"], ["process died"])
    assert "actor died unexpectedly" in record.last("traceback")


def test_ray_starts_a_process_for_the_trial_and_none_for_nothing(tmp_path):
    process = start_gated(tmp_path, FIRST_ROW, "tiny", "--scale", "tiny", "--limit", "1")
    try:
        wait_for_gate(tmp_path, process)
        (raylet,) = (pid for pid, name in below(process.pid).items() if name == "raylet")
        command = Path(f"/proc/{raylet}/cmdline").read_text().split("\0")
        (logs,) = (Path(a.partition("=")[2]) for a in command if a.startswith("--log_dir="))
        told = (logs / "raylet.out").read_text()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert told.count("Started worker process") == 1


def test_trial_that_used_up_its_retries_stays_failed(tmp_path):
    trial = sweep.trials("tiny")[0]
    folder = registry.trial_folder(tmp_path / "results", trial.fingerprint)
    registry.record(folder, Status.PENDING, config=trial.to_dict())
    for _ in range(POLICIES[Failure.PROCESS_DIED].retries):
        registry.record(folder, Status.QUEUED, retry=Failure.PROCESS_DIED)

    process = start_gated(tmp_path, FIRST_ROW, "tiny", "--scale", "tiny", "--limit", "1")
    assert wait_for_gate(tmp_path, process) == folder
    os.kill(registry.read(folder).last("pid"), signal.SIGKILL)
    open_gate(tmp_path)
    out, _ = process.communicate(timeout=300)

    assert process.returncode == 1
    assert trial_statuses(tmp_path) == ["FAILED"]
    assert "see why: pwmray failures tiny" in out


def test_sweep_whose_first_trials_die_of_one_bug_stops_early(tmp_path, data):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "mujoco.py").write_text("raise ImportError('libmujoco.so is missing')")
    paths = os.pathsep.join([str(broken), *sys.path])

    variables = {"PYTHONPATH": paths, "RAY_USE_MULTIPROCESSING_CPU_COUNT": "1"}
    made = ("--data", str(data.parent.parent))  # what makes it would find no mujoco
    code, out, err = run(tmp_path, "--scale", "alone", *made, **variables)

    assert code == 1, err
    assert "Traceback" not in out + err
    assert "stopped: the first trials all died of ImportError: libmujoco.so is missing" in out
    assert trial_statuses(tmp_path) == ["FAILED"] * 3 + ["CANCELLED"] * 5


FORGOTTEN = """
import time, ray
from pwmray.driver import connect

@ray.remote
def fail():
    raise RuntimeError("a bug")

connect.connect(None)
forgotten = fail.remote()
time.sleep(5)  # whoever waited for it would have looked at it
del forgotten
ray.get(ray.put(1))
"""


def test_failure_that_tune_no_longer_looks_at_is_not_printed(tmp_path):
    command = [sys.executable, "-c", FORGOTTEN]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    assert "a bug" not in ended.stdout + ended.stderr


def test_diverging_trials_fail_with_their_reason(tmp_path):
    code, out, err = run(tmp_path, "--scale", "diverging", "--limit", "2")
    assert code == 1
    assert "Traceback" not in out + err
    assert len(re.findall(r"failed: .*diverged: \w+ is nan at epoch 1", out)) == 2


@pytest.fixture
def short_folder():
    # Ray's sockets have long names and a limit of 107 bytes.
    with tempfile.TemporaryDirectory(prefix="r") as folder:
        yield folder


def test_sweep_leaves_nothing_of_tunes(tmp_path, short_folder):
    assert run(tmp_path, "--limit", "2", RAY_TMPDIR=short_folder, TMPDIR=short_folder)[0] == 0
    assert list(Path(short_folder).glob("ray/session_*/artifacts"))
    assert list(Path(short_folder).glob("ray/session_*/artifacts/*/*")) == []
    assert list(Path(short_folder).glob("pwmray-*")) == []


def test_sweep_joins_a_running_cluster(tmp_path, short_folder):
    ray_command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    ports = ["--port=0", "--num-cpus=2", "--include-dashboard=false", f"--temp-dir={short_folder}"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    log = tmp_path / "ray.log"
    with open(log, "w") as sink:
        cluster = subprocess.Popen(
            [*ray_command, *ports], stdout=sink, stderr=sink, env=environment
        )
    try:
        address = _address_of(log)
        process = subprocess.run(
            [sys.executable, str(TINY), "--scale", "tiny", "--limit", "2", "--address", address],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        assert trial_statuses(tmp_path) == ["EVALUATED"] * 2
    finally:
        cluster.terminate()
        cluster.wait(timeout=60)


def _address_of(log):
    return wait_for(
        lambda: re.search(r"--address='([\d.]+:\d+)'", log.read_text()), 90, log.read_text
    )[1]


def test_results_that_are_deleted_under_a_sweep_are_made_anew(tmp_path):
    process = start_gated(tmp_path, FIRST_END, "tiny", "--scale", "tiny", "--limit", "3")
    wait_for_gate(tmp_path, process)
    (tmp_path / "results").rename(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    open_gate(tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert "Traceback" not in out + err
    assert trial_statuses(tmp_path) == ["EVALUATED"] * 3
