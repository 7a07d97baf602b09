"""Every file in sweeps/: once its trials are done, the analysis answers what it asks."""

import json

import pytest

from analysis.load import load_sweep
from analysis.report import summarize_sweep
from pwmray import plan, registry, tables
from tests.made_trials import evaluate_by_hand
from tests.phases import SWEEPS


def leave_results(sweep, scale, folder):
    """Leave every trial of two tasks and two seeds evaluated, without training."""
    cells = sweep.cells(scale)
    tasks = list(dict.fromkeys(trial.task for trial in cells))[:2]
    seeds = list(dict.fromkeys(trial.seed for trial in cells))[:2]
    kept = [trial for trial in cells if trial.task in tasks and trial.seed in seeds]
    planned = plan.make(sweep, scale, kept, folder)
    sweep_folder = tables.open_sweep(planned, f"python sweeps/{sweep.name}.py")
    for trial in planned.trials:
        evaluate_by_hand(trial.config, registry.trial_folder(folder, trial.config.fingerprint))
    tables.Tables(sweep_folder).write()
    return sweep_folder


@pytest.mark.parametrize("scale", ["paper", "laptop"])
@pytest.mark.parametrize("name", SWEEPS)
def test_every_arm_is_compared_and_none_is_refused(name, scale, tmp_path):
    sweep = load_sweep(leave_results(SWEEPS[name], scale, tmp_path))
    summary = summarize_sweep(sweep)
    compared = summary.comparisons[0]
    assert [(str(row), row.differences) for row in compared.rows if row.differences] == []
    levels = {arm.factors[compared.factor] for arm in summary.arms}
    if len(levels) == 1:
        assert compared.rows == ()  # one variant at this scale
        return
    seen = [arm for row in compared.rows for arm in (row.baseline, row.level)]
    assert {json.dumps(arm.factors) for arm in seen} == {
        json.dumps(arm.factors) for arm in summary.arms
    }


def test_phase7_compares_the_flow_policies_with_the_gaussian_one(tmp_path):
    sweep = load_sweep(leave_results(SWEEPS["phase7_finetune"], "paper", tmp_path))
    for within in (None, ["task"]):
        (table,) = summarize_sweep(sweep, within=within).comparisons
        pairs = [(row.baseline_name, row.level_name) for row in table.rows]
        assert pairs == [("baseline", "flow_std"), ("baseline", "flow_high")] * 2
        assert table.averaged == ()
        assert [row.level for row in table.aggregates] == ["flow_std", "flow_high"]
