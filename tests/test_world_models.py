"""The contract of a world model: every registered kind keeps each clause of it.

A clause is a function of a kind and its settings. A new kind gets them all by being registered.
"""

import pytest
import torch
from torch.testing import assert_close

from pwmray.algorithm.compiling import compile_networks
from pwmray.flops import count_update_flops
from pwmray.models import WORLD_MODELS, WorldModel
from pwmray.models.layers import NormedLinear, SimNorm, groups, normed_mlp
from tests.model_inputs import (
    DEVICES,
    LATENT_DIM,
    actions,
    cases,
    count_at_every_size,
    count_calls,
    embedded,
    fresh_world_model,
    has_finite_gradients,
    initial_spread,
    latents,
    load_saved,
    measure_update_flops,
    observations,
    parameters_without_gradient,
    stream,
    tiny_trial,
    trained,
    trial_with,
)

CONTRACT = []


def clause(function):
    """Make a check of a kind with its settings part of the contract."""
    CONTRACT.append(function)
    return function


def assert_on_simplex(z):
    assert (z > 0).all()
    assert_close(groups(z).sum(-1), torch.ones(*z.shape[:-1], LATENT_DIM // 8))


def compute_all(model, obs, a, task, target, tau):
    """Return everything that the learner asks of a model."""
    e = model.embed(task)
    z = model.encode(obs, e)
    logits = model.reward_logits(z, e, a)
    outputs = {
        "z": z,
        "next": model.next(z, e, a),
        "logits": logits,
        "reward": model.reward(z, e, a),
        "reward_loss": model.reward_loss(logits, a[..., :1]),
        "matching_loss": model.matching_loss(z, e, a, target, tau),
    }
    return {name: output for name, output in outputs.items() if output is not None}


def make_inputs():
    tau = torch.rand(5, 1, generator=stream(5))
    return observations(5), actions(5), torch.arange(5), latents(5), tau


@clause
def keeps_leading_dimensions(kind, settings):
    model, leading = fresh_world_model(kind, settings), (3, 5)
    e = embedded(model).expand(*leading, -1)

    z = model.encode(observations(*leading), e)
    next_z = model.next(z, e, actions(*leading))
    logits = model.reward_logits(z, e, actions(*leading))
    r = model.reward(z, e, actions(*leading))

    assert z.shape == next_z.shape == (*leading, LATENT_DIM)
    assert logits.shape == (*leading, 101)
    assert r.shape == (*leading, 1)
    assert model.reward_loss(logits, r).shape == leading


@clause
def latents_stay_on_the_simplex(kind, settings):
    model = trained(fresh_world_model(kind, settings))
    e = embedded(model)

    first = model.encode(observations(5), e)
    second = model.next(first, e, actions(5))
    third = model.next(second, e, -actions(5))

    assert_on_simplex(first)
    assert_on_simplex(second)
    assert_on_simplex(third)


@clause
def weights_follow_from_the_generator(kind, settings):
    first, same, other = (fresh_world_model(kind, settings, seed) for seed in (0, 0, 1))

    assert_close(first.state_dict(), same.state_dict(), rtol=0, atol=0)
    assert not torch.equal(first.encoder[0].weight, other.encoder[0].weight)


@clause
def a_loaded_model_predicts_the_same(kind, settings):
    saved = trained(fresh_world_model(kind, settings))
    loaded = fresh_world_model(kind, settings, seed=1)

    load_saved(saved, loaded)

    arguments = (latents(5), embedded(saved), actions(5))
    assert torch.equal(loaded.next(*arguments), saved.next(*arguments))
    assert torch.equal(loaded.reward(*arguments), saved.reward(*arguments))


@clause
def next_latent_trains_everything_but_the_reward_head(kind, settings):
    model = trained(fresh_world_model(kind, settings))
    e = embedded(model)

    model.next(model.encode(observations(5), e), e, actions(5)).square().sum().backward()

    assert has_finite_gradients(model)
    reward_head = {f"reward_head.{name}" for name, _ in model.reward_head.named_parameters()}
    assert parameters_without_gradient(model) == reward_head


@clause
def reward_trains_the_reward_head_and_no_dynamics(kind, settings):
    model = trained(fresh_world_model(kind, settings))
    e = embedded(model)

    model.reward(model.encode(observations(5), e), e, actions(5)).sum().backward()

    trains = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert has_finite_gradients(model)
    assert trains == {"reward_head", "encoder", "task_embedding"}


@clause
def action_gets_a_gradient_from_reward_and_next_latent(kind, settings):
    model = trained(fresh_world_model(kind, settings))
    a = actions(5).requires_grad_()
    arguments = (latents(5), embedded(model).detach(), a)

    (from_reward,) = torch.autograd.grad(model.reward(*arguments).sum(), a)
    (from_next,) = torch.autograd.grad(model.next(*arguments).square().sum(), a)

    assert from_reward.isfinite().all() and from_reward.abs().min() > 0
    assert from_next.isfinite().all() and from_next.abs().min() > 0


@clause
def computes_by_kernels_what_it_computes_without(kind, settings):
    model = trained(fresh_world_model(kind, settings))
    expected = compute_all(model, *make_inputs())
    compile_networks(model, [])
    assert_close(compute_all(model, *make_inputs()), expected, rtol=1e-4, atol=1e-5)


@clause
def makes_the_network_calls_that_it_states(kind, settings):
    model = fresh_world_model(kind, settings)
    e = embedded(model)
    assert count_calls(model, lambda: model.next(latents(5), e, actions(5))) == model.num_calls


@clause
def predicts_no_reward_before_training(kind, settings):
    model = fresh_world_model(kind, settings)
    r = model.reward(latents(5), embedded(model), actions(5))
    assert_close(r, torch.zeros(5, 1), rtol=0, atol=1e-5)


@clause
def task_embedding_has_a_norm_of_at_most_one(kind, settings):
    model = fresh_world_model(kind, settings)
    with torch.no_grad():
        model.task_embedding.weight[1] = 50.0

    norms = embedded(model).norm(dim=-1)

    assert_close(norms[1].item(), 1.0)
    assert_close(norms[0].item(), model.task_embedding.weight[0].norm().item())


@clause
def scale_of_a_long_task_embedding_is_a_constant(kind, settings):
    model = fresh_world_model(kind, settings)
    with torch.no_grad():
        model.task_embedding.weight[1] = 50.0  # four times: a norm of 100

    model.embed(torch.tensor(1)).sum().backward()

    assert_close(model.task_embedding.weight.grad[1], torch.full((4,), 0.01))


@clause
def weights_start_with_the_spread_of_tdmpc2(kind, settings):
    model = fresh_world_model(kind, settings)
    assert_close(initial_spread(model), 0.02, atol=0.001, rtol=0)
    assert 0.019 < model.task_embedding.weight.abs().max() <= 0.02


@clause
def an_observation_that_hardly_varies_is_not_blown_up(kind, settings):
    model = fresh_world_model(kind, settings)
    model.set_observation_scale(torch.zeros(2), torch.tensor([0.0, 1e-5]))
    assert_close(model.obs_std[:3], torch.tensor([1e-3, 1e-3, 1.0]))


@clause
def observations_are_standardized_by_the_scale_that_is_set(kind, settings):
    model = trained(fresh_world_model(kind, settings))
    obs, mean, std = observations(5), torch.tensor([1.0, -2.0]), torch.tensor([4.0, 0.5])
    standardized = torch.cat([(obs[:, :2] - mean) / std, obs[:, 2:]], dim=-1)
    expected = model.encode(standardized, embedded(model))

    model.set_observation_scale(mean, std)

    assert_close(model.encode(obs, embedded(model)), expected)


@clause
def observation_scale_is_saved_with_the_model(kind, settings):
    saved, loaded = (fresh_world_model(kind, settings) for _ in range(2))
    saved.set_observation_scale(torch.tensor([1.0, -2.0]), torch.tensor([4.0, 0.5]))

    load_saved(saved, loaded)

    expected = saved.encode(observations(5), embedded(saved))
    assert torch.equal(loaded.encode(observations(5), embedded(loaded)), expected)


@clause
def computes_in_the_precision_of_its_inputs(kind, settings):
    model, inputs = trained(fresh_world_model(kind, settings)), make_inputs()
    outputs = compute_all(model, *inputs)
    obs, a, task, target, tau = inputs

    precise = compute_all(
        model.double(), obs.double(), a.double(), task, target.double(), tau.double()
    )

    assert {output.dtype for output in precise.values()} == {torch.float64}
    single = {name: output.float() for name, output in precise.items()}
    assert_close(single, outputs, rtol=1e-3, atol=1e-4)


@clause
def computes_on_the_device_of_its_inputs(kind, settings):
    def outputs_on(device):
        model = fresh_world_model(kind, settings).to(device)
        return compute_all(model, *(x.to(device) for x in make_inputs()))

    found = {d: {output.device.type for output in outputs_on(d).values()} for d in DEVICES}

    assert found == {device: {device} for device in DEVICES}


@clause
def computes_the_same_twice_and_draws_nothing(kind, settings):
    model = trained(fresh_world_model(kind, settings))
    before = torch.get_rng_state()

    first, second = (compute_all(model, *make_inputs()) for _ in range(2))

    assert_close(first, second, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)


@clause
def has_as_many_parameters_as_the_mlp_at_every_size(kind, settings):
    of_both = [count_at_every_size("world_model", name) for name in (kind, "mlp")]
    assert of_both[0] == pytest.approx(of_both[1], rel=0.02)


@clause
def costs_the_operations_that_are_counted(kind, settings):
    trial = trial_with("world_model", kind, settings)
    assert count_update_flops(trial).total == measure_update_flops(trial)


every_clause = pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)


@every_clause
@pytest.mark.parametrize(("kind", "settings"), cases(WORLD_MODELS))
def test_world_model_keeps_its_contract(clause, kind, settings):
    clause(kind, settings)


# A kind that is registered by one line.


class ResidualWorldModel(WorldModel):
    """z' = softmax(log z + f(z, e, a)) by groups: a toy, to show what a new kind takes."""

    def _build_dynamics(self):
        last = NormedLinear(self.config.units[-1], self.latent_dim, torch.nn.Identity())
        self.shift = normed_mlp(self.input_dim, self.config.units, last)

    def next(self, z_BL, e_BT, a_BA):
        return SimNorm()(z_BL.log() + self.shift(torch.cat([z_BL, e_BT, a_BA], dim=-1)))


class RecurrentWorldModel(WorldModel):
    """z' = GRU(e, a; z): of a layer that torch initialises."""

    def _build_dynamics(self):
        self.cell = torch.nn.GRUCell(self.input_dim - self.latent_dim, self.latent_dim)

    def next(self, z_BL, e_BT, a_BA):
        inputs = torch.cat([e_BT, a_BA], dim=-1).flatten(0, -2)
        return self.cell(inputs, z_BL.flatten(0, -2)).view(z_BL.shape)


class FreeWorldModel(ResidualWorldModel):
    def next(self, z_BL, e_BT, a_BA):
        return self.shift(torch.cat([z_BL, e_BT, a_BA], dim=-1))


class RandomWorldModel(ResidualWorldModel):
    def next(self, z_BL, e_BT, a_BA):
        return SimNorm()(torch.rand_like(z_BL) + super().next(z_BL, e_BT, a_BA))


class SinglePrecisionWorldModel(ResidualWorldModel):
    def next(self, z_BL, e_BT, a_BA):
        return super().next(z_BL, e_BT, a_BA).float()


class DearWorldModel(ResidualWorldModel):
    def next(self, z_BL, e_BT, a_BA):
        return super().next(super().next(z_BL, e_BT, a_BA), e_BT, a_BA)


class WideWorldModel(ResidualWorldModel):
    def _build_dynamics(self):
        super()._build_dynamics()
        self.more = torch.nn.Linear(self.latent_dim, self.latent_dim)


@every_clause
def test_world_model_that_a_test_registers_gets_the_whole_contract(clause, monkeypatch):
    monkeypatch.setitem(WORLD_MODELS, "residual", ResidualWorldModel)
    clause("residual", {})


@pytest.mark.parametrize(
    "clause",
    [
        keeps_leading_dimensions,
        weights_follow_from_the_generator,
        computes_by_kernels_what_it_computes_without,
    ],
)
def test_world_model_of_layers_that_torch_initialises_keeps_its_contract(clause, monkeypatch):
    monkeypatch.setitem(WORLD_MODELS, "recurrent", RecurrentWorldModel)
    clause("recurrent", {})


def test_operations_of_a_recurrent_layer_are_counted(monkeypatch):
    monkeypatch.setitem(WORLD_MODELS, "recurrent", RecurrentWorldModel)
    trial = tiny_trial(**{"world_model.kind": "recurrent"})
    # Its state has a product of its own, which at first needs no gradient of the policy's step.
    assert count_update_flops(trial).total == pytest.approx(measure_update_flops(trial), rel=0.01)


@pytest.mark.parametrize(
    ("broken", "clause"),
    [
        (FreeWorldModel, latents_stay_on_the_simplex),
        (RandomWorldModel, computes_the_same_twice_and_draws_nothing),
        (SinglePrecisionWorldModel, computes_in_the_precision_of_its_inputs),
        (DearWorldModel, makes_the_network_calls_that_it_states),
        (DearWorldModel, costs_the_operations_that_are_counted),
        (WideWorldModel, next_latent_trains_everything_but_the_reward_head),
        (WideWorldModel, has_as_many_parameters_as_the_mlp_at_every_size),
    ],
)
def test_world_model_that_breaks_a_clause_is_caught(broken, clause, monkeypatch):
    monkeypatch.setitem(WORLD_MODELS, "broken", broken)
    with pytest.raises(AssertionError):
        clause("broken", {})
