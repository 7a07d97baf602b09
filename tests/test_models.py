"""Contract tests over the registries: every world model, policy and integrator gets them all."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from pwmray.build import count_parameters
from pwmray.config import TrialConfig
from pwmray.models import POLICIES, WORLD_MODELS, CriticConfig, CriticEnsemble, ode, two_hot
from pwmray.models.layers import groups
from pwmray.models.ode import INTEGRATORS
from pwmray.models.policy import MIN_LOG_STD
from pwmray.models.world_model_flow import FlowWorldModel
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
SMALL = {"latent_dim": 16, "encoder_units": (24,), "units": (24, 20), "task_dim": 4}
LATENT_DIM = SMALL["latent_dim"]
ALL_DIMS = torch.ones(MAX_ACTION_DIM)
TWO_DIMS = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])


def cases(registry):
    """List every kind of a registry; one with an integrator, once with each of them."""
    return [
        pytest.param(kind, settings, id="-".join([kind, *map(str, settings.values())]))
        for kind, part in registry.items()
        for settings in _settings(part.Config)
    ]


def _settings(config):
    if "integrator" not in {field.name for field in dataclasses.fields(config)}:
        return [{}]
    return [{"integrator": name, "num_substeps": 3} for name in INTEGRATORS]


every_world_model = pytest.mark.parametrize(("kind", "settings"), cases(WORLD_MODELS))
every_policy = pytest.mark.parametrize(("kind", "settings"), cases(POLICIES))
every_integrator = pytest.mark.parametrize("integrator", INTEGRATORS)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def fresh_world_model(kind, settings, seed=0):
    part = WORLD_MODELS[kind]
    return part(part.Config(**SMALL, **settings), stream(seed))


def fresh_policy(kind, settings, seed=0):
    part = POLICIES[kind]
    return part(part.Config(units=(24, 20), **settings), LATENT_DIM, stream(seed))


def trained(module, seed=9):
    """Move every weight away from its initial value, as training does."""
    draws = stream(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draws), alpha=0.3)
    return module


def embedded(model, num_rows=5):
    return model.embed(torch.arange(num_rows))


def observations(*shape):
    return torch.randn(*shape, MAX_OBS_DIM, generator=stream(1))


def actions(*shape):
    return torch.randn(*shape, MAX_ACTION_DIM, generator=stream(2)).tanh()


def noise(*shape):
    return torch.randn(*shape, MAX_ACTION_DIM, generator=stream(3))


def latents(*shape):
    raw = torch.randn(*shape, LATENT_DIM, generator=stream(4))
    return groups(raw).softmax(-1).flatten(-2)


def parameters_without_gradient(module):
    return {name for name, p in module.named_parameters() if p.grad is None}


def has_finite_gradients(module):
    return all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def count_calls(module, run):
    """Return how often `run` calls the submodule that it calls most."""
    calls = Counter()
    hooks = [
        part.register_forward_hook(lambda part, *_: calls.update([id(part)]))
        for part in module.modules()
    ]
    run()
    for hook in hooks:
        hook.remove()
    return max(calls.values())


def assert_on_simplex(z):
    assert (z > 0).all()
    assert_close(groups(z).sum(-1), torch.ones(*z.shape[:-1], LATENT_DIM // 8))


# World models.


@every_world_model
@pytest.mark.parametrize("leading", [(5,), (3, 5)])
def test_world_model_keeps_leading_dimensions(kind, settings, leading):
    model = fresh_world_model(kind, settings)
    e = embedded(model).expand(*leading, -1)

    z = model.encode(observations(*leading), e)
    next_z = model.next(z, e, actions(*leading))
    logits = model.reward_logits(z, e, actions(*leading))
    r = model.reward(z, e, actions(*leading))

    assert z.shape == next_z.shape == (*leading, LATENT_DIM)
    assert logits.shape == (*leading, 101)
    assert r.shape == (*leading, 1)
    assert model.reward_loss(logits, r).shape == leading


@every_world_model
def test_latents_stay_on_the_simplex(kind, settings):
    model = trained(fresh_world_model(kind, settings))
    e = embedded(model)

    first = model.encode(observations(5), e)
    second = model.next(first, e, actions(5))
    third = model.next(second, e, -actions(5))

    assert_on_simplex(first)
    assert_on_simplex(second)
    assert_on_simplex(third)


@every_world_model
def test_world_model_follows_from_its_generator(kind, settings):
    first, same, other = (fresh_world_model(kind, settings, seed) for seed in (0, 0, 1))

    assert_close(first.state_dict(), same.state_dict(), rtol=0, atol=0)
    assert not torch.equal(first.encoder[0].weight, other.encoder[0].weight)


@every_world_model
def test_loaded_world_model_predicts_the_same(kind, settings, tmp_path):
    saved = trained(fresh_world_model(kind, settings))
    loaded = fresh_world_model(kind, settings, seed=1)
    torch.save(saved.state_dict(), tmp_path / "model.pt")

    loaded.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))

    arguments = (latents(5), embedded(saved), actions(5))
    assert torch.equal(loaded.next(*arguments), saved.next(*arguments))
    assert torch.equal(loaded.reward(*arguments), saved.reward(*arguments))


@every_world_model
def test_next_latent_trains_everything_but_the_reward_head(kind, settings):
    model = trained(fresh_world_model(kind, settings))
    e = embedded(model)

    model.next(model.encode(observations(5), e), e, actions(5)).square().sum().backward()

    assert has_finite_gradients(model)
    reward_head = {f"reward_head.{name}" for name, _ in model.reward_head.named_parameters()}
    assert parameters_without_gradient(model) == reward_head


@every_world_model
def test_reward_trains_the_reward_head_and_no_dynamics(kind, settings):
    model = trained(fresh_world_model(kind, settings))
    e = embedded(model)

    model.reward(model.encode(observations(5), e), e, actions(5)).sum().backward()

    trains = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert has_finite_gradients(model)
    assert trains == {"reward_head", "encoder", "task_embedding"}


@every_world_model
def test_action_gets_a_gradient_from_reward_and_next_latent(kind, settings):
    model = trained(fresh_world_model(kind, settings))
    a = actions(5).requires_grad_()
    arguments = (latents(5), embedded(model).detach(), a)

    (from_reward,) = torch.autograd.grad(model.reward(*arguments).sum(), a)
    (from_next,) = torch.autograd.grad(model.next(*arguments).square().sum(), a)

    assert from_reward.isfinite().all() and from_reward.abs().min() > 0
    assert from_next.isfinite().all() and from_next.abs().min() > 0


@every_world_model
def test_world_model_makes_the_network_calls_that_it_states(kind, settings):
    model = fresh_world_model(kind, settings)
    e = embedded(model)
    assert count_calls(model, lambda: model.next(latents(5), e, actions(5))) == model.num_calls


@every_world_model
def test_untrained_world_model_predicts_no_reward(kind, settings):
    model = fresh_world_model(kind, settings)
    r = model.reward(latents(5), embedded(model), actions(5))
    assert_close(r, torch.zeros(5, 1), rtol=0, atol=1e-5)


@every_world_model
def test_task_embedding_has_a_norm_of_at_most_one(kind, settings):
    model = fresh_world_model(kind, settings)
    with torch.no_grad():
        model.task_embedding.weight[1] = 50.0

    norms = embedded(model).norm(dim=-1)

    assert_close(norms[1].item(), 1.0)
    assert_close(norms[0].item(), model.task_embedding.weight[0].norm().item())


@every_world_model
def test_observations_are_standardized_by_the_scale_that_is_set(kind, settings):
    model = trained(fresh_world_model(kind, settings))
    obs, mean, std = observations(5), torch.tensor([1.0, -2.0]), torch.tensor([4.0, 0.5])
    standardized = torch.cat([(obs[:, :2] - mean) / std, obs[:, 2:]], dim=-1)
    expected = model.encode(standardized, embedded(model))

    model.set_observation_scale(mean, std)

    assert_close(model.encode(obs, embedded(model)), expected)


@every_world_model
def test_observation_scale_is_saved_with_the_model(kind, settings):
    saved, loaded = (fresh_world_model(kind, settings) for _ in range(2))
    saved.set_observation_scale(torch.tensor([1.0, -2.0]), torch.tensor([4.0, 0.5]))

    loaded.load_state_dict(saved.state_dict())

    expected = saved.encode(observations(5), embedded(saved))
    assert torch.equal(loaded.encode(observations(5), embedded(loaded)), expected)


@pytest.mark.parametrize(("kind", "settings"), cases({"flow": FlowWorldModel}))
def test_velocity_is_tangent_to_the_simplex(kind, settings):
    model = trained(fresh_world_model(kind, settings))
    v = model.velocity(latents(5), embedded(model), actions(5), torch.rand(5, 1))
    assert v.abs().min() > 0
    assert_close(groups(v).sum(-1), torch.zeros(5, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "settings"), cases({"flow": FlowWorldModel}))
def test_untrained_velocity_leaves_the_latent_where_it_is(kind, settings):
    model = fresh_world_model(kind, settings)
    z = model.encode(observations(5), embedded(model))
    assert_close(model.next(z, embedded(model), actions(5)), z)


def test_matching_loss_is_zero_when_the_velocity_is_the_way_to_the_target():
    model = fresh_world_model("flow", {})
    z, target = latents(6)[:5], latents(6)[1:]
    model.velocity = lambda *_: target - z

    loss = model.matching_loss(z, embedded(model), actions(5), target, torch.rand(5, 1))

    assert torch.equal(loss, torch.zeros(5))


def test_matching_loss_starts_from_the_straight_line_between_the_latents():
    model = fresh_world_model("flow", {})
    z, target, tau = latents(6)[:5], latents(6)[1:], torch.full((5, 1), 0.25)
    seen = []
    model.velocity = lambda *arguments: seen.append(arguments) or torch.zeros(5, LATENT_DIM)

    loss = model.matching_loss(z, embedded(model), actions(5), target, tau)

    assert_close(seen[0][0], 0.75 * z + 0.25 * target)
    assert torch.equal(seen[0][3], tau)
    assert_close(loss, (target - z).square().mean(-1))


def test_matching_loss_sends_no_gradient_to_the_latent_through_its_target():
    model = fresh_world_model("flow", {})
    z = latents(5).requires_grad_()
    model.velocity = lambda *_: torch.zeros(5, LATENT_DIM)  # cuts the way through z_tau

    loss = model.matching_loss(
        z, embedded(model).detach(), actions(5), latents(5), torch.ones(5, 1)
    )

    assert not loss.requires_grad


def test_matching_loss_trains_the_velocity():
    model = trained(fresh_world_model("flow", {}))
    z = latents(5).requires_grad_()
    target = latents(6)[1:]

    loss = model.matching_loss(z, embedded(model), actions(5), target, torch.rand(5, 1))
    loss.sum().backward()

    assert has_finite_gradients(model)
    assert z.grad.abs().max() > 0
    assert model.velocity_head.weight.grad.abs().max() > 0
    assert model.velocity_trunk[0].weight.grad.abs().max() > 0


# Policies.


@every_policy
@pytest.mark.parametrize("leading", [(5,), (3, 5)])
def test_policy_gives_actions_within_bounds(kind, settings, leading):
    policy = trained(fresh_policy(kind, settings))
    a = policy(latents(*leading), 3 * noise(*leading), ALL_DIMS)
    assert a.shape == (*leading, MAX_ACTION_DIM)
    assert a.abs().max() <= 1


@every_policy
def test_dimensions_that_the_task_lacks_get_no_action(kind, settings):
    policy = trained(fresh_policy(kind, settings))

    a = policy(latents(5), noise(5), TWO_DIMS)
    deterministic = policy.act(latents(5), TWO_DIMS)

    assert torch.equal(a[:, 2:], torch.zeros(5, 4))
    assert torch.equal(deterministic[:, 2:], torch.zeros(5, 4))
    assert a[:, :2].abs().min() > 0


@every_policy
def test_deterministic_action_is_the_one_without_noise(kind, settings):
    policy = trained(fresh_policy(kind, settings))

    a = policy.act(latents(5), ALL_DIMS)

    assert torch.equal(a, policy(latents(5), torch.zeros(5, MAX_ACTION_DIM), ALL_DIMS))
    assert not torch.equal(a, policy(latents(5), noise(5), ALL_DIMS))


@every_policy
def test_policy_follows_from_its_generator(kind, settings):
    first, same, other = (fresh_policy(kind, settings, seed) for seed in (0, 0, 1))
    assert_close(first.state_dict(), same.state_dict(), rtol=0, atol=0)
    assert not torch.equal(first.act(latents(5), ALL_DIMS), other.act(latents(5), ALL_DIMS))


@every_policy
def test_loaded_policy_acts_the_same(kind, settings, tmp_path):
    saved = trained(fresh_policy(kind, settings))
    loaded = fresh_policy(kind, settings, seed=1)
    torch.save(saved.state_dict(), tmp_path / "policy.pt")

    loaded.load_state_dict(torch.load(tmp_path / "policy.pt", weights_only=True))

    arguments = (latents(5), noise(5), ALL_DIMS)
    assert torch.equal(loaded(*arguments), saved(*arguments))


@every_policy
def test_noisy_action_trains_every_weight_of_the_policy(kind, settings):
    policy = trained(fresh_policy(kind, settings))

    policy(latents(5), noise(5), ALL_DIMS).square().sum().backward()

    assert parameters_without_gradient(policy) == set()
    assert has_finite_gradients(policy)
    assert policy.log_std.grad.abs().min() > 0


@every_policy
def test_exploration_has_the_same_floor_for_every_policy(kind, settings):
    policy = fresh_policy(kind, settings)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        policy.log_std.fill_(-100.0)

    a = policy(latents(5), noise(5), ALL_DIMS)

    assert_close(a, torch.tanh(math.exp(MIN_LOG_STD) * noise(5)))


@every_policy
def test_policy_makes_the_network_calls_that_it_states(kind, settings):
    policy = fresh_policy(kind, settings)
    assert count_calls(policy, lambda: policy.act(latents(5), ALL_DIMS)) == policy.num_calls


# Matched sizes.


def paper_sizes(variant):
    config = {"variant": variant, "task": "reacher-easy", "seed": 42, "epochs": 1}
    return count_parameters(TrialConfig.from_flat(config))


@pytest.mark.parametrize("variant", ["flowpolicy", "flowwm", "fullflow"])
def test_matched_variants_have_as_many_parameters_as_the_baseline(variant):
    assert paper_sizes(variant) == pytest.approx(paper_sizes("baseline"), rel=0.02)


def test_baseline_has_the_counted_parameters():
    sizes = paper_sizes("baseline")
    assert sizes["world_model"] == pytest.approx(18.98e6, abs=0.005e6)
    assert sizes["policy"] == pytest.approx(0.410e6, abs=0.0005e6)
    assert sizes["critic"] == pytest.approx(1.168e6, abs=0.0005e6)


# Integrators.


def steepening(x, tau):
    """dx/dtau = -2 tau x^2, whose solution is x(1) = 1 / (1 / x(0) + 1)."""
    return -2 * tau * x.square()


def error(integrator, num_substeps):
    end = ode.integrate(steepening, torch.tensor(2.0).double(), integrator, num_substeps)
    return abs(end.item() - 2 / 3)


@every_integrator
def test_integrator_converges_with_its_order(integrator):
    order = math.log2(error(integrator, 32) / error(integrator, 64))
    assert order == pytest.approx(ORDERS[integrator], abs=0.15)


@every_integrator
def test_integrator_is_exact_for_a_constant_velocity(integrator):
    end = ode.integrate(lambda x, _: torch.full_like(x, 2.0), torch.ones(3), integrator, 4)
    assert_close(end, torch.full((3,), 3.0))


@every_integrator
@pytest.mark.parametrize("num_substeps", [1, 3])
def test_integrator_makes_the_calls_that_it_states(integrator, num_substeps):
    times = []

    def velocity(x, tau):
        times.append(tau)
        return -x

    ode.integrate(velocity, torch.ones(1), integrator, num_substeps)

    assert len(times) == ode.num_calls(integrator, num_substeps)
    assert min(times) == 0
    assert max(times) <= 1 + 1e-12


@every_integrator
def test_integrator_lets_the_gradient_through(integrator):
    x = torch.tensor(1.0).double().requires_grad_()

    ode.integrate(lambda x, _: -x, x, integrator, 64).backward()

    assert x.grad.item() == pytest.approx(math.exp(-1), abs=0.01)


# Rewards as classes.


def test_symlog_compresses_both_signs():
    x = torch.tensor([-(math.e - 1), 0.0, math.e - 1, math.e**2 - 1])
    assert_close(two_hot.symlog(x), torch.tensor([-1.0, 0.0, 1.0, 2.0]))


@pytest.mark.parametrize("num_bins", [2, 11, 101])
def test_two_hot_is_read_out_as_the_symlog_reward(num_bins):
    symlog_r = torch.linspace(-10, 10, 1001, dtype=torch.float64).unsqueeze(-1)
    r = symlog_r.sign() * torch.expm1(symlog_r.abs())
    bins = torch.linspace(-10, 10, num_bins, dtype=torch.float64)

    weights = two_hot.two_hot(r, num_bins, 10.0)

    assert_close(two_hot.read_out(weights.log(), bins), symlog_r)
    assert_close(weights.sum(-1), torch.ones(1001, dtype=torch.float64))
    assert (weights > 0).sum(-1).max() <= 2


def test_two_hot_puts_a_reward_beyond_the_bins_on_the_last_one():
    r = torch.tensor([[-1e9], [1e9]])
    assert_close(two_hot.two_hot(r, 5, 10.0), torch.eye(5)[[0, 4]])


def test_two_hot_puts_a_reward_on_a_bin_wholly_there():
    assert_close(two_hot.two_hot(torch.zeros(1, 1), 5, 10.0), torch.eye(5)[[2]])


def test_cross_entropy_is_that_of_the_two_neighbouring_bins():
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    r = torch.tensor([[math.expm1(0.25)]])  # a quarter of the way from bin 0 to bin 1

    loss = two_hot.cross_entropy(logits, r, bin_range=1.0)

    log_p = np.log(np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum())
    assert loss.item() == pytest.approx(-(0.75 * log_p[1] + 0.25 * log_p[2]), rel=1e-5)


# Critics.


def make_critics():
    return trained(CriticEnsemble(CriticConfig(units=(24, 20)), LATENT_DIM, stream()))


def one_critic(critics, index, z):
    """Compute one member of the ensemble from its own weights, layer by layer."""
    x = z
    for layer in range(2):
        weight, bias = critics.weights[layer][index].T, critics.biases[layer][index, 0]
        scale, shift = critics.norm_weights[layer][index, 0], critics.norm_biases[layer][index, 0]
        x = F.layer_norm(F.mish(F.linear(x, weight, bias)), x.new_zeros(len(bias)).shape)
        x = x * scale + shift
    return F.linear(x, critics.weights[2][index].T, critics.biases[2][index, 0]).squeeze(-1)


def test_ensemble_equals_three_separate_critics():
    critics = make_critics()
    values = critics(latents(5))
    assert values.shape == (3, 5)
    assert_close(values, torch.stack([one_critic(critics, i, latents(5)) for i in range(3)]))


def test_minimum_is_the_smallest_of_the_critics():
    critics = make_critics()
    minimum = critics.minimum(latents(3, 5))
    assert minimum.shape == (3, 5, 1)
    assert torch.equal(minimum, critics(latents(3, 5).view(15, -1)).amin(0).view(3, 5, 1))


def test_critics_follow_from_their_generator_and_differ_from_each_other():
    first, same = (CriticEnsemble(CriticConfig(), LATENT_DIM, stream()) for _ in range(2))
    assert torch.equal(first(latents(5)), same(latents(5)))
    assert not torch.equal(first(latents(5))[0], first(latents(5))[1])


def test_critics_start_orthogonal_with_gain_sqrt_2():
    critics = CriticEnsemble(CriticConfig(units=(8, 8)), LATENT_DIM, stream())
    square = critics.weights[1][0]
    assert_close(square.T @ square, 2 * torch.eye(8), rtol=0, atol=1e-5)


def test_every_critic_gets_a_finite_gradient():
    critics = make_critics()
    critics(latents(5)).square().sum().backward()
    assert parameters_without_gradient(critics) == set()
    assert has_finite_gradients(critics)
