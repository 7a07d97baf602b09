"""What a new kind gets wrong is said in one line before anything runs."""

import dataclasses
import random

import numpy
import pytest
import torch

from pwmray.contract import check_promises
from pwmray.models import POLICIES, WORLD_MODELS
from pwmray.models.policy_gaussian import GaussianPolicy
from pwmray.models.world_model_mlp import MLPWorldModel
from pwmray.pretrain_command import Pretraining
from pwmray.sweep import Sweep
from tests.model_inputs import tiny_trial
from tests.planned_sweeps import run
from tests.studies import make_plan
from tests.tiny_search import search


class SameWorldModel(MLPWorldModel):
    pass


class ScalarWorldModel(MLPWorldModel):
    def next(self, z_BL, e_BT, a_BA):
        return super().next(z_BL, e_BT, a_BA).mean(-1, keepdim=True)


class StatefulWorldModel(MLPWorldModel):
    def next(self, z_BL, e_BT, a_BA):
        return super().next(z_BL, e_BT, a_BA), z_BL


class MeanLossWorldModel(MLPWorldModel):
    def matching_loss(self, z_BL, e_BT, a_BA, target_BL, tau_B1):
        return (self.next(z_BL, e_BT, a_BA) - target_BL).square().mean()


class FlatRewardWorldModel(MLPWorldModel):
    def reward(self, z_BL, e_BT, a_BA):
        return super().reward(z_BL, e_BT, a_BA).squeeze(-1)


class ForgetfulWorldModel(MLPWorldModel):
    def next(self, z_BL, a_BA):
        return z_BL


class DroppingWorldModel(MLPWorldModel):
    def next(self, z_BL, e_BT, a_BA):
        return super().next(torch.nn.functional.dropout(z_BL, 0.1), e_BT, a_BA)


class RowsWorldModel(MLPWorldModel):
    """A GRU takes rows, and none of the planner's two leading dimensions."""

    def _build_dynamics(self):
        self.cell = torch.nn.GRUCell(self.input_dim - self.latent_dim, self.latent_dim)

    def next(self, z_BL, e_BT, a_BA):
        return self.cell(torch.cat([e_BT, a_BA], dim=-1), z_BL)


class BatchNormWorldModel(MLPWorldModel):
    def _build_dynamics(self):
        super()._build_dynamics()
        self.norm = torch.nn.BatchNorm1d(self.latent_dim)

    def next(self, z_BL, e_BT, a_BA):
        next_BL = super().next(z_BL, e_BT, a_BA)
        return self.norm(next_BL.flatten(0, -2)).reshape(next_BL.shape)


class MeanWorldModel(MLPWorldModel):
    def next(self, z_BL, e_BT, a_BA):
        next_BL = super().next(z_BL, e_BT, a_BA)
        return next_BL - next_BL.mean(-2, keepdim=True)


class PreciseWorldModel(MLPWorldModel):
    def next(self, z_BL, e_BT, a_BA):
        return super().next(z_BL, e_BT, a_BA).double()


class NumpyWorldModel(MLPWorldModel):
    def next(self, z_BL, e_BT, a_BA):
        return super().next(z_BL, e_BT, a_BA) * float(numpy.random.rand())


class PythonWorldModel(MLPWorldModel):
    def next(self, z_BL, e_BT, a_BA):
        return super().next(z_BL, e_BT, a_BA) * random.random()


class CutWorldModel(MLPWorldModel):
    def next(self, z_BL, e_BT, a_BA):
        return super().next(z_BL, e_BT, a_BA.detach())


class ConstantWorldModel(MLPWorldModel):
    def next(self, z_BL, e_BT, a_BA):
        return super().next(z_BL, e_BT, a_BA).detach()


class CutRewardWorldModel(MLPWorldModel):
    def reward(self, z_BL, e_BT, a_BA):
        return super().reward(z_BL, e_BT, a_BA).detach()


class MisspeltWorldModel(MLPWorldModel):
    def _build_dynamics(self):
        self.shift = torch.nn.Linear(self.config.num_unit, 3)


class AdaptiveWorldModel(MLPWorldModel):
    """How much it computes follows from its numbers: that may be."""

    def next(self, z_BL, e_BT, a_BA):
        next_BL = super().next(z_BL, e_BT, a_BA)
        while next_BL.max() > 1:
            next_BL = next_BL / 2
        return next_BL


class ScaledWorldModel(MLPWorldModel):
    """A tensor that is no buffer has no numbers where shapes alone are built."""

    def _build_dynamics(self):
        super()._build_dynamics()
        self.scale = torch.ones(self.latent_dim)

    def next(self, z_BL, e_BT, a_BA):
        return self.scale * super().next(z_BL, e_BT, a_BA)


class AttentiveWorldModel(MLPWorldModel):
    """torch says of attention that it draws, also where nothing is dropped."""

    def _build_dynamics(self):
        super()._build_dynamics()
        width = self.latent_dim
        self.attention = torch.nn.MultiheadAttention(width, 2, batch_first=True)
        self.block = torch.nn.TransformerEncoderLayer(width, 2, 24, dropout=0, batch_first=True)

    def next(self, z_BL, e_BT, a_BA):
        rows = super().next(z_BL, e_BT, a_BA).reshape(-1, 1, self.latent_dim)
        rows = self.block(self.attention(rows, rows, rows, need_weights=False)[0])
        return rows.reshape(z_BL.shape)


class InvertingWorldModel(MLPWorldModel):
    """Of zeros alone there would be no inverse, and no deviation to divide by."""

    def _build_dynamics(self):
        super()._build_dynamics()
        self.mixing = torch.nn.Parameter(torch.empty(self.latent_dim, self.latent_dim))
        torch.nn.init.orthogonal_(self.mixing)

    def next(self, z_BL, e_BT, a_BA):
        next_BL = super().next(z_BL, e_BT, a_BA) @ torch.linalg.inv(self.mixing)
        spread = next_BL.std(-1, keepdim=True)
        if not spread.all():
            raise ArithmeticError("nothing to divide by")
        return next_BL / spread


class UnmatchedWorldModel(MLPWorldModel):
    def matching_loss(self, z_BL, e_BT, a_BA, target_BL, tau_B1):
        return None


class StateRewardWorldModel(MLPWorldModel):
    """A reward may follow from the state alone."""

    def reward(self, z_BL, e_BT, a_BA):
        return super().reward(z_BL, e_BT, a_BA.detach())


BROKEN_MODELS = {
    ScalarWorldModel: r"next returns \[2, 3, 1\] for .*; it must return \[2, 3, 16\]",
    StatefulWorldModel: "next returns a tuple for",
    MeanLossWorldModel: r"matching_loss returns \[\] for .*; it must return \[2, 3\]",
    FlatRewardWorldModel: r"reward returns \[2, 3\] for .*; it must return \[2, 3, 1\]",
    ForgetfulWorldModel: "next fails for .*: TypeError: .*takes 3 positional arguments but 4",
    DroppingWorldModel: r"next draws random numbers of its own \(.*\), which follow from no seed",
    NumpyWorldModel: r"next draws random numbers of its own \(from the global stream of numpy\)",
    PythonWorldModel: r"next draws random numbers of its own \(from the global stream of random\)",
    RowsWorldModel: r"next fails at test_contract.py:\d+ for .* \[2, 3\]: ValueError: GRUCell",
    BatchNormWorldModel: "next returns something else for the same inputs beside others",
    MeanWorldModel: "next returns something else for the same inputs beside others",
    PreciseWorldModel: "next returns torch.float64",
    CutWorldModel: "next passes no gradient back to its action",
    CutRewardWorldModel: "reward passes no gradient back to its latent or action",
    ConstantWorldModel: "next passes no gradient back to its latent",
    MisspeltWorldModel: r"cannot be built at test_contract.py:\d+: AttributeError: .*'num_unit'",
}


@pytest.mark.parametrize("kind", BROKEN_MODELS)
def test_world_model_that_breaks_a_promise_is_refused(kind, monkeypatch):
    monkeypatch.setitem(WORLD_MODELS, "mine", kind)
    with pytest.raises(ValueError, match=BROKEN_MODELS[kind]) as refused:
        check_promises([tiny_trial(**{"world_model.kind": "mine"})])
    assert "mine" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "kind",
    [
        *(SameWorldModel, AdaptiveWorldModel, ScaledWorldModel, AttentiveWorldModel),
        *(InvertingWorldModel, UnmatchedWorldModel, StateRewardWorldModel),
    ],
)
def test_world_model_that_keeps_its_promises_is_let_pass(kind, monkeypatch):
    monkeypatch.setitem(WORLD_MODELS, "mine", kind)
    check_promises([tiny_trial(**{"world_model.kind": "mine"})])


class OneActionPolicy(GaussianPolicy):
    def pre_squash(self, z_BL, scaled_noise_BA, mask_A):
        return super().pre_squash(z_BL, scaled_noise_BA, mask_A)[..., :1]


class MixedPolicy(GaussianPolicy):
    def pre_squash(self, z_BL, scaled_noise_BA, mask_A):
        chosen = torch.rand_like(scaled_noise_BA) < 0.5
        return super().pre_squash(z_BL, scaled_noise_BA, mask_A) * chosen


class CutPolicy(GaussianPolicy):
    def pre_squash(self, z_BL, scaled_noise_BA, mask_A):
        return super().pre_squash(z_BL, scaled_noise_BA, mask_A).detach()


class SeededPolicy(GaussianPolicy):
    """What it draws from follows from its seed."""

    def pre_squash(self, z_BL, scaled_noise_BA, mask_A):
        draws = torch.Generator().manual_seed(0)
        moved = torch.rand(scaled_noise_BA.shape, generator=draws)
        return super().pre_squash(z_BL, scaled_noise_BA, mask_A) + moved


BROKEN_POLICIES = {
    OneActionPolicy: r"pre_squash returns \[2, 3, 1\] for .*; it must return \[2, 3, 6\]",
    MixedPolicy: r"pre_squash draws random numbers of its own \(from the global stream of torch\)",
    CutPolicy: "pre_squash passes no gradient back to its parameters",
}


@pytest.mark.parametrize("kind", BROKEN_POLICIES)
def test_policy_that_breaks_a_promise_is_refused(kind, monkeypatch):
    monkeypatch.setitem(POLICIES, "mine", kind)
    with pytest.raises(ValueError, match=BROKEN_POLICIES[kind]):
        check_promises([tiny_trial(**{"policy.kind": "mine"})])


class PartlyFrozenPolicy(GaussianPolicy):
    def _build(self, latent_dim):
        super()._build(latent_dim)
        self.prior = torch.nn.Parameter(torch.zeros(3), requires_grad=False)


@pytest.mark.parametrize("kind", [SeededPolicy, PartlyFrozenPolicy])
def test_policy_that_keeps_its_promises_is_let_pass(kind, monkeypatch):
    monkeypatch.setitem(POLICIES, "mine", kind)
    check_promises([tiny_trial(**{"policy.kind": "mine"})])


def test_plan_refuses_a_kind_that_breaks_a_promise(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(WORLD_MODELS, "mine", ScalarWorldModel)
    sweep = Sweep(
        name="mine",
        vary={"world_model.kind": ["mlp", "mine"]},
        compare="world_model.kind",
        within=[],
        scales={"tiny": {"instead": {}, "set": {}}},
        hold={"task": "pendulum-spin", "seed": 1, "epochs": 2, "size": "laptop"},
    )
    places = ["--results", str(tmp_path), "--data", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        sweep.main(["--scale", "tiny", "--plan", *places])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "next returns [2, 3, 1]" in line


def test_pretraining_refuses_a_kind_that_breaks_a_promise(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(WORLD_MODELS, "mine", ScalarWorldModel)
    scale = {"instead": {}, "set": {"size": "laptop"}, "pretrain": {"tasks": ("cup-spin",)}}
    pretraining = Pretraining("mine", vary={"world_model.kind": ["mine"]}, scales={"tiny": scale})
    code, _, (line,) = run(capsys, "--plan", "--results", tmp_path, of=pretraining)
    assert code == 2
    assert "next returns [2, 3, 1]" in line


@pytest.mark.parametrize(
    ("key", "choices"),
    [("world_model.kind", ["mlp", "mine"]), ("variant", ["baseline", "mine+gaussian"])],
)
def test_plan_of_a_search_refuses_a_kind_that_its_space_may_choose(
    key, choices, monkeypatch, tmp_path
):
    monkeypatch.setitem(WORLD_MODELS, "mine", ScalarWorldModel)
    searched = dataclasses.replace(search, space={key: choices}, hold={"epochs": 6, "seed": 1})
    with pytest.raises(ValueError, match=r"'mine'\): next returns \[2, 3, 1\]"):
        make_plan(tmp_path, of=searched)
