"""A search: its command, its study that is kept, early stopping, and going on with it."""

import ast
import dataclasses
import datetime
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from pwmray import deaths, registry
from pwmray.commands.prune import find_freeable
from pwmray.driver import interruption
from pwmray.driver.engine import Engine
from pwmray.registry import CLAIM_FILE, Status, claim
from pwmray.results import read_table
from pwmray.search import run as search_run
from pwmray.search import study
from pwmray.search import trials as search_trials
from pwmray.search.plan import SearchPlan
from pwmray.search.plan_text import as_json, best_lines
from pwmray.search.space import read_space
from pwmray.search.study import FINGERPRINT
from pwmray.search.trials import SearchTrials
from pwmray.sweep import Sweep
from pwmray.tracking.recording import Mode
from tests.claims import do_not_watch, leave_claim
from tests.planned_sweeps import run
from tests.studies import (
    TASK,
    THREE,
    advance,
    decide_to_stop,
    evaluate,
    fail,
    make_plan,
    open_trials,
)
from tests.tiny_search import search

pytestmark = pytest.mark.usefixtures("short_episodes", "one_machine")


# The command.


@pytest.mark.parametrize("form", ["table", "json"])
def test_plan_writes_nothing(form, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, errors = run(capsys, "--plan", "--format", form, of=search)
    assert (code, errors) == (0, [])
    assert "policy.num_substeps" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "pendlum-spin"], "did you mean 'pendulum-spin'"),
        (["--limit", "0"], "'0' is not a whole number of at least 1"),
        (["--scale", "tny"], "unknown scale 'tny'; did you mean 'tiny'"),
        (["--seeds", "1"], "--seeds"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, errors = run(capsys, *arguments, of=search)
    assert (code, out, len(errors)) == (2, "", 1)
    assert message in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_search_that_another_process_runs_is_refused(tmp_path, capsys):
    with claim.acquire(tmp_path / "tiny_search" / "claim.json"):
        code, _, errors = run(capsys, "--results", tmp_path, "--data", tmp_path, of=search)
    assert (code, len(errors)) == (2, 1)
    assert errors[0].startswith("error: another process runs tiny_search in ")
    assert not (tmp_path / "trials").exists()


def test_search_of_a_lost_machine_and_its_trials_are_taken_over(
    tmp_path, data, capsys, monkeypatch
):
    do_not_watch(monkeypatch)
    trials = open_trials(tmp_path, data)
    folders = [Path(trials.next(name)["grid"]["folder"]) for name in "ab"]
    plan = make_plan(tmp_path)
    for path in (plan.folder, *folders):
        leave_claim(path / CLAIM_FILE, 4711, host="n9", age=600)
    with search_run._acquire(plan, 0, interruption.Interruption()) as held:
        assert held.is_held
        assert capsys.readouterr().out.endswith("a process lives that seems dead: pid 4711 on n9\n")
        search_run._set_right(plan, plan.studies())
    assert [list(folder.glob(f"*{CLAIM_FILE}*")) for folder in folders] == [[], []]


def test_driver_that_ends_meanwhile_is_waited_for(tmp_path, capsys, monkeypatch):
    plan = make_plan(tmp_path)
    before = claim.acquire(tmp_path / "tiny_search" / "claim.json")
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: before.release())
    monkeypatch.setattr(search_run, "time", clock)
    with search_run._acquire(plan, 60, interruption.Interruption()) as held:
        assert held.is_held
    assert re.fullmatch(
        rf"another process runs tiny_search in \S+: pid {os.getpid()} on \S+; waiting up to 60 s\n",
        capsys.readouterr().out,
    )


def test_driver_that_ends_while_it_is_looked_at_refuses_nobody(tmp_path, monkeypatch):
    plan = make_plan(tmp_path)
    before, acquire = claim.acquire(plan.folder / "claim.json"), claim.acquire

    def acquire_and_then_it_ends(path):
        held = acquire(path)
        before.release()
        return held

    monkeypatch.setattr(claim, "acquire", acquire_and_then_it_ends)
    with search_run._acquire(plan, 0, interruption.Interruption()) as held:
        assert held.is_held


# The study, with real trials.


def test_search_that_is_to_end_while_it_makes_data_is_gone_on_with(tmp_path, capsys, monkeypatch):
    def make_data(wanted, data_dir, progress):
        os.kill(os.getpid(), signal.SIGUSR1)
        progress("collecting", 1, 2)

    monkeypatch.setattr(search_run, "make_data", make_data)
    plan, data = make_plan(tmp_path / "results"), tmp_path / "data"
    assert search_run.run(plan, data, None, "python x.py", Mode.OFF) == interruption.GO_ON
    assert "preempted: stopped at collecting" in capsys.readouterr().out
    assert claim.owner(plan.folder / "claim.json") is None


def test_search_that_waits_for_another_is_gone_on_with_when_asked_to_stop(
    tmp_path, capsys, monkeypatch
):
    def sleep(_):
        os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(search_run, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    plan = make_plan(tmp_path)
    with claim.acquire(plan.folder / "claim.json"):
        code = search_run.run(plan, tmp_path, None, "python x.py", Mode.OFF, patience_seconds=60)
    assert code == interruption.GO_ON
    assert "preempted: stopped before it began\n" in capsys.readouterr().out


def test_sigterm_while_a_search_says_its_end_is_no_sudden_death(tmp_path, monkeypatch):
    def write_tables(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(search_run, "_run_tasks", lambda *_: 0)
    monkeypatch.setattr(search_run, "write_tables", write_tables)
    with pytest.raises(interruption.TerminatedError):
        search_run.run(make_plan(tmp_path), tmp_path, None, "python x.py", Mode.OFF)


def test_sigterm_while_a_search_leaves_ray_keeps_nobody_from_recording_its_trials(
    tmp_path, data, monkeypatch
):
    def search_task(begin, config, engine, opened, stop):
        opened.append(begin(offered={"CPU": 1.0}))
        asked.append(Path(opened[0].next("a")["grid"]["folder"]))
        stop.reason = "preempted"

    asked, plan = [], make_plan(tmp_path / "results")
    monkeypatch.setattr(search_run, "make_data", lambda wanted, *_: dict.fromkeys(wanted, data))
    monkeypatch.setattr(search_run, "_search_task", search_task)
    monkeypatch.setattr(Engine, "close", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(interruption.TerminatedError):
        search_run.run(plan, tmp_path / "data", None, "python x.py", Mode.OFF)
    record = registry.read(asked[0])
    assert (record.status, record.last("reason")) == (Status.QUEUED, "preempted")


def test_search_that_another_process_finished_meanwhile_starts_no_ray(tmp_path, monkeypatch):
    monkeypatch.setattr(search_run.ray, "init", lambda **_: pytest.fail("Ray was started"))
    monkeypatch.setattr(SearchPlan, "count_left", lambda self, _: dict.fromkeys(self.tasks, 0))
    asked = (tmp_path / "data", Engine(None), [], interruption.Interruption())
    assert search_run._work(make_plan(tmp_path), SearchTrials, *asked)[0] == 0


def test_search_whose_ray_slurm_ended_is_gone_on_with(tmp_path, data, capsys, monkeypatch):
    monkeypatch.setenv("PWMRAY_ENDED_NODES", f"{tmp_path}/ended.")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setattr(interruption, "_TOLD_SECONDS", 0.0)
    (tmp_path / "ended.n1").touch()
    asked = []

    def search_until_ray_dies(begin, config, engine, opened, stop):
        opened.append(begin(offered={"CPU": 1.0}))
        asked.append(Path(opened[0].next("a")["grid"]["folder"]))
        raise ConnectionError("the GCS is gone")

    monkeypatch.setattr(search_run, "make_data", lambda wanted, *_: dict.fromkeys(wanted, data))
    monkeypatch.setattr(search_run, "_search_task", search_until_ray_dies)
    plan, folder = make_plan(tmp_path / "results"), tmp_path / "data"
    assert search_run.run(plan, folder, None, "python x.py", Mode.OFF) == interruption.GO_ON
    assert registry.read(asked[0]).status is Status.QUEUED
    assert "Slurm ended Ray's node on this machine: the GCS is gone" in capsys.readouterr().out


def test_search_tries_its_number_of_trials_and_stops_the_worse_ones_early(tmp_path, data, capsys):
    trials = open_trials(tmp_path, data)
    found = [advance(trials, str(index), data) for index in range(6)]
    trials.settle()

    assert found[-1] is None
    assert len(set(found[:-1])) == 5
    tried = trials.study.get_trials()
    states = [trial.state for trial in tried]
    assert states[0] is TrialState.COMPLETE
    assert {TrialState.COMPLETE, TrialState.PRUNED} == set(states)
    rungs = [trial.intermediate_values[2] for trial in tried]
    pruned = [value for value, state in zip(rungs, states, strict=True) if state.name == "PRUNED"]
    assert max(pruned) < max(rungs)
    for fingerprint, trial in zip(found, tried, strict=False):
        record = registry.read(registry.trial_folder(tmp_path, fingerprint))
        expected = Status.EVALUATED if trial.state.name == "COMPLETE" else Status.CANCELLED
        assert record.status is expected
        assert trial.user_attrs[FINGERPRINT] == fingerprint
    said = capsys.readouterr().out.splitlines()
    assert any("stopped early at epoch 2" in line for line in said)
    assert len(said) == 5
    for index, line in enumerate(said):
        best = max(t.value for t in tried[: index + 1] if t.state is TrialState.COMPLETE)
        assert (f"; best {best:.1f}; " in line and line.endswith(" left")) == (index < 4)


def test_settings_of_the_best_are_printed_as_a_level_that_a_sweep_runs(tmp_path, data):
    best = advance(open_trials(tmp_path, data), "0", data)
    (line,) = best_lines(make_plan(tmp_path).studies()[TASK])
    arms = {"default": {}, "searched": ast.literal_eval(line.partition(best)[2].strip())}
    confirming = Sweep(
        name="confirming",
        vary={"arm": arms, "task": [TASK], "seed": [1, 2]},
        hold={"variant": "flowpolicy", "epochs": 6},
        compare="arm",
        within=["task"],
        scales=search.scales,
    )
    found = [trial.fingerprint for trial in confirming.trials("tiny")]
    assert len(set(found)) == 4 and best in found


def test_time_left_is_of_all_tasks_to_come(tmp_path, data, capsys, monkeypatch):
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0])
    monkeypatch.setattr(search_trials, "time", clock)
    trials = open_trials(tmp_path, data, number=3, num_later=60)
    now[0] += 90
    fail(trials, "a", reason="the loss is nan", failure="non-finite")
    assert "failed: the loss is nan; 93 min left\n" in capsys.readouterr().out
    now[0] += 10
    fail(trials, "b")
    assert "it runs again; 103 min left\n" in capsys.readouterr().out
    trials.next("b")
    now[0] += 20
    fail(trials, "c", reason="the loss is nan", failure="non-finite")
    assert "the loss is nan; 48 min left\n" in capsys.readouterr().out  # one is half done


def test_tables_of_a_search_are_a_sweeps(tmp_path, data):
    trials = open_trials(tmp_path, data, number=1)
    fingerprint = advance(trials, "0", data)
    trials.settle()
    for path in (tmp_path / "tiny_search").glob("*.arrow"):  # as if the run had been killed before
        path.unlink()
    (tmp_path / "tiny_search" / "sweep.json").unlink()
    again = make_plan(tmp_path, number=1)
    assert search_run.run(again, tmp_path, None, "python x.py", Mode.OFF) == 0
    row = read_table(tmp_path / "tiny_search" / "trials.arrow").to_pylist()[0]
    assert (row["trial"], row["status"]) == (fingerprint, "EVALUATED")
    assert trials.study.best_value == row["return_mean"]
    assert trials.study.best_params["learner.actor_lr"] == row["learner.actor_lr"]
    best = json.loads(plan_json(tmp_path))["tasks"][TASK]["best"]
    assert [(b["return"], b["fingerprint"]) for b in best] == [(row["return_mean"], fingerprint)]


def plan_json(results):
    return as_json(make_plan(results))


def test_search_that_was_stopped_goes_on_with_the_trial_it_left(tmp_path, data):
    first = open_trials(tmp_path, data, number=2)
    left = advance(first, "a", data, until=4)  # and then the process is gone
    again = open_trials(tmp_path, data, number=2)
    found = [advance(again, str(index), data) for index in range(3)]
    assert found[0] == left
    assert found[1] not in (None, left)
    assert found[2] is None
    assert len(again.study.get_trials()) == 2
    curve = read_table(registry.trial_folder(tmp_path, left) / "curve.arrow")
    assert curve["epoch"].to_pylist() == [2, 4, 6]
    assert registry.read(registry.trial_folder(tmp_path, left)).count(Status.RUNNING) == 2


def test_space_whose_keys_were_put_in_another_order_is_the_same(tmp_path, data):
    open_trials(tmp_path, data).next("a")
    reordered = dataclasses.replace(search, space=dict(reversed(search.space.items())))
    assert len(make_plan(tmp_path, of=reordered).studies()[TASK].get_trials()) == 1


def test_larger_number_goes_on_where_the_smaller_ended(tmp_path, data):
    advance(open_trials(tmp_path, data, number=1), "a", data)
    larger = open_trials(tmp_path, data, number=2)
    assert advance(larger, "b", data) is not None
    assert advance(larger, "c", data) is None


def test_trial_that_was_run_before_is_told_and_not_run_again(tmp_path, data):
    only = dataclasses.replace(search, space={"policy.num_substeps": [2]})
    trials = open_trials(tmp_path, data, number=3, of=only)
    fingerprint = advance(trials, "a", data)
    assert trials.next("b") is None
    assert [trial.value for trial in trials.study.get_trials()] == [trials.study.best_value]
    folder = registry.trial_folder(tmp_path, fingerprint)
    assert registry.read(folder).count(Status.RUNNING) == 1


def test_trial_that_runs_is_in_the_searchs_lists(tmp_path, data):
    trials = open_trials(tmp_path, data)
    found = [trials.next(name)["grid"][FINGERPRINT] for name in "ab"]
    folder = tmp_path / "tiny_search"
    assert json.loads((folder / "sweep.json").read_text())["trials"] == found
    assert {path.readlink().name for path in (folder / "trials").iterdir()} == set(found)


def test_twin_of_a_trial_that_runs_is_told_the_same_and_costs_nothing(tmp_path, data):
    trials = open_trials(tmp_path, data, number=2)
    first = trials.next("a")["grid"]
    (running,) = trials.study.get_trials()
    study.ask_again(trials.study, running.params, read_space(search.space))
    again = open_trials(tmp_path, data, number=2)
    assert advance(again, "a", data, until=2) == first[FINGERPRINT]  # and its twin waits with it
    other = again.next("b")["grid"]
    assert other[FINGERPRINT] != first[FINGERPRINT]
    folder = Path(first["folder"])
    registry.record(folder, Status.COMPLETED)
    registry.record(folder, Status.EVALUATED, return_mean=5.0)
    again.end("a", {"epoch": 6}, is_error=False)
    assert [trial.value for trial in again.study.get_trials()] == [5.0, 5.0, None]
    assert make_plan(tmp_path, 2).num_left(again.study) == 1
    assert len(study.best_trials(again.study, 5)) == 1


def test_best_trials_are_those_of_the_highest_returns_the_best_first(tmp_path, data):
    trials = open_trials(tmp_path, data, number=3, of=THREE)
    for name, value in (("a", 3.0), ("b", 5.0), ("c", 4.0)):
        evaluate(Path(trials.next(name)["grid"]["folder"]), value)
        trials.end(name, None, is_error=False)
    assert [trial.value for trial in study.best_trials(trials.study, 2)] == [5.0, 4.0]


def test_settings_that_were_stopped_early_are_told_and_not_tried_again(tmp_path, data):
    trials = open_trials(tmp_path, data, number=3, of=THREE)
    decide_to_stop(trials, "a")
    trials.end("a", {"epoch": 2}, is_error=False)
    (told,) = trials.study.get_trials()
    trials.study.enqueue_trial(told.params)
    assert trials.next("b")["grid"][FINGERPRINT] != told.user_attrs[FINGERPRINT]
    states = [trial.state for trial in trials.study.get_trials()]
    assert states == [TrialState.PRUNED, TrialState.PRUNED, TrialState.RUNNING]


def leave_twins(results, data):
    """Leave what a killed search leaves that proposed a trial twice; return the trials' names."""
    proposals = open_trials(results, data, number=3, of=THREE)._proposals
    for number in (1, 1, 2, 3):
        chosen = {"policy.num_substeps": number}
        proposals._config(study.ask_again(proposals.study, chosen, proposals._space))
    return list(proposals.asked)


def test_twins_that_a_killed_search_left_take_no_trials_place(tmp_path, data):
    left = leave_twins(tmp_path, data)
    again = open_trials(tmp_path, data, number=3, of=THREE)
    assert [again.next(name)["grid"][FINGERPRINT] for name in "abc"] == left
    assert again.next("d") is None
    evaluate(registry.trial_folder(tmp_path, left[0]))
    again.end("a", {"epoch": 6}, is_error=False)
    assert [trial.value for trial in again.study.get_trials()] == [5.0, 5.0, None, None]


def test_twin_of_a_trial_that_came_to_its_end_before_a_kill_is_told_with_it(tmp_path, data):
    left = leave_twins(tmp_path, data)
    ended = registry.trial_folder(tmp_path, left[0])
    registry.queue(ended, THREE.config("tiny", TASK, {"policy.num_substeps": 1}).to_dict())
    evaluate(ended)
    again = open_trials(tmp_path, data, number=3, of=THREE)
    assert [again.next(name)["grid"][FINGERPRINT] for name in "bc"] == left[1:]
    assert [trial.value for trial in again.study.get_trials()] == [5.0, 5.0, None, None]


def test_trial_whose_folder_was_deleted_is_told_what_the_study_knows(tmp_path, data):
    only = dataclasses.replace(search, space={"policy.num_substeps": [2]})
    trials = open_trials(tmp_path, data, of=only)
    shutil.rmtree(registry.trial_folder(tmp_path, advance(trials, "a", data)))
    (told,) = trials.study.get_trials()
    study.ask_again(trials.study, told.params, read_space(only.space))
    again = open_trials(tmp_path, data, number=9, of=only)
    again._plan = dataclasses.replace(again._plan, num_trials=2)
    assert again.next("b") is None
    assert {trial.value for trial in again.study.get_trials()} == {told.value}


def test_proposal_that_a_kill_cut_off_is_none(tmp_path, data):
    trials = open_trials(tmp_path, data, number=2)
    trials.next("a")
    path = tmp_path / "tiny_search" / study.JOURNAL_FILE
    lines = path.read_text().splitlines(keepends=True)
    (second,) = (i for i, line in enumerate(lines) if "learner.actor_lr" in line)
    path.write_text("".join(lines[:second]))  # one of its two settings
    again = open_trials(tmp_path, data, number=2)
    assert [trial.state for trial in again.study.get_trials()] == [TrialState.FAIL]
    assert all(again.next(name) is not None for name in "ab")
    assert again.next("c") is None


def test_decision_to_stop_a_trial_outlives_the_search(tmp_path, data):
    trials = open_trials(tmp_path, data, number=2)
    folder = decide_to_stop(trials, "a")
    again = open_trials(tmp_path, data, number=2)  # the search was killed before the trial's end
    assert [trial.state for trial in again.study.get_trials()] == [TrialState.PRUNED]
    record = registry.read(folder)
    assert record.is_stopped_early
    assert record.last("reason") == "the search stopped early at epoch 2"
    (folder / "checkpoint.pt").write_bytes(b"as it was")
    always = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    (freed,) = find_freeable(tmp_path, [folder.name], [], always, [])
    assert [path.name for path in freed.files] == ["checkpoint.pt"]


def test_settling_leaves_alone_what_another_process_runs(tmp_path, data, monkeypatch):
    monkeypatch.setattr(deaths, "_DYING_SECONDS", 0.1)
    trials = open_trials(tmp_path, data)
    theirs, ours = (Path(trials.next(name)["grid"]["folder"]) for name in "ab")
    with claim.acquire(theirs / CLAIM_FILE):
        registry.record(theirs, Status.RUNNING)
        trials.settle("preempted", Status.QUEUED)
    assert registry.read(theirs).status is Status.RUNNING
    assert registry.read(ours).last("reason") == "preempted"
    assert registry.read(ours).status is Status.QUEUED
