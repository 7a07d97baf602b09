"""Data of several tasks made side by side: the same data, and nothing keeps running."""

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from pwmray import rounds
from pwmray.data.collected import ensure_data
from pwmray.data.recipe import CollectionRecipe
from pwmray.data_making import make_data
from pwmray.envs.vector import make_vector

TINY = CollectionRecipe(num_episodes=1, num_rounds=1, episodes_per_round=1, epochs_per_round=1)
ENDLESS = CollectionRecipe(num_episodes=1, num_rounds=1, epochs_per_round=10**6)
# Fails when it collects: the policy that it needs is not at hand.
FAILING = CollectionRecipe(behaviours=("policy",), policy="0" * 64, num_rounds=1)
SWEEP = """
import sys
from pathlib import Path
from pwmray.commands import run_command, show_progress
from pwmray.data_making import make_data
from tests.test_data_making import ENDLESS

def run():
    wanted = [(task, ENDLESS) for task in ("pendulum-spin", "pendulum-swingup")]
    with show_progress("data") as progress:
        make_data(wanted, Path(sys.argv[1]), progress)

sys.exit(run_command(run))
"""


@pytest.mark.slow
def test_data_made_side_by_side_is_that_made_alone(tmp_path):
    said = []
    wanted = [("pendulum-spin", TINY), ("pendulum-swingup", TINY)]
    paths = make_data(wanted, tmp_path / "both", lambda *step: said.append(step))
    alone = ensure_data(
        "pendulum-swingup", TINY, tmp_path / "one", make_vector, collect=rounds.collect
    )
    assert list(paths) == wanted
    assert paths[wanted[1]].read_bytes() == alone.read_bytes()
    assert said[-1] == ("training and collecting in rounds, 2 tasks", 200, 200)
    assert multiprocessing.active_children() == []


def test_one_that_fails_ends_the_others(tmp_path):
    wanted = [("pendulum-spin", ENDLESS), ("pendulum-swingup", FAILING)]
    with pytest.raises(ValueError, match="collects this data of pendulum-swingup"):
        make_data(wanted, tmp_path, lambda *_: None)
    assert multiprocessing.active_children() == []
    assert list((tmp_path / "collected").iterdir()) == []


def start_sweep(folder):
    return subprocess.Popen(
        [sys.executable, "-c", SWEEP, folder],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that a signal to its group, as of Ctrl-C, is not ours too
    )


@pytest.mark.slow
def test_ctrl_c_while_the_processes_start_ends_all_with_one_line(tmp_path):
    run = start_sweep(tmp_path)
    assert "in rounds, 2 tasks, 0/200" in run.stderr.readline()
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=30)  # which ends when the last process has
    assert run.returncode == 130
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_processes_at_work_end_with_the_one_that_asked(number, code, tmp_path):
    run = start_sweep(tmp_path)
    while len(list(tmp_path.glob("collected/*.claim"))) < 2:
        assert run.stderr.readline()
    os.kill(run.pid, number)
    run.communicate(timeout=30)
    assert run.returncode == code
    assert list(tmp_path.glob("collected/*.arrow")) == []
