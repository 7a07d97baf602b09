"""The grid, the plan and the command line of a sweep; nothing here starts Ray."""

import dataclasses
import errno
import json
import os
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pwmray import (
    config,
    learner_code,
    plan,
    plan_text,
    pretrain_command,
    registry,
    results,
    room,
    sweep_options,
    tables,
)
from pwmray.build import count_parameters
from pwmray.config import TrialConfig
from pwmray.data.collected import collected_path
from pwmray.data.recipe import CollectionRecipe
from pwmray.data.sources import missing_data
from pwmray.data.store import write_store
from pwmray.outdated import describe_other_code
from pwmray.registry import Status, claim
from pwmray.registry.sweep_folders import SWEEP_FILE
from pwmray.sweep import Sweep
from pwmray.system import user_name
from tests import tiny_pretrained, tiny_search
from tests.planned_sweeps import PHASE6, cell, folder_of, run, stand_at
from tests.tiny import SCALES, sweep

ROOT = Path(__file__).parent.parent
SECONDS = {"train_seconds": 1.0, "evaluation_seconds": 1.0}


def states(results):
    trials = sweep.trials("tiny")
    return [planned.state for planned in plan.make(sweep, "tiny", trials, results).trials]


# The grid.


def test_phase6_is_72_trials_of_two_variants_four_budgets_three_tasks_and_three_seeds():
    trials = PHASE6.trials("paper")
    assert len(trials) == len({trial.fingerprint for trial in trials}) == 72
    assert {trial.variant for trial in trials} == {"baseline", "fullflow"}
    assert {trial.epochs for trial in trials} == {15_000, 50_000, 100_000, 150_000}
    assert {trial.task for trial in trials} == {"reacher-easy", "walker-stand", "cheetah-run"}
    assert {trial.seed for trial in trials} == {42, 123, 456}
    assert {trial.methodology for trial in trials} == {"joint_from_scratch"}


def test_phase6_at_paper_scale_has_the_default_48M_sizes():
    trials = PHASE6.trials("paper")
    cell = {"task": "cheetah-run", "seed": 456, "epochs": 150_000, "variant": "fullflow"}
    settings = {**cell, **PHASE6.scales["paper"]["set"], "runtime.gpu_type": "H200"}
    assert trials[-1] == TrialConfig.from_flat(settings)
    assert count_parameters(trials[0])["world_model"] == pytest.approx(18.98e6, abs=5e3)


def test_phase6_on_a_laptop_is_the_same_grid_with_other_values():
    paper, laptop = PHASE6.trials("paper"), PHASE6.trials("laptop")
    instead = PHASE6.scales["laptop"]["instead"]
    assert len(laptop) == 48
    assert [cell(trial) for trial in laptop] == [
        (trial.variant, instead["epochs"][trial.epochs], instead["task"][trial.task], trial.seed)
        for trial in paper
        if instead["task"][trial.task] is not None
    ]


def test_first_axis_changes_fastest_and_the_last_one_slowest():
    cells = [cell(trial) for trial in sweep.trials("tiny")]
    assert cells == [
        ("baseline", 4, "pendulum-spin", 42),
        ("fullflow", 4, "pendulum-spin", 42),
        ("baseline", 6, "pendulum-spin", 42),
        ("fullflow", 6, "pendulum-spin", 42),
        ("baseline", 4, "pendulum-spin", 123),
        ("fullflow", 4, "pendulum-spin", 123),
        ("baseline", 6, "pendulum-spin", 123),
        ("fullflow", 6, "pendulum-spin", 123),
    ]


def test_chosen_values_take_the_place_of_an_axis():
    trials = sweep.trials("tiny", {"task": ["cheetah-run"], "seed": [7]})
    assert {trial.task for trial in trials} == {"cheetah-run"}
    assert {trial.seed for trial in trials} == {7}
    assert len(trials) == 4


def test_cells_that_are_the_same_trial_count_once():
    scales = {"one": {"instead": {"epochs": {4: 6}}, "set": SCALES["tiny"]["set"]}}
    trials = dataclasses.replace(sweep, scales=scales).trials("one")
    assert [trial.epochs for trial in trials] == [6, 6, 6, 6]


def test_held_value_wins_over_the_scale_and_so_does_a_varied_one():
    scales = {"tiny": {**SCALES["tiny"], "set": {**SCALES["tiny"]["set"], "epochs": 99}}}
    held = {"learner.horizon": 9}
    trials = dataclasses.replace(sweep, hold=held, scales=scales).trials("tiny")
    assert {trial.learner.horizon for trial in trials} == {9}
    assert {trial.epochs for trial in trials} == {4, 6}


@pytest.mark.parametrize("axes", [{"compare": "optimizer"}, {"within": ["optimizer"]}])
def test_axis_that_is_compared_but_does_not_vary_is_named(axes):
    with pytest.raises(ValueError, match="sweep tiny: 'optimizer' is compared but does not vary"):
        dataclasses.replace(sweep, **axes).check()


def test_unknown_scale_is_shown_with_the_valid_ones():
    valid = "tiny, planned, longer, finer, impatient, rare, restless, alone, diverging"
    with pytest.raises(ValueError, match=rf"'tin'; did you mean 'tiny'\? valid: {valid}"):
        sweep.trials("tin")


def test_misspelled_setting_of_a_sweep_is_named():
    wrong = dataclasses.replace(sweep, hold={"learner.horizn": 3})
    with pytest.raises(ValueError, match=r"'learner\.horizn'; did you mean 'learner\.horizon'"):
        wrong.trials("tiny")


# The command line.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "pendlum-spin"], "'pendlum-spin'; did you mean 'pendulum-spin'"),
        (["--tasks", ""], "unknown task ''"),
        (["--tasks", "cheetah-run,cheetah-run"], "'cheetah-run' is given twice"),
        (["--scale", "tny"], "unknown scale 'tny'; did you mean 'tiny'"),
        (["--limit", "-1"], "'-1' is not a whole number of at least 1"),
        (["--limit", "0"], "'0' is not a whole number of at least 1"),
        (["--limit", "two"], "'two' is not a whole number of at least 1"),
        (["--limit", "1.5"], "'1.5' is not a whole number of at least 1"),
        (["--limit", "00"], "'00' is not a whole number of at least 1"),
        (["--devices", "1000000001"], "'1000000001' is too large; valid: 1 to 1000000000"),
        (["--devices", "9" * 5000], "99 is too large; valid: 1 to 1000000000"),
        (["--trials-per-gpu", "9" * 400], "is too large; valid: 1 to 1000000000"),
        (["--seeds", "42,x"], "'x' is not a seed"),
        (["--seeds", "42,"], "'' is not a seed"),
        (["--seeds", "-1"], "'-1' is not a seed"),
        (["--seeds", "42,42"], "42 is given twice"),
        (["--seeds", "42,042"], "42 is given twice"),
        (["--seeds", "99999999999999999999"], "99999999999999999999"),
        (["--sedes", "42"], "--sedes"),
        (["--addr", "auto"], "unrecognized arguments: --addr auto"),
        (["phase7"], "phase7"),
        (["--format", "yaml"], "'yaml'"),
        (["--seeds"], "--seeds"),
    ],
)
@pytest.mark.parametrize("mode", [["--plan"], []], ids=["plan", "run"])
def test_bad_input_is_one_line_with_exit_code_2_and_creates_nothing(
    arguments, message, mode, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)  # what gets that far has failed the test

    code, out, errors = run(capsys, *mode, *arguments)

    assert (code, out, len(errors)) == (2, "", 1)
    assert errors[0].startswith("error: ")
    assert message in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_results_folder_that_is_a_file_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")

    code, out, errors = run(capsys, "--results", "file")

    assert (code, out, len(errors)) == (2, "", 1)
    assert str(tmp_path / "file") in errors[0]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("mode", [["--plan"], []], ids=["plan", "run"])
def test_folder_with_another_scale_is_refused(mode, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "tiny").mkdir(parents=True)
    (tmp_path / "results" / "tiny" / "sweep.json").write_text('{"scale": "paper"}')

    code, out, errors = run(capsys, *mode, "--scale", "tiny")

    assert (code, out, len(errors)) == (2, "", 1)
    assert "holds the scale 'paper', not 'tiny'; give another folder with --results" in errors[0]
    assert [path.name for path in tmp_path.rglob("*")] == ["results", "tiny", "sweep.json"]


def test_broken_sweep_file_is_named(tmp_path, capsys):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "sweep.json").write_text("{")
    code, _, errors = run(capsys, "--plan", "--results", tmp_path)
    assert (code, len(errors)) == (2, 1)
    assert "sweep.json is not valid JSON" in errors[0]


def test_broken_record_of_a_trial_is_named(tmp_path, capsys):
    folder = folder_of(tmp_path, sweep.trials("tiny")[0])
    folder.mkdir(parents=True)
    (folder / registry.EVENTS_FILE).write_text("{broken\n{}\n")
    code, out, _ = run(capsys, "--plan", "--results", tmp_path)
    (line,) = (line for line in out.splitlines() if line.startswith("left out: "))
    assert code == 0 and f"{folder / registry.EVENTS_FILE} line 1 is not an event" in line


def test_option_for_an_axis_that_does_not_vary_is_refused(tmp_path, capsys):
    held = Sweep(
        name="held",
        vary={"seed": [1, 2]},
        hold={"task": "pendulum-spin", "epochs": 4},
        compare="seed",
        within=[],
        scales=SCALES,
    )
    code, _, errors = run(capsys, "--plan", "--tasks", "cheetah-run", of=held)
    assert (code, len(errors)) == (2, 1)


@pytest.mark.parametrize("form", ["table", "json"])
def test_plan_writes_nothing(form, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, errors = run(capsys, "--plan", "--format", form)
    assert (code, errors) == (0, [])
    assert out
    assert list(tmp_path.iterdir()) == []


def test_plan_as_json_names_the_sweep_and_its_trials(tmp_path, capsys):
    code, out, _ = run(capsys, "--plan", "--format", "json", "--results", tmp_path)

    content, trials = json.loads(out), sweep.trials("tiny")
    assert code == 0
    assert (content["name"], content["scale"]) == ("tiny", "tiny")
    assert content["results"] == str(tmp_path)
    assert content["counts"] == {"new": 8}
    assert [t["fingerprint"] for t in content["trials"]] == [t.fingerprint for t in trials]
    assert [(t["variant"], t["epochs"], t["task"], t["seed"]) for t in content["trials"]] == [
        cell(trial) for trial in trials
    ]


def test_plan_as_a_table_has_a_line_a_trial_and_the_sums(tmp_path, capsys):
    _, out, _ = run(capsys, "--plan", "--results", tmp_path)
    lines = out.splitlines()
    assert lines[1].startswith(sweep.trials("tiny")[0].fingerprint)
    assert lines[10] == "sweep tiny at scale tiny: 8 trials (8 new)"
    assert lines[11].startswith(
        "to run: 8 trials, about 0.4 device minutes; minutes by: 10 minutes"
    )


def test_plan_says_what_a_run_would_be_refused_for(tmp_path, monkeypatch):
    planned = plan.make(sweep, "tiny", sweep.trials("tiny")[:1], tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    why = f"cannot write results to {tmp_path / 'tiny'}: {tmp_path} is not yours to write to"
    assert f"cannot run: {why}" in plan_text.as_table(planned).splitlines()
    assert json.loads(plan_text.as_json(planned))["cannot_run"] == why


def test_plan_names_the_data_that_is_missing(tmp_path, capsys):
    places = ["--plan", "--results", tmp_path / "results", "--data", tmp_path / "data"]
    _, out, _ = run(capsys, *places)
    assert out.splitlines()[-1] == (
        "missing: data of pendulum-spin, which the sweep collects first"
    )
    code, out, errors = run(capsys, *places, "--scale", "paper", of=PHASE6)
    assert (code, errors) == (0, [])
    (line,) = (line for line in out.splitlines() if line.startswith("missing: "))
    assert line.startswith(f"missing: mt30 is not in {tmp_path / 'data'}; import it with")
    assert "pwmray data import" in line
    _, out, _ = run(capsys, *places, "--scale", "paper", "--format", "json", of=PHASE6)
    assert [f"missing: {said}" for said in json.loads(out)["missing_data"]] == [line]


def test_plan_says_that_its_minutes_leave_out_collections_in_rounds(tmp_path):
    recipes = [CollectionRecipe(num_rounds=rounds) for rounds in (0, 2, 3)]
    (line,) = missing_data([("pendulum-spin", recipe) for recipe in recipes], tmp_path)
    assert line == (
        "data of pendulum-spin, which the sweep collects first; 2 collections in rounds, whose "
        "minutes are not in those of the trials"
    )


def test_plan_names_what_an_earlier_version_of_the_learner_has_done(tmp_path, capsys, monkeypatch):
    first, second, *_ = sweep.trials("tiny")
    now = first.fingerprint
    monkeypatch.setattr(config, "FORMAT", config.FORMAT - 1)
    before = TrialConfig.from_dict(first.to_dict()).fingerprint
    monkeypatch.undo()
    settings = [json.dumps(trial.to_dict()) for trial in (first, second)]
    table = [
        {"trial": before, "status": "EVALUATED", "config": settings[0]},
        {"trial": second.fingerprint, "status": "EVALUATED", "config": settings[1]},
        {"trial": "0" * 16, "status": "FAILED", "config": settings[1]},
        {"trial": "1" * 16, "status": "EVALUATED", "config": '{"task": "of other settings"}'},
    ]
    for row, trial in zip(table, (first, second, second, first), strict=True):
        row.update(task=trial.task, variant=trial.variant, epochs=trial.epochs, seed=trial.seed)
    (tmp_path / sweep.name).mkdir()
    results.write_rows(tmp_path / sweep.name / "trials.arrow", table, results.TRIALS)
    _, out, _ = run(capsys, "--plan", "--results", tmp_path, "--data", tmp_path / "data")
    assert before != now
    assert out.splitlines()[-1] == (
        "note: 1 trial to run is done by an earlier version of the learner, whose results do not "
        f"count here: {before}"
    )
    stand_at(tmp_path, first, Status.EVALUATED, **SECONDS)
    _, out, _ = run(capsys, "--plan", "--results", tmp_path, "--data", tmp_path / "data")
    assert "earlier version of the learner" not in out


def test_what_no_command_can_run_any_more_leaves_the_sweep_unless_it_is_done(tmp_path):
    first, second, other, *_ = sweep.trials("tiny")

    def open_sweep():
        planned = plan.make(sweep, "tiny", [first, second], tmp_path)
        return tables.open_sweep(planned, "python tiny.py") / SWEEP_FILE

    settings = second.to_dict()
    stand_at(tmp_path, other, Status.QUEUED)  # of a grid that shrank
    for name, moves in (("0" * 16, "QUEUED"), ("1" * 16, "QUEUED RUNNING COMPLETED EVALUATED")):
        folder = registry.trial_folder(tmp_path, name)  # of an earlier version of the learner
        registry.queue(folder, settings)
        for move in moves.split()[1:]:
            registry.record(folder, Status(move))
    path = open_sweep()
    about = json.loads(path.read_text())
    asked = about["trials"]
    about["trials"] = [*asked, other.fingerprint, "0" * 16, "1" * 16]
    del about["format"]  # as an earlier version leaves it
    path.write_text(json.dumps(about))
    assert json.loads(open_sweep().read_text())["trials"] == [*asked, other.fingerprint, "1" * 16]


@pytest.mark.parametrize("option", [["--format", "json"], ["--devices", "3"]])
def test_option_of_the_plan_without_it_runs_nothing(option, tmp_path, capsys):
    said = f"error: {option[0]} is an option of --plan; give both, or neither to run"
    assert run(capsys, *option, "--results", tmp_path / "results") == (2, "", [said])
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("experiment", [sweep, tiny_search.search])
def test_python_without_docstrings_runs_nothing(experiment, tmp_path, capsys, monkeypatch):
    flags = SimpleNamespace(flags=SimpleNamespace(optimize=2))
    monkeypatch.setattr(sweep_options, "sys", flags)
    said = "error: Ray needs docstrings: leave out -OO, or unset PYTHONOPTIMIZE"
    places = ("--scale", "tiny", "--results", tmp_path / "results")
    assert run(capsys, *places, of=experiment) == (2, "", [said])
    assert not (tmp_path / "results").exists()
    assert run(capsys, *places, "--plan", of=experiment)[0] == 0


def test_plan_counts_the_done_trials_of_other_data_than_is_there_now(tmp_path, capsys):
    first, second, *_, last = sweep.trials("tiny")
    path = collected_path(first.task, first.data, tmp_path / "data")
    arrays = np.zeros((5, 3), np.float32), np.zeros((5, 1), np.float32), np.zeros(5, np.float32)
    now = write_store(path, first.task, *arrays, [5], ["uniform"], first.data.collection)
    for trial, fingerprint in ((first, now), (second, "0" * 16), (last, "1" * 16)):
        stand_at(tmp_path, trial, Status.EVALUATED, **SECONDS, data_fingerprint=fingerprint)
    places = ["--plan", "--results", tmp_path, "--data", tmp_path / "data"]
    _, out, _ = run(capsys, *places)
    assert out.splitlines()[-1] == (
        "note: 2 done trials were trained on data of pendulum-spin that has changed since; to "
        f"train again, delete from {tmp_path}/trials: {second.fingerprint}, {last.fingerprint}"
    )
    _, out, _ = run(capsys, *places, "--format", "json")
    assert json.loads(out)["on_other_data"] == [second.fingerprint, last.fingerprint]
    _, out, _ = run(capsys, *places[:-1], tmp_path / "elsewhere")
    assert "note: " not in out


def test_plan_names_the_trials_that_begin_again_for_their_data_changed(tmp_path, capsys):
    first, second, third, *_ = sweep.trials("tiny")
    path = collected_path(first.task, first.data, tmp_path / "data")
    arrays = np.zeros((5, 3), np.float32), np.zeros((5, 1), np.float32), np.zeros(5, np.float32)
    now = write_store(path, first.task, *arrays, [5], ["uniform"], first.data.collection)
    for trial, fingerprint in ((first, now), (second, "0" * 16), (third, "0" * 16)):
        stand_at(tmp_path, trial, Status.CANCELLED, data_fingerprint=fingerprint)
    for trial in (first, second):  # without a checkpoint the third has nothing to lose
        (folder_of(tmp_path, trial) / "checkpoint.pt").touch()
    places = ["--plan", "--results", tmp_path, "--data", tmp_path / "data"]
    _, out, _ = run(capsys, *places)
    assert out.splitlines()[-1] == (
        "note: 1 trial begins again at epoch 0, since the data of pendulum-spin changed: "
        f"{second.fingerprint}"
    )
    assert "(1 resumes, 1 again, 6 new)" in out
    empty = dict.fromkeys(results.CURVE.names)
    for trial in (first, second):
        rows = [{**empty, "trial": trial.fingerprint, "epoch": 2}]
        results.write_rows(folder_of(tmp_path, trial) / "curve.arrow", rows, results.CURVE)
    made = plan.make(sweep, "tiny", [first, second], tmp_path, data_dir=tmp_path / "data")
    assert [trial.epochs_done for trial in made.trials] == [2, 0]
    _, out, _ = run(capsys, *places, "--format", "json")
    assert json.loads(out)["to_begin_again"] == [second.fingerprint]


def test_plan_tells_what_other_code_has_trained_so_far(tmp_path, capsys):
    ours = learner_code.fingerprints(world_model="mlp", policy="gaussian")
    old = {"code_fingerprint": "f1"}  # of an earlier version
    done, also_done, of_ours, half_done, *others = sweep.trials("tiny")
    for trial, code in ((done, old), (also_done, old), (of_ours, ours), (others[0], {})):
        stand_at(tmp_path, trial, Status.EVALUATED, **SECONDS, **code)
    for trial in (half_done, others[1]):  # the second has no checkpoint to go on from
        stand_at(tmp_path, trial, Status.CANCELLED, **old)
    (folder_of(tmp_path, half_done) / "checkpoint.pt").touch()
    rows = [{**dict.fromkeys(results.CURVE.names), "epoch": 2}]
    results.write_rows(folder_of(tmp_path, half_done) / "curve.arrow", rows, results.CURVE)
    _, out, _ = run(capsys, "--plan", "--results", tmp_path, "--data", tmp_path / "data")
    assert out.splitlines()[-2:] == [
        "note: 1 trial goes on that was begun by other code of the learner; to begin again, delete "
        f"from {tmp_path}/trials: {half_done.fingerprint}",
        "note: 2 done trials were trained by other code of the learner than those to run will be, "
        f"which no summary compares with them: {done.fingerprint} and others",
    ]
    made = plan.make(sweep, "tiny", [done, also_done], tmp_path)
    assert describe_other_code(made) == []


def test_plan_names_the_kind_whose_code_is_other_where_trials_of_it_are_still_to_run(tmp_path):
    all_trials = sweep.trials("tiny")
    baselines = [trial for trial in all_trials if trial.variant == "baseline"]
    flows = [trial for trial in all_trials if trial.variant == "fullflow"]
    ours = learner_code.fingerprints(world_model="mlp", policy="gaussian")
    edited = {**ours, "world_model_code": "mlp 0a1b2c3d"}
    stand_at(tmp_path, baselines[0], Status.EVALUATED, **SECONDS, **edited)
    assert describe_other_code(plan.make(sweep, "tiny", [baselines[0], *flows], tmp_path)) == []
    assert describe_other_code(plan.make(sweep, "tiny", baselines, tmp_path)) == [
        "note: 1 done trial was trained by other code of world model mlp than those to run will "
        f"be, which no summary compares with them: {baselines[0].fingerprint}"
    ]


def test_a_data_file_is_opened_once_for_all_done_trials(tmp_path, capsys, monkeypatch):
    for trial in sweep.trials("tiny"):
        stand_at(tmp_path, trial, Status.EVALUATED, **SECONDS, data_fingerprint="0" * 16)
    opened = []
    monkeypatch.setattr("pwmray.plan.current_fingerprint", lambda *of: opened.append(of))
    run(capsys, "--plan", "--results", tmp_path)
    assert len(opened) == len({trial.task for trial in sweep.trials("tiny")})


def test_options_choose_what_is_planned(tmp_path, capsys):
    options = ["--tasks", "cheetah-run, walker-run", "--seeds", "7", "--limit", "3"]
    _, out, _ = run(capsys, "--plan", "--format", "json", "--results", tmp_path, *options)
    trials = json.loads(out)["trials"]
    assert [trial["task"] for trial in trials] == ["cheetah-run"] * 3
    assert {trial["seed"] for trial in trials} == {7}


def test_options_choose_among_levels_that_set_other_keys_too(tmp_path, capsys):
    seeds = [{"seed": seed, "learner.horizon": 3 + seed} for seed in (1, 2)]
    paired = dataclasses.replace(sweep, vary={**sweep.vary, "seed": seeds})
    trial = paired.cells("tiny", {"seed": [2]})[0]
    assert (trial.seed, trial.learner.horizon) == (2, 5)
    code, out, errors = run(capsys, "--plan", "--seeds", "2,7", "--results", tmp_path, of=paired)
    assert (code, out, len(errors)) == (2, "", 1)
    assert "unknown level of seed '7'; valid: 1, 2" in errors[0]


def test_phase6_is_planned_whole_at_every_scale(tmp_path, capsys):
    options = ["--plan", "--format", "json", "--results", tmp_path]
    _, paper, _ = run(capsys, *options, "--scale", "paper", of=PHASE6)
    _, laptop, _ = run(capsys, *options, "--scale", "laptop", of=PHASE6)
    assert json.loads(paper)["counts"] == {"new": 72}
    assert json.loads(laptop)["counts"] == {"new": 48}  # two of the three tasks


# The plan.


def test_plan_tells_where_each_trial_stands(tmp_path):
    trials = sweep.trials("tiny")
    stand_at(tmp_path, trials[1], Status.EVALUATED, train_seconds=1.0, evaluation_seconds=1.0)
    stand_at(tmp_path, trials[2], Status.FAILED, reason="diverged")
    stand_at(tmp_path, trials[3], Status.CANCELLED)
    (folder_of(tmp_path, trials[3]) / "checkpoint.pt").touch()
    stand_at(tmp_path, trials[4], Status.RUNNING)
    stand_at(tmp_path, trials[5], Status.QUEUED)
    stand_at(tmp_path, trials[6], Status.RUNNING)
    (folder_of(tmp_path, trials[6]) / "checkpoint.pt").touch()
    stand_at(tmp_path, trials[7], Status.COMPLETED)
    (folder_of(tmp_path, trials[7]) / "checkpoint.pt").touch()

    with claim.acquire(folder_of(tmp_path, trials[4]) / registry.CLAIM_FILE):
        found = states(tmp_path)

    expected = ["new", "done", "failed", "resumes", "running", "new", "resumes", "resumes"]
    assert found == expected


def test_trial_whose_process_is_gone_is_not_running(tmp_path):
    trial = sweep.trials("tiny")[0]
    stand_at(tmp_path, trial, Status.RUNNING)
    claim.acquire(folder_of(tmp_path, trial) / registry.CLAIM_FILE).release()
    assert states(tmp_path)[0] == "new"


def test_only_trials_that_are_not_done_and_not_running_are_run(tmp_path):
    trials = sweep.trials("tiny")
    stand_at(tmp_path, trials[0], Status.EVALUATED, train_seconds=1.0, evaluation_seconds=1.0)
    stand_at(tmp_path, trials[1], Status.RUNNING)

    with claim.acquire(folder_of(tmp_path, trials[1]) / registry.CLAIM_FILE):
        made = plan.make(sweep, "tiny", trials, tmp_path)

    assert [planned.config for planned in made.to_run] == trials[2:]
    assert made.counts() == {"done": 1, "running": 1, "new": 6}


def test_plan_counts_the_disk_of_two_checkpoints_with_weights_and_both_moments(tmp_path):
    made = plan.make(sweep, "tiny", sweep.trials("tiny")[:1], tmp_path)
    num_parameters = sum(count_parameters(made.trials[0].config).values())
    assert made.disk_bytes > 24 * num_parameters
    assert made.disk_bytes < 24 * num_parameters + 10_000


def test_checkpoints_that_are_there_need_no_room_again(tmp_path):
    trial = sweep.trials("tiny")[0]
    folder = registry.trial_folder(tmp_path, trial.fingerprint)
    registry.queue(folder, trial.to_dict())
    whole = plan.make(sweep, "tiny", [trial], tmp_path).trials[0].checkpoint_bytes
    (folder / registry.CHECKPOINT_FILE).write_bytes(bytes(1000))
    made = plan.make(sweep, "tiny", [trial], tmp_path).trials[0]
    assert (made.state, made.checkpoint_bytes) == ("resumes", whole - 1000)
    (folder / registry.BEST_FILE).hardlink_to(folder / registry.CHECKPOINT_FILE)
    made = plan.make(sweep, "tiny", [trial], tmp_path).trials[0]
    assert made.checkpoint_bytes == whole - 1000
    (folder / registry.BEST_FILE).unlink()
    (folder / registry.BEST_FILE).write_bytes(bytes(whole))
    assert plan.make(sweep, "tiny", [trial], tmp_path).trials[0].checkpoint_bytes == 0


def test_plan_that_does_not_fit_on_the_disk_is_refused(tmp_path):
    made = plan.make(sweep, "tiny", sweep.trials("tiny")[:1], tmp_path / "not" / "yet")
    huge = dataclasses.replace(made.trials[0], checkpoint_bytes=10**18, curve_bytes=0)
    with pytest.raises(ValueError, match=rf"1 trial: 1000000000\.0 GB needed, {tmp_path} has"):
        plan.check_disk(dataclasses.replace(made, trials=[huge]))
    plan.check_disk(made)


def test_plan_that_a_quota_leaves_no_room_is_refused_before_it_runs(tmp_path, monkeypatch):
    made = plan.make(sweep, "tiny", sweep.trials("tiny")[:1], tmp_path / "not" / "yet")

    def exceed(file):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", exceed)
    with pytest.raises(ValueError, match=rf"MB needed, {tmp_path} takes less: a quota, or its"):
        plan.check_disk(made)
    assert "cannot run" not in plan_text.as_table(made)  # --plan writes nothing, so cannot know
    plan.check_disk(dataclasses.replace(made, trials=[]))
    assert list(tmp_path.iterdir()) == []


def test_room_for_a_sweep_is_looked_for_before_its_world_models_are_made(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(room, "takes", lambda *_: False)
    monkeypatch.setattr(pretrain_command, "run_pretrainings", pytest.fail)
    options = ["--scale", "tiny", "--pretrain", "--results", str(tmp_path)]
    with pytest.raises(SystemExit, match="2"):
        tiny_pretrained.sweep.main(options)
    assert f"{tmp_path} takes less: a quota" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tiny", "trials"])
def test_part_of_the_results_that_is_another_users_is_refused(tmp_path, monkeypatch, name):
    made = plan.make(sweep, "tiny", sweep.trials("tiny")[:1], tmp_path)
    (tmp_path / name).mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path / name)  # root may do all
    monkeypatch.setattr(os, "geteuid", lambda: 1_234_567)
    whose = f"{user_name(tmp_path.stat().st_uid)}'s$"
    told = f"cannot write results .*/{name} is not yours to write to, but {whose}"
    with pytest.raises(ValueError, match=told):
        plan.check_disk(made)


@pytest.mark.parametrize(
    ("mode", "umask", "is_told"),
    [(0o2775, 0o077, True), (0o2775, 0o002, False), (0o2755, 0o077, False), (0o775, 0o077, False)],
)
def test_umask_that_shuts_others_out_of_shared_results_is_told(tmp_path, mode, umask, is_told):
    made = plan.make(sweep, "tiny", sweep.trials("tiny")[:1], tmp_path)
    tmp_path.chmod(mode)
    before = os.umask(umask)
    try:
        assert (
            any(f"umask {umask:03o} " in line for line in plan_text.describe_notes(made)) is is_told
        )
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


def test_sweeps_that_ask_for_the_same_trial_share_it(tmp_path):
    trial = sweep.trials("tiny")[0]
    other = dataclasses.replace(sweep, name="other")
    stand_at(tmp_path, trial, Status.EVALUATED, train_seconds=1.0, evaluation_seconds=1.0)
    made = plan.make(other, "tiny", other.trials("tiny"), tmp_path)
    assert Counter(planned.state for planned in made.trials) == {"done": 1, "new": 7}
