"""Which pretraining a sweep's trial starts from: what it may set for itself does not change it."""

import itertools

import pytest
import torch

from pwmray import plan
from pwmray.config import TrialConfig
from pwmray.data.store import open_store
from pwmray.pretrain_command import Pretraining
from pwmray.pretraining.config import PretrainingConfig
from pwmray.pretraining.run import pretrain
from pwmray.sweep import PRETRAINED, Sweep
from tests.tiny import SCALES, SETTINGS

CPU = torch.device("cpu")
TASK = "pendulum-spin"
SCALE = {"tasks": (TASK,), "iterations": 2, "batch_size": 8, "check_every": 1}
SCALES_WITH_PRETRAINING = {"tiny": {**SCALES["tiny"], "pretrain": SCALE}}
HOLD = {"epochs": 4, "variant": "fullflow", "world_model_from": PRETRAINED, "task": TASK}


def make_sweep(vary, **hold):
    return Sweep(
        name="few",
        vary=vary,
        hold={key: value for key, value in {**HOLD, **hold}.items() if key not in vary},
        compare=next(iter(vary)),
        within=[],
        scales=SCALES_WITH_PRETRAINING,
    )


def pretrain_by_the_command(tmp_path, data, vary):
    """Run what the hinted command runs; return the files by label."""
    files = {}
    specified = Pretraining(name="made", vary=vary, scales=SCALES_WITH_PRETRAINING)
    for config in specified.configs("tiny"):
        folder = config.folder(tmp_path)
        pretrain(config, folder, [open_store(data)], CPU, lambda *_: None)
        files[config.label] = str(folder / "best.ckpt")
    return files


@pytest.mark.parametrize(
    "axes",
    [
        {"world_model.integrator": ["euler", "rk4"], "world_model[flow].num_substeps": [1, 3]},
        {"learner.model_lr": [1e-4, 1e-3], "learner.wm_horizon": [2, 4]},
        {"learner.discount": [0.9, 0.99], "learner.horizon": [2, 5]},
        {"data.num_episodes": [6, 7], "world_model.standardize": [False, True]},
        {"policy.units": [(8,), (16,)], "fidelity.td_lambda": [False, True]},
    ],
)
def test_what_a_trial_may_set_for_itself_does_not_change_the_file_it_takes(axes, tmp_path, data):
    made = pretrain_by_the_command(tmp_path, data, {"world_model.kind": ["flow"]})
    sweep = make_sweep(axes, seed=1)
    trials = sweep.trials("tiny", results=tmp_path)
    assert len(trials) == 4
    assert {trial.world_model_from for trial in trials} == set(made.values())
    plan.make(sweep, "tiny", trials, tmp_path)


def test_flow_that_corrects_one_published_error_starts_from_the_published_flow(tmp_path, data):
    vary = {"world_model.kind": ["flow"], "fidelity": ["corrected", "published"]}
    made = pretrain_by_the_command(tmp_path, data, vary)
    sweep = make_sweep({"fidelity.td_lambda": [False, True], "seed": [1]}, fidelity="published")
    taken = {trial.world_model_from for trial in sweep.trials("tiny", results=tmp_path)}
    assert taken == {made["flow world model, published"]}


def test_size_and_kind_do_change_it(tmp_path):
    widths, variants = [16, 24], ["baseline", "fullflow"]
    plain = {**SETTINGS, **HOLD, "seed": 1}
    trials = [
        TrialConfig.from_flat({**plain, "world_model.latent_dim": width, "variant": variant})
        for width, variant in itertools.product(widths, variants)
    ]
    scale = SCALES_WITH_PRETRAINING["tiny"]
    assert len({PretrainingConfig.behind(trial, scale).fingerprint for trial in trials}) == 4
    sweep = make_sweep({"variant": variants, "world_model.latent_dim": widths}, seed=1)
    with pytest.raises(ValueError, match="no pretrained mlp world model, corrected at"):
        sweep.trials("tiny", results=tmp_path)
