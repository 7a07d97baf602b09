"""A trial that hangs is ended, recorded with where it hung, and resumed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pwmray import registry
from pwmray.registry import Status
from pwmray.watchdog import STACKS_FILE, Watchdog, has_hung, take_stacks
from tests.test_launch import curves, run, trial_statuses

HANGING = Path(__file__).parent / "hanging.py"
# Beats for a while, then hangs in C, with Python's lock held.
STUCK = """
import re, sys, time
from pathlib import Path
from pwmray.watchdog import Watchdog
with Watchdog(Path(sys.argv[1]), 0.5) as watchdog:
    for _ in range(15):
        time.sleep(0.1)
        watchdog.beat()
    print("beat", flush=True)
    def get_stuck():
        re.match(r"(a+)+$", "a" * 60 + "b")
    get_stuck()
"""


def test_process_that_hangs_in_c_is_ended_and_says_where(tmp_path):
    path = tmp_path / STACKS_FILE
    command = [sys.executable, "-c", STUCK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "beat\n")
    assert has_hung(tmp_path)
    stacks = take_stacks(tmp_path)
    assert stacks.startswith("Timeout (0:00:0")
    assert "get_stuck" in stacks
    assert list(tmp_path.iterdir()) == []


def test_limit_grows_with_the_longest_pause_and_ends_with_the_work(tmp_path):
    watchdog = Watchdog(tmp_path / STACKS_FILE, 0.2)
    with watchdog:
        time.sleep(0.1)
        watchdog.beat()
        time.sleep(0.4)  # beyond the least, below ten times the pause before
    time.sleep(0.3)
    assert not has_hung(tmp_path)
    watchdog.close()
    assert take_stacks(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


# What a trial may still write when its work is over, in a process that goes on.
AFTERWARDS = """
import sys, time
from pathlib import Path
from pwmray.watchdog import Watchdog
with Watchdog(Path(sys.argv[1]), 0.2) as watchdog:
    pass
time.sleep(0.03)
watchdog.beat()
watchdog.close()
time.sleep(2.0)
print("alive")
"""


def test_sign_of_life_after_the_work_starts_no_watch(tmp_path):
    command = [sys.executable, "-c", AFTERWARDS, str(tmp_path / STACKS_FILE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "alive\n")


@pytest.mark.slow
def test_trial_that_hangs_is_resumed_while_the_others_go_on(tmp_path):
    done = subprocess.run(
        [sys.executable, str(HANGING)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(HANGING.parent.parent)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert trial_statuses(tmp_path) == ["EVALUATED"] * 4
    records = [registry.read(path) for path in (tmp_path / "results" / "trials").iterdir()]
    (record,) = [record for record in records if record.count(Status.FAILED)]
    assert (record.last("failure"), record.last("retry")) == ("hang", "hang")
    assert record.last("reason") == "it hung: no sign of life for 0:00:30"
    assert "in step" in record.last("traceback")
    assert "after hang" in done.stdout
    assert not list((tmp_path / "results").rglob(".*.tmp"))
    run(tmp_path, "--scale", "restless", "--limit", "4", "--results", "whole")
    assert curves(tmp_path) == curves(tmp_path, "whole")
