"""A search on Ray: stopped, killed, and gone on with."""

import functools
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from pwmray import registry
from pwmray.driver import connect, interruption
from pwmray.driver.engine import Engine
from pwmray.driver.tune_callbacks import StopEarly
from pwmray.registry import CLAIM_FILE, Status, claim
from pwmray.results import read_table
from pwmray.search import run as search_run
from pwmray.search import study
from pwmray.search.plan import SearchPlan
from pwmray.search.study import FINGERPRINT
from pwmray.search.trials import SearchTrials
from pwmray.tracking.wandb_state import read_state
from tests.fault_rounds import AGENTS, END_SECONDS, all_processes, below
from tests.gated import FIRST_END, FIRST_ROW, open_gate, start_gated, wait_for_gate
from tests.held import start_script
from tests.studies import TASK, make_plan, open_trials
from tests.tiny_search import search
from tests.waiting import wait_for

pytestmark = pytest.mark.usefixtures("short_episodes", "one_machine")


TINY = Path(__file__).parent / "tiny_search.py"


def start(folder, *options):
    return start_script(folder, TINY, "--scale", "tiny", *options)


def stop_search(folder, stop, code):
    """Stop a search once a trial has come to an end; return what it printed.

    None of its processes is left, which those of a driver that was killed take a while to notice,
    but Ray's agents.
    """
    process = start_gated(folder, FIRST_END, "tiny_search", "--scale", "tiny")
    wait_for_gate(folder, process)
    started = below(process.pid)
    process.send_signal(stop)
    open_gate(folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in out + err

    def left():
        found = [(p, name) for p, name, _ in all_processes() if started.get(p) == name]
        return [(p, name) for p, name in found if name not in AGENTS]

    wait_for(lambda: not left(), END_SECONDS, left, pause=0.3)
    return out


@pytest.mark.slow
def test_time_left_of_a_task_counts_the_tasks_after_it(tmp_path):
    options = ["--tasks", "pendulum-spin,cartpole-swingup", "--limit", "1"]
    process = start(tmp_path, *options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    ends = [line for line in out.splitlines() if " 1 of 1: " in line]
    assert [line.endswith(" left") for line in ends] == [True, False]


@pytest.mark.slow
def test_search_goes_on_with_a_trial_whose_process_was_killed(tmp_path):
    process = start_gated(tmp_path, FIRST_ROW, "tiny_search", "--scale", "tiny")
    killed = wait_for_gate(tmp_path, process)
    os.kill(registry.read(killed).last("pid"), signal.SIGKILL)
    open_gate(tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "failed: its process died; it runs again" in out
    assert "Traceback" not in out + err
    record = registry.read(killed)
    assert record.all("retry") == ["process died"]
    assert record.status in (Status.EVALUATED, Status.CANCELLED)
    tried = SearchPlan.make(search, "tiny", [TASK], 5, tmp_path / "results").open_study(TASK)
    assert {trial.state.name for trial in tried.get_trials()} <= {"COMPLETE", "PRUNED"}
    assert len(tried.get_trials()) == 5


@pytest.mark.slow
def test_search_leaves_a_trial_that_another_process_runs_to_it(tmp_path, data):
    """An earlier run of the search had it begin, and came to no end."""
    folder = Path(open_trials(tmp_path / "results", data).next("a")["grid"]["folder"])
    plan = make_plan(tmp_path / "results")
    (left,) = study.unfinished(plan.studies()[TASK])
    assert left.user_attrs[FINGERPRINT] == folder.name
    with claim.acquire(folder / CLAIM_FILE):
        out, err = start(tmp_path).communicate(timeout=300)
    assert f"running in process {os.getpid()} on" in out
    assert "go on with: " in out, err
    assert len(study.unfinished(plan.studies()[TASK])) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "code", "left"),
    [(signal.SIGTERM, 143, Status.CANCELLED), (signal.SIGUSR1, 75, Status.QUEUED)],
)
def test_signals_end_a_search_as_they_end_a_sweep(stop, code, left, tmp_path):
    assert "go on with: " in stop_search(tmp_path, stop, code)
    plan = SearchPlan.make(search, "tiny", [TASK], 5, tmp_path / "results")
    outcomes = study.outcomes(plan.studies()[TASK])
    for path in (tmp_path / "results" / "trials").iterdir():
        record = registry.read(path)
        assert path.name in outcomes or record.status in (left, Status.EVALUATED)
        assert registry.running_elsewhere(path) is None


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_search_goes_on_after_it_was_stopped(stop, code, tmp_path):
    stop_search(tmp_path, stop, code)

    process = start(tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "tiny_search, the best first" in out
    tried = SearchPlan.make(search, "tiny", [TASK], 5, tmp_path / "results").open_study(TASK)
    assert all(trial.state.is_finished() for trial in tried.get_trials())
    assert len(tried.get_trials()) == 5
    table = read_table(tmp_path / "results" / "tiny_search" / "trials.arrow")
    assert set(table["status"].to_pylist()) <= {"EVALUATED", "CANCELLED"}
    assert len(table) == 5
    before = {p: p.read_bytes() for p in tmp_path.glob("results/trials/*/events.jsonl")}
    groups = [read_state(path.parent)["group"] for path in before]  # at W&B, of each
    assert groups == ["tiny_search"] * 5

    out, err = start(tmp_path).communicate(timeout=120)
    assert "tiny_search, the best first" in out
    assert {p: p.read_bytes() for p in before} == before


def test_search_goes_on_with_another_ray_where_its_own_dies(tmp_path, data, monkeypatch, capsys):
    opened, ran = [], []

    def begin(offered):
        return SearchTrials(make_plan(tmp_path), TASK, data, offered, "python search.py")

    def search_until_ray_dies(trials, *_):
        ran.append(trials.next("a")["grid"][FINGERPRINT])
        return len(ran) == 1

    monkeypatch.setattr(search_run, "_search", search_until_ray_dies)
    monkeypatch.setattr(search_run, "ray", SimpleNamespace(cluster_resources=dict))
    said, left = "Ray dashboard: another", []
    monkeypatch.setattr(connect, "connect_for", lambda *_: print(said))
    # By which a sweep leaves one, too: a Ray that hangs does not keep it.
    monkeypatch.setattr(connect, "leave", lambda scratch: left.append(shutil.rmtree(scratch)))
    stop, engine = interruption.Interruption(), Engine(None)
    default = make_plan(tmp_path).config(TASK, {})
    trials = search_run._search_task(begin, default, engine, opened, stop)
    stop.leave()
    assert len(left) == 1
    engine.close()
    assert trials is opened[1]
    assert ran[0] == ran[1]  # what the first left, and no other
    moves = [e["status"] for e in registry.read(registry.trial_folder(tmp_path, ran[0])).events]
    # Never CANCELLED: where Slurm took the machine, the job comes back for it.
    assert moves == ["PENDING", "QUEUED", "QUEUED", "QUEUED"]
    out = capsys.readouterr().out
    assert "Ray's node on this machine died; going on with another\nRay dashboard: another\n" in out


def test_trials_that_tune_stops_without_a_ray_are_not_stopped_early(tmp_path, data):
    trials = open_trials(tmp_path, data)
    stopper = StopEarly()
    searcher = search_run._StudySearcher(trials, interruption.Interruption(), stopper)
    trials.next("a")
    stopper.is_ray_lost = True
    searcher.on_trial_complete("a", {"epoch": 2, "return_mean": 1.0})
    assert [trial.state for trial in trials.study.get_trials()] == [TrialState.RUNNING]
    stopper.is_ray_lost = False
    searcher.on_trial_complete("a", {"epoch": 2, "return_mean": 1.0})
    assert [trial.state for trial in trials.study.get_trials()] == [TrialState.PRUNED]


def test_search_whose_ray_dies_as_it_is_to_stop_starts_no_other(tmp_path, data, monkeypatch):
    def search_until_ray_dies(trials, place, stop):
        stop.reason = "preempted"
        return True

    monkeypatch.setattr(search_run, "_search", search_until_ray_dies)
    monkeypatch.setattr(search_run, "ray", SimpleNamespace(cluster_resources=dict))
    places = SimpleNamespace(start=lambda _: None, make_place=lambda: tmp_path)  # no leave_lost
    opened, plan = [], make_plan(tmp_path)
    begin = functools.partial(SearchTrials, plan, TASK, data, command="python search.py")
    asked = (plan.config(TASK, {}), places, opened, interruption.Interruption())
    trials = search_run._search_task(begin, *asked)
    assert opened == [trials]
