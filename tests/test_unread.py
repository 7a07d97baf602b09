"""Trials that differ in settings that they do not read: trained alike, and told of by the plan."""

import dataclasses
import functools
from pathlib import Path

import pytest
import torch

from pwmray import plan, registry, results
from pwmray.algorithm.planner import PlannerConfig
from pwmray.build import build_learner
from pwmray.config import TrialConfig
from pwmray.data.collected import ensure_data
from pwmray.envs.vector import make_vector
from pwmray.levels import setting_of
from pwmray.models.checkpoints import describe_world_model, save_world_model
from pwmray.registry import Status
from pwmray.sweep import Sweep
from pwmray.trial import Trial
from pwmray.unread import describe_repeated, find_unread
from tests.tiny import SCALES, UNPLANNED

TASK = "pendulum-spin"
BASE = {**UNPLANNED, "task": TASK, "seed": 42, "epochs": 2}
OF_FLOWS = {
    "learner.matching_weight",
    "fidelity.exploration_floor",
    "fidelity.tangent_velocity",
    "fidelity.constant_flow_start",
    "fidelity.integrated_consistency",
}
WEIGHTS = {"learner.consistency_weight", "learner.matching_weight", "learner.reward_weight"}
BATCHES = {"learner.wm_batch_size", "learner.wm_iterations"}
STEPS = {"learner.model_lr", "learner.model_clip"}
PLANNER = {f"planner.{field.name}" for field in dataclasses.fields(PlannerConfig)}
make_environments = functools.cache(make_vector)
pytestmark = pytest.mark.usefixtures("short_episodes")


def another(value):
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value / 2


def run_trial(config: TrialConfig, data: Path, folder: Path):
    """Return the trial's curve, without times, and the episodes of its evaluation."""
    registry.queue(folder, config.to_dict())
    trial = Trial(config, folder, data, make_environments, torch.device("cpu"))
    while not trial.is_finished:
        trial.advance()
    trial.close()
    curve = results.read_table(folder / "curve.arrow").drop_columns(["trial", "seconds"])
    return curve, results.read_table(folder / "evaluations.arrow").drop_columns(["trial"])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"variant": "baseline"}, OF_FLOWS),
        (
            {"variant": "baseline", "fidelity": "published"},
            {*OF_FLOWS, *WEIGHTS, *BATCHES, "learner.wm_horizon", "learner.td_lambda"},
        ),
        (
            {"variant": "fullflow", "fidelity.integrated_consistency": False},
            {"learner.consistency_weight"},
        ),
        (
            {"variant": "fullflow", "fidelity": "published"},
            {*WEIGHTS, *BATCHES, "learner.wm_horizon", "learner.td_lambda"},
        ),
        (
            {"variant": "baseline", "world_model_from": "", "finetune_wm": False},
            {*OF_FLOWS, *WEIGHTS, *BATCHES, *STEPS, "world_model.standardize"},
        ),
    ],
)
def test_what_a_trial_does_not_read_changes_nothing_of_it(settings, expected, tmp_path):
    if "world_model_from" in settings:
        model = build_learner(TrialConfig.from_flat({**BASE, "variant": "baseline"})).world_model
        settings = {**settings, "world_model_from": str(tmp_path / "model.ckpt")}
        described = describe_world_model(model, "corrected", "few", (TASK,), 200, "d1")
        save_world_model(tmp_path / "model.ckpt", described)
    config = TrialConfig.from_flat({**BASE, **settings})
    unread = find_unread(config)
    assert unread == expected | PLANNER
    changed = {key: another(setting_of(config, key)) for key in unread}
    other = TrialConfig.from_flat({**BASE, **settings, **changed})
    data = ensure_data(TASK, config.data, tmp_path / "data", make_vector)
    one, two = (run_trial(c, data, tmp_path / c.fingerprint) for c in (config, other))
    assert config.fingerprint != other.fingerprint
    assert one == two


def test_trial_that_plans_reads_the_planners_settings():
    planned = {**BASE, "variant": "fullflow", "evaluation.plan_episodes": 1}
    assert find_unread(TrialConfig.from_flat(planned)) == set()


def test_plan_says_which_trials_would_only_repeat_others(tmp_path):
    sweep = Sweep(
        name="weights",
        vary={
            "variant": ["baseline", "fullflow"],
            "learner.matching_weight": [5.0, 10.0, 20.0],
            "task": [TASK],
            "seed": [1],
        },
        hold={"epochs": 2},
        compare="variant",
        within=["task"],
        scales=SCALES,
        gpus={"learner.matching_weight": {20.0: "H100"}},  # where a trial runs makes no other one
    )
    configs = sweep.cells("tiny")
    made = plan.make(sweep, "tiny", configs, tmp_path)
    assert describe_repeated(made) == [
        "note: 2 trials would only repeat others: what tells them apart, learner.matching_weight, "
        "they do not read: pendulum-spin-baseline-2-seed1-10.0 and others"
    ]
    for config in configs:
        folder = registry.trial_folder(tmp_path, config.fingerprint)
        registry.queue(folder, config.to_dict())
        for status in (Status.RUNNING, Status.COMPLETED, Status.EVALUATED):
            registry.record(folder, status, train_seconds=1.0, evaluation_seconds=1.0)
    assert describe_repeated(plan.make(sweep, "tiny", configs, tmp_path)) == []
    swept = dataclasses.replace(
        sweep, vary={**sweep.vary, "learner.matching_weight": [5.0]}, gpus={}
    )
    assert describe_repeated(plan.make(swept, "tiny", swept.cells("tiny"), tmp_path / "new")) == []
