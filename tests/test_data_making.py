"""Data of several tasks made side by side: the same data, and nothing keeps running."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future

import pytest

from pwmray import rounds
from pwmray.data.collected import ensure_data
from pwmray.data.recipe import CollectionRecipe
from pwmray.driver import data_making
from pwmray.driver.data_making import make_data
from pwmray.driver.interruption import GO_ON, AskedToStopError, Interruption
from pwmray.envs.vector import make_vector

TINY = CollectionRecipe(num_episodes=1, num_rounds=1, episodes_per_round=1, epochs_per_round=1)
ENDLESS = CollectionRecipe(num_episodes=1, num_rounds=1, epochs_per_round=10**6)
# Fails when it collects: the policy that it needs is not at hand.
FAILING = CollectionRecipe(behaviours=("policy",), policy="0" * 64, num_rounds=1)
SWEEP = """
import sys
from pathlib import Path
from pwmray.commands import run_command, show_progress
from pwmray.driver.data_making import make_data
from tests.test_data_making import ENDLESS

def run():
    wanted = [(task, ENDLESS) for task in ("pendulum-spin", "pendulum-swingup")]
    with show_progress("data") as progress:
        make_data(wanted, Path(sys.argv[1]), progress)

sys.exit(run_command(run))
"""
DRIVER = """
import sys
from pathlib import Path
from pwmray import plan
from pwmray.driver import launch
from pwmray.sweep import Sweep
from pwmray.tracking.recording import Mode
from tests.test_data_making import ENDLESS
from tests.tiny import SCALES

rounds = {"data.num_rounds": 1, "data.epochs_per_round": ENDLESS.epochs_per_round}
sweep = Sweep(
    name="endless",
    vary={"data.seed": [0, 1], "task": ["pendulum-spin"], "seed": [42]},
    hold={"variant": "baseline", "epochs": 2, **rounds},
    compare="data.seed",
    within=["task"],
    scales=SCALES,
)
if __name__ == "__main__":
    results, data = (Path(sys.argv[1], name) for name in ("results", "data"))
    made = plan.make(sweep, "tiny", sweep.trials("tiny"), results)
    sys.exit(launch.run(made, data, None, "python x.py", Mode.OFF))
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


def test_progress_of_collections_one_after_another_is_that_of_all(tmp_path):
    said = []
    plain = CollectionRecipe(num_episodes=4)
    make_data([("pendulum-spin", plain)], tmp_path, lambda *_: None)
    wanted = [(task, plain) for task in ("pendulum-spin", "pendulum-swingup", "cartpole-swingup")]
    make_data(wanted, tmp_path, lambda *step: said.append(step))
    whats, done, totals = zip(*[step for step in said if step[2]], strict=True)
    assert set(whats) == {"collecting, 2 tasks"}
    assert list(done) == sorted(done)
    assert set(totals) == {2 * 4 * 500}


def test_progress_counts_a_step_as_long_as_its_simulation_takes(tmp_path):
    said = []
    plain = CollectionRecipe(num_episodes=1)
    wanted = [("walker-stand", plain), ("pendulum-spin", plain)]
    make_data(wanted, tmp_path, lambda *step: said.append(step))
    steps = [(done, total) for _, done, total in said if total]
    assert (1000 * 10 // 11, 1000) in steps  # walker's end: 10 substeps a step beside pendulum's 1
    assert steps[-1] == (1000, 1000)


def test_a_collection_alone_steps_on_all_cores_and_those_side_by_side_on_one_each(
    tmp_path, monkeypatch
):
    def make(task, num_envs, num_threads):
        threads.append(num_threads)
        return make_vector(task, num_envs, num_threads)

    threads = []
    monkeypatch.setattr(data_making, "make_vector", make)
    monkeypatch.setattr(data_making.system, "num_cores", lambda: 3)
    monkeypatch.setattr(data_making, "_shared", data_making._Shared([0], threading.Event()))
    plain = CollectionRecipe(num_episodes=1)
    make_data([("hopper-stand", plain)], tmp_path, lambda *_: None)
    data_making._make_here(0, "pendulum-spin", plain, tmp_path)
    assert threads == [3, 1]


def test_one_that_fails_ends_the_others(tmp_path):
    said = []
    wanted = [("pendulum-spin", ENDLESS), ("pendulum-spin", FAILING)]
    with pytest.raises(ValueError, match="collects this data of pendulum-spin"):
        make_data(wanted, tmp_path, lambda *step: said.append(step))
    told = {(what, total) for what, _, total in said}
    assert told == {("training and collecting in rounds, 2 collections", 200)}
    assert multiprocessing.active_children() == []
    assert list((tmp_path / "collected").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signal_while_the_processes_start_is_heeded_once_they_have(number, tmp_path, monkeypatch):
    class Executor(data_making.ProcessPoolExecutor):
        def submit(self, *arguments):
            os.kill(os.getpid(), number)
            submitted.append(super().submit(*arguments))
            return submitted[-1]

    submitted, ends = [], (KeyboardInterrupt, AskedToStopError)
    monkeypatch.setattr(data_making, "ProcessPoolExecutor", Executor)
    wanted = [("pendulum-spin", ENDLESS), ("pendulum-swingup", ENDLESS)]
    is_over = threading.Event()  # another thread takes what the first one blocks, as a heartbeat
    threading.Thread(target=is_over.wait).start()
    try:
        with pytest.raises(ends), Interruption() as asked:
            make_data(wanted, tmp_path, asked.heeded(lambda *_: None))
    finally:
        is_over.set()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert len(submitted) == 2
    assert multiprocessing.active_children() == []
    assert list(tmp_path.glob("collected/*")) == []


def test_progress_is_that_of_all_together():
    said, done = [], Future()
    done.set_result(None)
    data_making._follow([done, done], "2 tasks", [0, 50], lambda *step: said.append(step))
    assert said == [("training and collecting in rounds, 2 tasks", 50, 200)]


def start_sweep(folder, code=SWEEP, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", code, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,  # so that a signal to its group, as of Ctrl-C, is not ours too
    )


# Python runs it first: has those that make data start no further until they may.
HELD = """
import sys, time
from pathlib import Path
while "--multiprocessing-fork" in sys.orig_argv and not Path(__file__).with_name("go").exists():
    time.sleep(0.05)
"""


@pytest.mark.slow
def test_ctrl_c_while_the_processes_start_ends_all_with_one_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HELD)
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    run = start_sweep(tmp_path / "data", PYTHONPATH=paths)
    assert "in rounds, 2 tasks, 0/200" in run.stderr.readline()
    os.killpg(run.pid, signal.SIGINT)
    (tmp_path / "go").touch()
    # Which ends when the last process has: it comes up first, 31 s on two cores with a load of 31.
    _, errors = run.communicate(timeout=200)
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
    run.communicate(timeout=120)
    assert run.returncode == code
    assert list(tmp_path.glob("collected/*.arrow")) == []


@pytest.mark.slow
@pytest.mark.parametrize("tell", [os.kill, os.killpg])  # the driver alone, or all of its processes
def test_sweep_told_of_its_end_stops_collecting_and_is_to_go_on(tell, tmp_path):
    run = start_sweep(tmp_path, DRIVER)
    while len(list(tmp_path.glob("data/collected/*.claim"))) < 2:
        assert run.stderr.readline()
    tell(run.pid, signal.SIGUSR1)
    out, errors = run.communicate(timeout=120)
    assert run.returncode == GO_ON, errors
    assert out.splitlines()[-2:] == [
        "preempted: stopped at training and collecting in rounds, 2 collections",
        "go on with: python x.py",
    ]
    assert "error" not in errors
    assert list(tmp_path.glob("data/collected/*")) == []
