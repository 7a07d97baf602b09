"""World models that others published, read into ours."""

import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pwmray import checkpoint_file
from pwmray.fidelity import Fidelity
from pwmray.models import WORLD_MODELS
from pwmray.models.checkpoints import (
    FORMAT,
    load_world_model,
    save_world_model,
)
from pwmray.models.layers import NormedLinear, SimNorm, normed_mlp
from pwmray.models.published import read_published
from pwmray.pickles import load_pickled
from pwmray.pretraining.pretrained import check_pretrained
from pwmray.tasks import TASKS
from tests.model_inputs import built, tiny_trial

PUBLISHED = Path(__file__).parent / "data" / "published"
PWM = PUBLISHED / "pwm_mlp" / "checkpoint.pt"
FLOW = PUBLISHED / "fork_flowwm_heun2" / "checkpoint.pt"
TDMPC2 = PUBLISHED / "tdmpc2" / "tdmpc2_old_api_tiny.pt"


def batch():
    data = np.load(PUBLISHED / "batch.npz")
    return {name: torch.from_numpy(data[name]) for name in ("obs", "act", "task")}


def expected(path, name):
    return torch.from_numpy(np.load(path)[name])


def relative_error(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def load(path):
    return load_pickled(path, trust=False)


def pretraining_content(**changes):
    weights = load(PWM)["world_model"]
    content = {
        "world_model": weights,
        "world_model_opt": {"state": {}, "param_groups": []},
        "iter": 200_000,
        "obs_dim": 24,
        "act_dim": 6,
        "horizon": 16,
        "task_set": "three",
        "is_best": True,
        "cfg": {"seed": 42},
    }
    return {**content, **changes}


def save_torch(path, content):
    torch.save(content, path)
    return path


def with_tensors(path, **changes):
    """Save the tiny PWM agent's world model with tensors changed, or left out where None."""
    weights = load(PWM)["world_model"]
    for name, tensor in changes.items():
        weights[name.replace("__", ".")] = tensor
    weights = {name: tensor for name, tensor in weights.items() if tensor is not None}
    return save_torch(path, {"world_model": weights, "actor": {}})


# What they compute and say.


@pytest.mark.parametrize(
    ("path", "reference"), [(PWM, "expected.npz"), (TDMPC2, "expected_old.npz")]
)
def test_imported_model_computes_what_the_published_one_did(path, reference, tmp_path):
    save_world_model(tmp_path / "model.pt", read_published(path))
    model = built(load_world_model(tmp_path / "model.pt"))
    data, wanted = batch(), path.parent / reference
    with torch.no_grad():
        e = model.embed(data["task"])
        z = model.encode(data["obs"], e.expand(9, 16, 16))
        after = model.next(z[0], e, data["act"][0])
        inputs = z[:8], e.expand(8, 16, 16), data["act"]
        logits, rewards = model.reward_logits(*inputs), model.reward(*inputs)
    wanted_logits = expected(wanted, "reward_logits").reshape(-1, 16, 101)  # TD-MPC2's: step 0
    wanted_rewards = expected(wanted, "almost_two_hot_inv").reshape(-1, 16, 1)
    assert relative_error(z, expected(wanted, "encode")) < 1e-5
    assert relative_error(after, expected(wanted, "next")) < 1e-5
    assert relative_error(logits[: len(wanted_logits)], wanted_logits) < 1e-5
    assert relative_error(rewards[: len(wanted_rewards)], wanted_rewards) < 1e-5


def test_embedding_of_an_imported_model_has_a_norm_of_at_most_1():
    model = built(read_published(PWM))
    wanted = expected(PWM.parent / "expected.npz", "emb_after")
    assert relative_error(model.embed(torch.arange(3)), wanted) < 1e-6


def test_flow_model_of_the_fork_is_put_into_our_column_order():
    imported = read_published(FLOW)
    velocity = normed_mlp(64 + 16 + 6 + 1, (64, 64), NormedLinear(64, 64, SimNorm()))
    reward_head = normed_mlp(64 + 16 + 6, (64, 64), nn.Linear(64, 101))
    velocity.load_state_dict(part(imported.state, "published_velocity."))
    reward_head.load_state_dict(part(imported.state, "reward_head."))
    wanted, data = FLOW.parent / "expected.npz", batch()
    e = expected(wanted, "emb_after")[data["task"]]
    inputs = torch.cat([expected(wanted, "encode")[0], e, data["act"][0]], -1)

    v = velocity(torch.cat([inputs, torch.full((16, 1), 0.25)], -1))

    assert relative_error(v, expected(wanted, "velocity_tau0.25")) < 1e-5
    assert relative_error(reward_head(inputs), expected(wanted, "reward_logits")[0]) < 1e-5
    assert imported.fidelity == "published"
    assert imported.source.input_order["reward_head"] == ("z", "action", "task")


def part(state, prefix):
    chosen = {name: tensor for name, tensor in state.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): tensor for name, tensor in chosen.items()}


def test_tdmpc2_file_says_what_it_is_and_what_is_ignored(tmp_path):
    content = load(TDMPC2)
    content["model"] |= {"_action_masks": torch.ones(3, 6), "log_std_min": torch.tensor(-10.0)}
    content["model"]["_terminated.0.weight"] = torch.ones(2, 2)
    found = read_published(save_torch(tmp_path / "mt30_48M_4900000.pt", content))
    assert found.source.format == "TD-MPC2 multitask"
    assert set(found.source.ignored) == {
        *("_pi", "_Qs", "_target_Qs", "_action_masks", "log_std_min", "_terminated")
    }
    assert (found.config.kind, found.num_tasks, found.iterations) == ("mlp", 3, 4_900_000)
    assert (found.config.encoder_units, found.config.units) == ((32, 32), (32, 32))


@pytest.mark.parametrize("kind", WORLD_MODELS)
def test_deep_model_of_unlike_widths_is_read_as_it_is(kind, tmp_path):
    config = WORLD_MODELS[kind].Config(
        latent_dim=24, encoder_units=(40, 48, 32), units=(56, 72, 80), task_dim=12, num_bins=11
    )
    made = WORLD_MODELS[kind](config, torch.Generator(), 3, Fidelity(tangent_velocity=False))
    names = {
        "task_embedding": "_task_emb", "encoder": "_encoder", "dynamics": "_dynamics",
        "published_velocity": "_velocity", "reward_head": "_reward",
    }  # fmt: skip
    parts = [(name.partition("."), tensor) for name, tensor in made.state_dict().items()]
    weights = {f"{names[p]}.{rest}": t for (p, _, rest), t in parts if p in names}
    found = read_published(save_torch(tmp_path / "a.pt", {"world_model": weights, "actor": {}}))
    assert found.config == config
    assert (found.num_tasks, found.obs_dim, found.action_dim) == (3, 24, 6)
    built(found)


def test_file_of_ours_from_before_it_said_how_it_was_trained_is_read(tmp_path):
    path = tmp_path / "model.pt"
    save_world_model(path, read_published(PWM))
    content = checkpoint_file.read(path, FORMAT, torch.device("cpu"))
    for name in ("run_iterations", "training"):
        del content[name]
    checkpoint_file.write(path, FORMAT, content)
    read = load_world_model(path)
    assert (read.run_iterations, read.training, read.num_tasks) == (None, {}, 3)
    del content["num_tasks"]
    checkpoint_file.write(path, FORMAT, content)
    with pytest.raises(ValueError, match=r"model\.pt lacks num_tasks$"):
        load_world_model(path)


@pytest.mark.parametrize(
    ("count", "known"), [(300, 300), (0, 0), (3.5, None), (-1, None), (True, None)]
)
def test_number_of_iterations_that_an_agent_says_is_taken_where_it_is_one(tmp_path, count, known):
    content = {"world_model": load(PWM)["world_model"], "actor": {}, "iter_count": count}
    assert read_published(save_torch(tmp_path / "agent.pt", content)).iterations == known


def test_pretraining_file_says_its_tasks_and_iterations(tmp_path):
    found = read_published(save_torch(tmp_path / "best.pt", pretraining_content()))
    assert (found.source.format, found.task_set) == ("PWM pretraining", "three")
    assert (found.iterations, found.obs_dim, found.action_dim) == (200_000, 24, 6)
    assert set(found.source.ignored) == {"world_model_opt", "is_best", "cfg"}
    assert found.source.input_order["dynamics"] == ("z", "task", "action")


def test_model_of_30_tasks_is_of_mt30_unless_the_user_says_otherwise(tmp_path):
    path = with_tensors(tmp_path / "agent.pt", _task_emb__weight=torch.zeros(30, 16))
    assert read_published(path).tasks == tuple(TASKS)
    with pytest.raises(ValueError, match=r"agent\.pt .* has 30 tasks; mt80 has 80"):
        read_published(path, "mt80")


def test_model_of_80_tasks_knows_the_tasks_of_mt30_by_the_same_numbers(tmp_path):
    weights = load(PWM)["world_model"]
    first = weights["_encoder.0.weight"]
    wider = torch.cat([first[:, :24], torch.ones(64, 15), first[:, 24:]], dim=1)
    embedding = torch.cat([weights["_task_emb.weight"], torch.zeros(77, 16)])
    path = with_tensors(
        tmp_path / "mt80.pt", _encoder__0__weight=wider, _task_emb__weight=embedding
    )
    found, data = read_published(path), batch()
    model = built(found)
    z = model.encode(data["obs"], model.embed(data["task"]).expand(9, 16, 16))
    assert (found.task_set, found.num_tasks, found.obs_dim) == ("mt80", 80, 39)
    assert relative_error(z, expected(PWM.parent / "expected.npz", "encode")) < 1e-5


@pytest.mark.parametrize(
    ("parts", "kept", "said"),
    [
        (("_dynamics", "_reward"), slice(84), "24 observations and 4 actions"),
        (("_encoder",), slice(4, None), "20 observations and 6 actions"),
    ],
)
def test_model_of_other_sizes_is_read_and_no_trial_starts_from_it(parts, kept, said, tmp_path):
    weights = load(PWM)["world_model"]
    other = {f"{p}__0__weight": weights[f"{p}.0.weight"][:, kept] for p in parts}
    path = with_tensors(tmp_path / "agent.pt", _task_emb__weight=torch.zeros(30, 16), **other)
    found = read_published(path)
    save_world_model(tmp_path / "model.pt", found)
    names = ("latent_dim", "encoder_units", "units", "task_dim")
    sizes = {f"world_model.{name}": getattr(found.config, name) for name in names}
    trial = tiny_trial(world_model_from=str(tmp_path / "model.pt"), finetune_wm=False, **sizes)
    with pytest.raises(ValueError, match=f"it takes {said}; ours take 24 and 6$"):
        check_pretrained(trial)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_reward__1__bias": None}, r"reward_head\.1\.bias is missing"),
        ({"_task_emb__weight": None}, r"task_embedding\.weight is missing"),
        ({"_encoder__1__weight": None}, r"encoder has 1 of the layers"),
        ({"_dynamics__3__weight": torch.ones(2, 2)}, r"dynamics\.3\.weight is not of this arch"),
        ({"_critic__weight": torch.ones(2)}, r"'_critic\.weight' is no tensor of a world model"),
        ({"_reward__1__bias": 3}, r"'_reward\.1\.bias' is no tensor"),
        (
            {"_reward__1__bias": torch.ones(64, device="meta")},
            r"'_reward\.1\.bias' is a tensor without data",
        ),
        ({"_task_emb__weight": torch.ones(3)}, r"weight has the shape \(3,\); it must be a mat"),
        (
            {"_dynamics__0__weight": torch.ones(64, 85)},
            r"dynamics\.0\.weight has the shape \(64, 85\), not \(64, 86\)",
        ),
        ({"_reward__0__weight": torch.ones(64, 80)}, r"86\), not \(64, 80\)"),
        (
            {"_reward__1__bias": torch.full((64,), torch.nan)},
            r"'reward_head\.1\.bias' has numbers",
        ),
        ({"_task_emb__weight": torch.ones(3, 40)}, r"leave \(0, -18\) columns for observation and"),
    ],
)
def test_published_file_with_other_tensors_is_named(change, message, tmp_path):
    path = with_tensors(tmp_path / "agent.pt", **change)
    with pytest.raises(ValueError, match=rf"agent\.pt \(PWM agent\): .*{message}"):
        read_published(path)


def test_published_file_with_a_sparse_tensor_is_named(tmp_path):
    path = with_tensors(tmp_path / "agent.pt", _reward__1__bias=torch.ones(64).to_sparse())
    said = r"'_reward\.1\.bias' is a torch\.sparse_coo tensor of torch\.float32; it must"
    with pytest.raises(ValueError, match=said):
        read_published(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_dim": 4}, r"says obs_dim, act_dim = \(24, 4\), its tensors say \(24, 6\)"),
        ({"iter": "many"}, r"its iter is 'many'; it must be a whole number"),
        ({"iter": True}, r"its iter is True; it must be a whole number"),
        ({"iter": -3}, r"its iter is -3; it must be a whole number"),
        ({"task_set": "mt30"}, r"has 3 tasks; mt30 has 30"),
    ],
)
def test_pretraining_file_that_contradicts_itself_is_named(change, message, tmp_path):
    path = save_torch(tmp_path / "best.pt", pretraining_content(**change))
    with pytest.raises(ValueError, match=rf"best\.pt.*{message}"):
        read_published(path)


def test_tasks_that_the_user_says_are_those_that_the_file_says(tmp_path):
    path = save_torch(tmp_path / "best.pt", pretraining_content())
    assert read_published(path, "three").task_set == "three"
    with pytest.raises(ValueError, match=r"best\.pt .*of the task set 'three', not 'mt30'"):
        read_published(path, "mt30")


def test_pretraining_file_without_its_keys_is_named(tmp_path):
    content = {"world_model": pretraining_content()["world_model"], "iter": 3}
    with pytest.raises(ValueError, match=r"p\.pt lacks obs_dim, act_dim, horizon, task_set"):
        read_published(save_torch(tmp_path / "p.pt", content))


# Safety.


class Settings:
    """A class that a file of others might bring along."""


class Failing:
    """A class whose own code fails where it is loaded."""

    def __getstate__(self):
        return {"some": "state"}

    def __setstate__(self, state):
        raise RuntimeError("no such state")


class RunningMeanStd:
    """Like the published statistics: of another package, with fields alone."""

    def __init__(self):
        self.mean = torch.ones(1)


def test_running_statistics_are_loaded_without_trust_and_without_their_code(tmp_path):
    path = save_torch(tmp_path / "agent.pt", {"ret_rms": RunningMeanStd()})
    loaded = load(path)["ret_rms"]
    assert type(loaded).__module__ == "pwmray.pickles"
    assert loaded.mean == torch.ones(1)


def test_more_than_tensors_is_refused_until_it_is_trusted(tmp_path):
    content = pretraining_content(cfg=Settings(), rms=RunningMeanStd())
    path = save_torch(tmp_path / "best.pt", content)
    with pytest.raises(ValueError, match=r"best\.pt is refused: .*Settings\).*pass --trust"):
        read_published(path)
    assert read_published(path, trust=True).iterations == 200_000


def test_trusted_file_whose_own_code_fails_is_named(tmp_path):
    path = save_torch(tmp_path / "best.pt", pretraining_content(cfg=Failing()))
    said = r"best\.pt is not a readable file of torch, or is cut short: .*no such state"
    with pytest.raises(ValueError, match=said):
        read_published(path, trust=True)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_damaged_pickle_is_named(share, tmp_path):
    path = tmp_path / "damaged.pt"
    with zipfile.ZipFile(PWM) as whole, zipfile.ZipFile(path, "w") as damaged:
        for name in whole.namelist():
            content = whole.read(name)
            cut = int(share * len(content)) if name.endswith("data.pkl") else len(content)
            damaged.writestr(name, content[:cut])
    with pytest.raises(ValueError, match=r"damaged\.pt is not a readable file of torch"):
        read_published(path)


def test_package_that_is_missing_is_named_although_trusted(tmp_path, monkeypatch):
    package = types.ModuleType("absent_package")
    monkeypatch.setitem(sys.modules, "absent_package", package)
    monkeypatch.setattr(Settings, "__module__", "absent_package")
    monkeypatch.setattr(package, "Settings", Settings, raising=False)
    path = save_torch(tmp_path / "best.pt", pretraining_content(cfg=Settings()))
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"best\.pt needs a package .*'absent_package'"):
        read_published(path, trust=True)


def test_package_of_the_running_statistics_need_not_be_here_although_others_are(
    tmp_path, monkeypatch
):
    package = types.ModuleType("absent_package")
    monkeypatch.setitem(sys.modules, "absent_package", package)
    monkeypatch.setattr(RunningMeanStd, "__module__", "absent_package")
    monkeypatch.setattr(package, "RunningMeanStd", RunningMeanStd, raising=False)
    content = pretraining_content(cfg=Settings(), rms=RunningMeanStd())
    path = save_torch(tmp_path / "best.pt", content)
    monkeypatch.undo()
    assert read_published(path, trust=True).iterations == 200_000
