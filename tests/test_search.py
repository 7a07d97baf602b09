"""A search: its space, its study that is kept, early stopping, and going on with it."""

import contextlib
import dataclasses
import datetime
import errno
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import torch
from optuna.trial import TrialState
from ray.tune.error import TuneError

from pwmray import deaths, registry
from pwmray.commands import run_command
from pwmray.commands.prune import find_freeable
from pwmray.config import TrialConfig
from pwmray.data.collected import ensure_data
from pwmray.driver import connect, interruption
from pwmray.driver.notify import Notices
from pwmray.driver.tune_callbacks import StopEarly, unwrapped
from pwmray.envs.vector import make_vector
from pwmray.registry import CLAIM_FILE, Status, claim
from pwmray.results import read_table
from pwmray.search import run as search_run
from pwmray.search import study
from pwmray.search import trials as search_trials
from pwmray.search.plan import SearchPlan, as_json, as_table
from pwmray.search.study import FINGERPRINT
from pwmray.search.trials import SearchTrials
from pwmray.tracking.recording import Mode
from pwmray.tracking.wandb_state import read_state
from pwmray.trial import Trial
from tests.test_sweep import run
from tests.tiny_search import search

TASK = "pendulum-spin"
TINY = Path(__file__).parent / "tiny_search.py"
THREE = dataclasses.replace(search, space={"policy.num_substeps": [1, 2, 3]})
make_environments = functools.cache(make_vector)
pytestmark = pytest.mark.usefixtures("short_episodes")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    config = search.config("tiny", TASK, {})
    return ensure_data(TASK, config.data, tmp_path_factory.mktemp("data"), make_vector)


@pytest.fixture(autouse=True)
def one_machine():
    with pytest.MonkeyPatch.context() as patch:  # a test may undo those of its own
        patch.setattr(connect, "machines", lambda: [{"CPU": 1.0}])
        yield


def make_plan(results, number=5, of=search):
    return SearchPlan.make(of, "tiny", [TASK], number, results)


def open_trials(results, data, number=5, of=search, **options):
    plan = make_plan(results, number, of)
    return SearchTrials(plan, TASK, data, {"CPU": 1.0}, "python search.py", **options)


def advance(trials, name, data, until=None):
    """Run the next trial as a trainable does, to its end, to where it is stopped, or `until`."""
    config = trials.next(name)
    if config is None:
        return None
    grid = config["grid"]
    trial = Trial(
        TrialConfig.from_dict(json.loads(grid["trial"])),
        Path(grid["folder"]),
        data,
        make_environments,
        torch.device("cpu"),
    )
    row = {"epoch": trial.epoch}
    is_stopped = False
    while not (trial.is_finished or is_stopped or trial.epoch == until):
        row = trial.advance()
        is_stopped = not trial.is_finished and trials.is_stopped(name, row)
    trial.close()
    if until is None:
        trials.end(name, row, is_error=False)
    return grid[FINGERPRINT]


def evaluate(folder):
    for status in (Status.RUNNING, Status.COMPLETED, Status.EVALUATED):
        registry.record(folder, status, return_mean=5.0)


# The space.


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "the search space is empty"),
        ({"policy.num_substeps": []}, r"'policy.num_substeps' is \[\]: valid: a list of choices"),
        ({"policy.num_substeps": "124"}, "is '124': valid: a list of choices"),
        ({"learner.model_lr": {"low": 1.0}}, "a range has low and high, and may have log"),
        ({"learner.model_lr": {"low": 1.0, "high": 2.0, "lg": True}}, "a range has low and high"),
        ({"learner.model_lr": {"low": 2.0, "high": 1.0}}, "'learner.model_lr' is {.*}: .*low"),
        ({"learner.model_lr": {"low": 0.0, "high": 1.0, "log": True}}, "'learner.model_lr' is"),
        ({"learner.model_rl": [1.0]}, "unknown config key 'learner.model_rl'; did you mean"),
        ({"policy.num_substeps": [0]}, "policy.num_substeps is 0; it must be at least 1"),
        ({"policy.num_substeps": [1, 2, 0]}, "policy.num_substeps is 0; it must be at least 1"),
        ({"policy.integrator": ["euler", "hune"]}, "policy.integrator is 'hune'"),
        ({"learner.td_lambda": {"low": 0.5, "high": 1.5}}, "learner.td_lambda is 1.5"),
        (
            {"world_model[flow].num_substeps": [1, 2], "learner.actor_lr": [1e-3, 1e-2]},
            r"search tiny_search: 'world_model\[flow\].num_substeps' changes nothing of any trial",
        ),
    ],
)
def test_space_that_cannot_be_searched_is_refused(space, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        make_plan(tmp_path, of=dataclasses.replace(search, space=space))


def test_choice_that_asks_for_another_keys_is_searched(tmp_path, data):
    space = {"policy.kind": ["gaussian", "flow"], "policy[flow].num_substeps": [1, 2]}
    kinds = dataclasses.replace(search, space=space, hold={"epochs": 6, "seed": 1})
    plan = make_plan(tmp_path, of=kinds)
    assert len(plan.cells) == plan.num_trials == 3  # a Gaussian has no substeps
    trials = open_trials(tmp_path, data, of=kinds)
    configs = [trials.next(str(number)) for number in range(4)]
    assert len({config["grid"][FINGERPRINT] for config in configs[:3]}) == 3
    assert configs[3] is None


def test_choices_that_are_tuples_are_searched_and_gone_on_with(tmp_path, recwarn):
    space = {"policy.units": [(16,), (32,), (8, 8)], **search.space}
    widths = dataclasses.replace(search, space=space)
    for _ in range(2):  # TPE begins with ten draws
        plan = make_plan(tmp_path, of=widths)
        found = plan.open_study(TASK)
        for value in range(12):
            trial = found.ask(study.read_space(space))
            units = plan.config(TASK, trial.params).policy.units
            assert units in space["policy.units"]
            found.tell(trial, value)
    assert not recwarn.list


def test_number_of_trials_is_at_most_that_of_different_settings(tmp_path):
    space = {"policy.num_substeps": list(range(1, 31)), "learner.horizon": list(range(2, 32))}
    assert make_plan(tmp_path, 999, dataclasses.replace(search, space=space)).num_trials == 900


def test_space_with_nothing_new_is_asked_again_when_a_trial_has_ended(tmp_path, data, monkeypatch):
    monkeypatch.setattr("pwmray.search.plan._MOST_CELLS", 0)  # as of a space that has too many
    trials = open_trials(tmp_path, data, number=9, of=THREE)
    assert all(trials.next(name) is not None for name in "abc")
    assert [trials.next("d") for _ in range(20)] == [None] * 20
    num_proposals = len(trials.study.get_trials())
    assert num_proposals < 20
    evaluate(registry.trial_folder(tmp_path, next(iter(trials._asked))))
    trials.end("a", {"epoch": 6}, is_error=False)
    assert trials.next("d") is None
    assert len(trials.study.get_trials()) > num_proposals
    assert not trials.is_over


def test_scale_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="search tiny_search: at_scale: unknown scale 'tny'"):
        dataclasses.replace(search, at_scale={"tny": {"num_trials": 1}}).check()


@pytest.mark.parametrize("key", ["seed", "epochs", "task", "data.num_episodes", "runtime.num_cpus"])
def test_what_makes_returns_incomparable_is_not_searched_over(key):
    with pytest.raises(ValueError, match=f"search tiny_search: '{key}' cannot be searched over"):
        dataclasses.replace(search, space={key: [1, 2]}).check()


def test_search_that_is_changed_is_another_study(tmp_path):
    names = [
        make_plan(tmp_path, of=changed).open_study(TASK).study_name
        for changed in (
            search,
            dataclasses.replace(search, num_trials=9),
            dataclasses.replace(search, space={"policy.num_substeps": [1, 2]}),
            dataclasses.replace(search, hold={**search.hold, "epochs": 8}),
        )
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_plan_of_a_changed_search_says_what_does_not_count(tmp_path, data):
    trials = open_trials(tmp_path, data)
    for number in range(2):
        fail(trials, f"{number}", reason="the loss is nan", failure="non-finite")
    said = "study.journal has 2 trials of pendulum-spin with other settings of the search; they do"
    assert said not in as_table(make_plan(tmp_path))
    changed = dataclasses.replace(search, hold={**search.hold, "epochs": 8})
    assert said in as_table(make_plan(tmp_path, of=changed))


def test_trials_that_ended_on_other_data_than_is_there_now_are_told(
    tmp_path, data, monkeypatch, capsys
):
    trials = open_trials(tmp_path, data)
    advance(trials, "0", data)
    advance(trials, "1", data)
    data_dir = data.parent.parent
    for folder, notes in ((None, 0), (data_dir, 0), (tmp_path / "none", 0)):
        plan = dataclasses.replace(make_plan(tmp_path), data_dir=folder)
        assert as_table(plan).count("note: ") == notes
    monkeypatch.setattr("pwmray.search.plan.current_fingerprint", lambda *_: "0" * 16)
    said = f"note: 2 of {TASK}'s trials ended on other data of it than is there now"
    plan = dataclasses.replace(make_plan(tmp_path), data_dir=data_dir)
    assert said in as_table(plan)
    _, out, _ = run(capsys, "--plan", "--results", tmp_path, "--data", data_dir, of=search)
    assert said in out
    one = next((tmp_path / "trials").iterdir())
    (one / "events.jsonl").write_text("<<<<<<< HEAD\n")
    assert said.replace("2 of", "1 of") in as_table(plan)


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


def test_driver_that_ends_meanwhile_is_waited_for(tmp_path, capsys):
    plan = make_plan(tmp_path)
    before = claim.acquire(tmp_path / "tiny_search" / "claim.json")
    threading.Timer(0.5, before.release).start()
    with search_run._acquire(plan, patience_seconds=60) as held:
        assert held.is_held
    assert re.fullmatch(
        rf"another process runs tiny_search in \S+: pid {os.getpid()} on \S+; waiting up to 60 s\n",
        capsys.readouterr().out,
    )


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


def test_search_whose_ray_slurm_ended_is_gone_on_with(tmp_path, data, capsys, monkeypatch):
    monkeypatch.setenv("PWMRAY_ENDED_NODES", f"{tmp_path}/ended.")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setattr(interruption, "_TOLD_SECONDS", 0.0)
    (tmp_path / "ended.n1").touch()
    asked = []

    def search_until_ray_dies(begins, opened, *_):
        opened.append(next(iter(begins))(offered={"CPU": 1.0}))
        asked.append(Path(opened[0].next("a")["grid"]["folder"]))
        raise ConnectionError("the GCS is gone")

    monkeypatch.setattr(search_run, "_prepare", lambda plan, tasks, *_: dict.fromkeys(tasks, data))
    monkeypatch.setattr(search_run, "_search_tasks", search_until_ray_dies)
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


def test_time_left_is_of_all_tasks_to_come(tmp_path, data, capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(search_trials, "time", SimpleNamespace(monotonic=lambda: now[0]))
    trials = open_trials(tmp_path, data, number=3, num_later=60)
    now[0] += 90
    fail(trials, "a", reason="the loss is nan", failure="non-finite")
    assert "failed: the loss is nan; 93 min left\n" in capsys.readouterr().out
    now[0] += 10
    fail(trials, "b")
    assert "it runs again; 103 min left\n" in capsys.readouterr().out


def test_tables_of_a_search_are_a_sweeps(tmp_path, data):
    trials = open_trials(tmp_path, data, number=1)
    fingerprint = advance(trials, "0", data)
    trials.settle()
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
    study.ask_again(trials.study, running.params, study.read_space(search.space))
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


def leave_twins(results, data):
    """Leave what a killed search leaves that proposed a trial twice; return the trials' names."""
    trials = open_trials(results, data, number=3, of=THREE)
    for number in (1, 1, 2, 3):
        chosen = {"policy.num_substeps": number}
        trials._config(study.ask_again(trials.study, chosen, trials._space))
    return list(trials._asked)


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
    study.ask_again(trials.study, told.params, study.read_space(only.space))
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


def test_decision_to_stop_a_trial_outlives_the_search(tmp_path, data, monkeypatch):
    trials = open_trials(tmp_path, data, number=2)
    folder = Path(trials.next("a")["grid"]["folder"])
    registry.record(folder, Status.RUNNING)
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: True)
    assert trials.is_stopped("a", {"epoch": 2, "return_mean": 1.0})
    monkeypatch.undo()
    again = open_trials(tmp_path, data, number=2)  # the search was killed before the trial's end
    assert [trial.state for trial in again.study.get_trials()] == [TrialState.PRUNED]
    record = registry.read(folder)
    assert record.is_stopped_early
    assert record.last("reason") == "the search stopped early at epoch 2"
    (folder / "checkpoint.pt").write_bytes(b"as it was")
    always = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    (freed,) = find_freeable(tmp_path, [folder.name], [], always)
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


@pytest.fixture
def lock(monkeypatch):
    """Return a function after which nothing in a folder can be written, as it looks from here."""

    def lock(folder):
        acquire, append = claim.acquire, registry.append_lines

        def refuse(write, path, *arguments, **options):
            if path.parent == folder:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return write(path, *arguments, **options)

        monkeypatch.setattr(claim, "acquire", functools.partial(refuse, acquire))
        monkeypatch.setattr(registry, "append_lines", functools.partial(refuse, append))

    return lock


def test_trial_whose_folder_cannot_be_written_any_more_ends_no_search(
    tmp_path, data, lock, monkeypatch, capsys
):
    trials = open_trials(tmp_path, data, number=3)
    locked, other = (Path(trials.next(name)["grid"]["folder"]) for name in "ab")
    lock(locked)
    trials.die("a", "The actor died unexpectedly")
    trials.end("a", None, is_error=True)
    assert trials.next("c") is not None
    trials.settle("it is looked at before it is dropped")
    monkeypatch.undo()
    out = capsys.readouterr().out
    assert f"claim.json: what became of {locked.name} could not be recorded" in out
    assert "its end is not recorded: the next run takes it up" in out
    assert registry.read(other).status is Status.CANCELLED
    again = open_trials(tmp_path, data, number=3)
    assert again.next("a")["grid"]["folder"] == str(locked)
    lock(other)
    assert again.next("b")["grid"]["folder"] != str(other)


def test_full_disk_ends_a_search_in_one_line(capsys):
    def end_trial():
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "study.journal")
        except OSError:
            raise TuneError(traceback.format_exc())  # noqa: B904 (as Tune does)

    def search():
        with unwrapped(StopEarly()):
            end_trial()

    assert run_command(search) == 2
    assert capsys.readouterr().err == "error: No space left on device: study.journal\n"
    with pytest.raises(TuneError), unwrapped(StopEarly()):
        raise TuneError("its own")


@pytest.mark.parametrize("is_gone", [True, False])
def test_file_that_went_with_ray_is_no_error_of_the_persons(is_gone, tmp_path, monkeypatch):
    monkeypatch.setenv("PWMRAY_ENDED_NODES", f"{tmp_path}/ended.")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setattr(connect, "is_connected", lambda: True)
    (tmp_path / f"ended.n{1 if is_gone else 2}").touch()
    stopper = StopEarly()
    raised = contextlib.nullcontext() if is_gone else pytest.raises(FileNotFoundError)
    with raised, unwrapped(stopper):
        try:
            (tmp_path / "error.pkl").read_bytes()
        except FileNotFoundError:
            raise TuneError("a traceback")  # noqa: B904
    assert stopper.is_ray_lost == is_gone


def test_search_says_once_what_its_trials_run_without(tmp_path, data, capsys):
    trials = open_trials(tmp_path, data)
    scheduler = search_run._StudyScheduler(trials, interruption.Interruption())
    capsys.readouterr()
    for name in ("a", "b"):
        grid = trials.next(name)["grid"]
        how = {"cuda_graph": "off: CUDA out of memory", "kernels": "on", "host": "n1"}
        registry.record(Path(grid["folder"]), Status.RUNNING, **how)
        for epoch in (2, 4):
            of_tune = SimpleNamespace(trial_id=name, config={"grid": grid})
            scheduler.on_trial_result(None, of_tune, {"epoch": epoch, "return_mean": 1.0})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("cuda_graph off: CUDA out of memory (first seen: tiny_search ")
    assert line.endswith(" trial 1 on n1)")


def test_trial_stopped_early_is_recorded_once_its_folder_can_be_written(
    tmp_path, data, lock, monkeypatch
):
    trials = open_trials(tmp_path, data, number=2)
    folder = Path(trials.next("a")["grid"]["folder"])
    registry.record(folder, Status.RUNNING)
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: True)
    assert trials.is_stopped("a", {"epoch": 2, "return_mean": 1.0})
    lock(folder)
    trials.end("a", {"epoch": 2}, is_error=False)
    monkeypatch.undo()
    again = open_trials(tmp_path, data, number=2)
    assert [trial.state for trial in again.study.get_trials()] == [TrialState.PRUNED]
    assert registry.read(folder).is_stopped_early


def fail(trials, name, **fields):
    """Have the next trial fail as its process records it, or die where there are no `fields`."""
    grid = trials.next(name)["grid"]
    folder = Path(grid["folder"])
    if fields:
        registry.record(folder, Status.FAILED, **fields)
    else:
        trials.die(name, "The actor died unexpectedly")
    trials.end(name, None, is_error=True)
    return grid


def test_failed_trial_is_told_with_its_reason(tmp_path, data, capsys):
    trials = open_trials(tmp_path, data, number=1)
    fail(trials, "a", reason="the loss is nan", failure="non-finite")
    assert trials.study.get_trials()[0].state is TrialState.FAIL
    assert "1 of 1: failed: the loss is nan\n" in capsys.readouterr().out
    assert trials.next("b") is None
    assert trials.is_over


def test_what_failed_is_tried_again_when_a_person_starts_the_search(tmp_path, data, monkeypatch):
    grid = fail(open_trials(tmp_path, data, number=1), "a", reason="TypeError", failure="code")
    plan = make_plan(tmp_path, 1)
    assert plan.num_left(plan.studies()[TASK]) == 1
    assert "1 failed" in as_table(plan)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert open_trials(tmp_path, data, number=1).next("b") is None
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    again = open_trials(tmp_path, data, number=1)
    assert advance(again, "c", data) == grid[FINGERPRINT]
    assert again.next("d") is None
    assert plan.num_left(plan.studies()[TASK]) == 0
    assert "pendulum-spin: 1 done\n" in as_table(plan)
    assert "confirm it in a sweep, with seeds other than 1" in as_table(plan)


def test_failures_of_a_search_are_told_each_once(tmp_path, data):
    notices = Notices("tiny_search", None)
    told = []
    notices.failures = lambda *said: told.append(said)
    trials = open_trials(tmp_path, data, number=2, tell_failure=notices.failure)
    for number in range(3):  # the first two are not its end
        fail(trials, f"{number}")
    fail(trials, "a", reason="the loss is nan", failure="non-finite")
    assert [number for number, _, _ in told] == [1, 2]
    assert told[0][1].startswith("its process died")
    assert told[1][1:] == ("the loss is nan", "tiny_search pendulum-spin 2 of 2")


def test_trial_whose_process_died_runs_again_until_it_had_its_retries(tmp_path, data, capsys):
    trials = open_trials(tmp_path, data, number=1)
    folders = set()
    for number in range(3):
        grid = fail(trials, f"{number}")
        folders.add(grid["folder"])
        said = capsys.readouterr().out
        assert "1 of 1: failed: its process died" in said
        assert ("it runs again" in said) == (number < 2)
    (folder,) = map(Path, folders)
    assert registry.read(folder).all("retry") == ["process died"] * 2
    assert [trial.state for trial in trials.study.get_trials()] == [TrialState.FAIL]


def test_trial_that_runs_again_goes_on_and_is_told_of_once(tmp_path, data):
    trials = open_trials(tmp_path, data, number=1)
    first = advance(trials, "a", data, until=4)
    trials.die("a", "The actor died unexpectedly")
    trials.end("a", None, is_error=True)
    assert advance(trials, "b", data) == first
    record = registry.read(registry.trial_folder(tmp_path, first))
    assert record.all("epoch") == [0, 4]
    (trial,) = trials.study.get_trials()
    assert (trial.state, trial.value) == (TrialState.COMPLETE, record.last("return_mean"))


def test_trial_whose_dead_process_still_holds_it_is_left_to_the_next_run(
    tmp_path, data, monkeypatch, capsys
):
    monkeypatch.setattr(deaths, "_DYING_SECONDS", 0.1)
    trials = open_trials(tmp_path, data, number=1)
    folder = Path(trials.next("a")["grid"]["folder"])
    registry.record(folder, Status.RUNNING)
    with claim.acquire(folder / CLAIM_FILE):
        trials.die("a", "The node has died")
        trials.end("a", None, is_error=True)
    assert "1 of 1: its process died and still holds it" in capsys.readouterr().out
    assert trials.study.get_trials()[0].state is TrialState.RUNNING
    assert trials.next("b") is None
    assert open_trials(tmp_path, data, number=1).next("c")["grid"]["folder"] == str(folder)


def test_trial_that_others_wait_for_is_not_the_end_of_a_search(tmp_path, data):
    """It may fail, and then it is to run again."""
    trials = open_trials(tmp_path, data, number=1)
    trials.next("a")
    assert trials.next("b") is None
    assert not trials.is_over


def test_trial_out_of_memory_is_given_twice_its_share(tmp_path, data, monkeypatch):
    monkeypatch.setattr(connect, "largest_machine", lambda: {"CPU": 2, "GPU": 0})
    trials = open_trials(tmp_path, data, number=1)
    grid = fail(trials, "a", reason="out of memory", failure="out of memory")
    assert grid["bundle"] == {"CPU": 1}
    assert trials.next("b")["grid"]["bundle"] == {"CPU": 2}


def test_search_ends_when_its_first_trials_die_of_one_bug(tmp_path, data):
    trials = open_trials(tmp_path, data)
    for number in range(3):
        assert trials.bug is None
        fail(trials, f"{number}", reason="TypeError: no", failure="code")
    assert trials.bug == "TypeError: no"
    assert trials.next("d") is None


def test_search_with_a_trial_done_goes_on_whatever_its_failures(tmp_path, data):
    trials = open_trials(tmp_path, data)
    evaluate(Path(trials.next("a")["grid"]["folder"]))
    trials.end("a", None, is_error=False)
    for number in range(2):
        fail(trials, f"{number}", reason="TypeError: no", failure="code")
    trials = open_trials(tmp_path, data)
    for number in range(4):  # those two again, and two new ones
        fail(trials, f"{number}", reason="TypeError: no", failure="code")
    assert trials.bug is None
    assert len(study.outcomes(trials.study)) == 5


def test_search_waits_for_the_trial_that_started_before_those_that_died(tmp_path, data):
    trials = open_trials(tmp_path, data)
    trials.next("slow")
    for number in range(3):
        fail(trials, f"{number}", reason="TypeError: no", failure="code")
    assert trials.bug is None
    registry.record(
        trials._folder(trials._live["slow"][1]), Status.FAILED, reason="TypeError: no",
        failure="code",
    )  # fmt: skip
    trials.end("slow", None, is_error=True)
    assert trials.bug == "TypeError: no"


def test_space_is_drawn_jointly_and_goes_on_with_other_draws(tmp_path):
    plan = make_plan(tmp_path)
    space = study.read_space(search.space)
    first = plan.open_study(TASK)
    assert first.sampler._multivariate
    drawn = [first.ask(space).params["learner.actor_lr"] for _ in range(2)]
    drawn += [plan.open_study(TASK).ask(space).params["learner.actor_lr"] for _ in range(2)]
    assert len(set(drawn)) == 4
    assert all(1e-4 <= value <= 1e-2 for value in drawn)


# On Ray.


def start(folder, *options):
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, str(TINY), "--scale", "tiny", *options],
        cwd=folder, stdout=pipe, stderr=pipe, text=True,
        env={**os.environ, "PYTHONPATH": str(TINY.parent.parent)},
    )  # fmt: skip


def wait_for_an_end(folder):
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        for path in (folder / "results" / "trials").glob("*"):
            if registry.read(path).status in (Status.EVALUATED, Status.CANCELLED):
                return
        time.sleep(0.2)
    raise TimeoutError("no trial came to an end")


def stop_search(folder, stop, code):
    """Stop a search once a trial has come to an end; return what it printed."""
    process = start(folder)
    wait_for_an_end(folder)
    process.send_signal(stop)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in out + err
    return out


def kill_a_trial(folder):
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        for path in (folder / "results" / "trials").glob("*"):
            record = registry.read(path)
            if record.status is Status.RUNNING:
                os.kill(record.last("pid"), signal.SIGKILL)
                return path
        time.sleep(0.05)
    raise TimeoutError("no trial ran")


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
    process = start(tmp_path)
    killed = kill_a_trial(tmp_path)
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
    time.sleep(5.0)  # the workers of a killed driver take as long to notice

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
    monkeypatch.setattr(search_run, "ray", SimpleNamespace(cluster_resources=dict, shutdown=list))
    monkeypatch.setattr(search_run.connect, "connect", lambda address: None)
    stop = interruption.Interruption()
    trials = search_run._search_task(begin, opened, tmp_path, None, stop)
    stop.leave()
    assert trials is opened[1]
    assert ran[0] == ran[1]  # what the first left, and no other
    moves = [e["status"] for e in registry.read(registry.trial_folder(tmp_path, ran[0])).events]
    # Never CANCELLED: where Slurm took the machine, the job comes back for it.
    assert moves == ["PENDING", "QUEUED", "QUEUED", "QUEUED"]
    assert "Ray's node on this machine died; going on with another" in capsys.readouterr().out


def test_trials_that_tune_stops_without_a_ray_are_not_stopped_early(tmp_path, data):
    trials = open_trials(tmp_path, data)
    stopper = StopEarly()
    searcher = search_run._StudySearcher(trials, interruption.Interruption(), stopper)
    trials.next("a")
    stopper.is_ray_lost = True
    searcher.on_trial_complete("a", {"epoch": 2, "return_mean": 1.0})
    assert [trial.state for trial in trials.study.get_trials()] == [TrialState.RUNNING]
