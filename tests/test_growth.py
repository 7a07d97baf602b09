"""A sweep that grows runs its new cells alone, and no trial takes another's work for its own."""

import dataclasses
import functools
from collections import Counter

import pytest
import torch

from pwmray import plan, registry, results
from pwmray.data.collected import ensure_data
from pwmray.envs.vector import make_vector
from pwmray.registry import Status
from pwmray.trial import Trial
from tests.planned_sweeps import cell, stand_at
from tests.tiny import sweep

make_environments = functools.cache(make_vector)


def grown(**axes):
    return dataclasses.replace(sweep, vary={**sweep.vary, **axes})


def finish(tmp_path, trials):
    for trial in trials:
        stand_at(tmp_path, trial, Status.EVALUATED, train_seconds=1.0, evaluation_seconds=1.0)


@pytest.mark.parametrize(
    ("axis", "levels", "added"),
    [
        ("seed", [42, 123, 456], lambda trial: trial.seed == 456),
        ("task", ["pendulum-spin", "cheetah-run"], lambda trial: trial.task == "cheetah-run"),
        ("epochs", [4, 6, 8], lambda trial: trial.epochs == 8),
        ("variant", ["baseline", "flowwm", "fullflow"], lambda trial: trial.variant == "flowwm"),
    ],
)
def test_grown_axis_runs_only_its_new_cells(axis, levels, added, tmp_path):
    finish(tmp_path, sweep.trials("tiny"))
    larger = grown(**{axis: levels})
    trials = larger.trials("tiny")
    made = plan.make(larger, "tiny", trials, tmp_path)
    assert [planned.config for planned in made.to_run] == list(filter(added, trials))
    assert made.counts() == {"done": 8, "new": len(made.to_run)}


def test_axis_added_to_a_sweep_shares_the_cells_at_the_default(tmp_path):
    finish(tmp_path, sweep.trials("tiny"))
    larger = grown(**{"learner.horizon": [3, 5]})  # 3 is the scale's
    made = plan.make(larger, "tiny", larger.trials("tiny"), tmp_path)
    assert Counter(planned.state for planned in made.trials) == {"done": 8, "new": 8}
    assert {planned.config.learner.horizon for planned in made.to_run} == {5}


def test_sweeps_that_overlap_share_their_trials_whatever_their_order_and_runtime(tmp_path):
    finish(tmp_path, sweep.trials("tiny"))
    other = dataclasses.replace(
        sweep,
        name="other",
        vary={"seed": [123, 7], **{axis: sweep.vary[axis] for axis in ("task", "epochs")}},
        hold={"variant": "fullflow", "runtime.num_cpus": 2, "runtime.gpu_type": "H100"},
        compare="seed",
        within=["task"],
    )
    made = plan.make(other, "tiny", other.trials("tiny"), tmp_path)
    done = [cell(planned.config) for planned in made.trials if planned.state == "done"]
    assert done == [("fullflow", 4, "pendulum-spin", 123), ("fullflow", 6, "pendulum-spin", 123)]
    assert {planned.config.seed for planned in made.to_run} == {7}


def run_trial(folder, config, data):
    registry.record(folder, Status.PENDING, config=config.to_dict())
    registry.record(folder, Status.QUEUED)
    trial = Trial(config, folder, data, make_environments, torch.device("cpu"))
    while not trial.is_finished:
        trial.advance()
    trial.close()
    return results.read_table(folder / "curve.arrow").drop_columns(["seconds", "trial"])


def test_longer_budget_does_not_go_on_from_a_shorter_one(tmp_path, short_episodes):
    short, long = (trial for trial in sweep.trials("tiny") if cell(trial)[::3] == ("baseline", 42))
    data = ensure_data(short.task, short.data, tmp_path / "data", make_vector)
    assert (short.epochs, long.epochs) == (4, 6)
    alone = run_trial(tmp_path / "alone", long, data)

    shorter = run_trial(registry.trial_folder(tmp_path, short.fingerprint), short, data)
    made = plan.make(sweep, "tiny", [short, long], tmp_path)
    longer = run_trial(registry.trial_folder(tmp_path, long.fingerprint), long, data)

    assert [planned.state for planned in made.trials] == ["done", "new"]
    assert longer.equals(alone)
    assert longer["epoch"].to_pylist() == [2, 4, 6]
    # The rates of the longer budget fall more slowly, so their epochs are not the same.
    assert shorter.slice(0, 2) != longer.slice(0, 2)
