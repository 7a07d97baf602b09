"""The contract of a policy: every registered kind keeps each clause of it.

A clause is a function of a kind and its settings. A new kind gets them all by being registered.
"""

import math

import pytest
import torch
from torch.testing import assert_close

from pwmray.algorithm.compiling import compile_networks
from pwmray.flops import count_update_flops
from pwmray.models import POLICIES, Policy
from pwmray.models.layers import mish_mlp
from pwmray.models.policy import MIN_LOG_STD
from pwmray.tasks import MAX_ACTION_DIM
from tests.model_inputs import (
    ALL_DIMS,
    DEVICES,
    cases,
    count_at_every_size,
    count_calls,
    fresh_policy,
    has_finite_gradients,
    initial_spread,
    latents,
    load_saved,
    measure_update_flops,
    noise,
    parameters_without_gradient,
    trained,
    trial_with,
)

CONTRACT = []
TWO_DIMS = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])


def clause(function):
    """Make a check of a kind with its settings part of the contract."""
    CONTRACT.append(function)
    return function


@clause
def gives_actions_within_bounds(kind, settings):
    policy, leading = trained(fresh_policy(kind, settings)), (3, 5)
    a = policy(latents(*leading), 3 * noise(*leading), ALL_DIMS)
    assert a.shape == (*leading, MAX_ACTION_DIM)
    assert a.abs().max() <= 1


@clause
def dimensions_that_the_task_lacks_get_no_action(kind, settings):
    policy = trained(fresh_policy(kind, settings))

    a = policy(latents(5), noise(5), TWO_DIMS)
    deterministic = policy.act(latents(5), TWO_DIMS)

    assert torch.equal(a[:, 2:], torch.zeros(5, 4))
    assert torch.equal(deterministic[:, 2:], torch.zeros(5, 4))
    assert a[:, :2].abs().min() > 0


@clause
def actions_that_the_task_lacks_move_nothing(kind, settings):
    policy = trained(fresh_policy(kind, settings))
    other = noise(5)
    other[:, 2:] += 1.0

    a = policy(latents(5), noise(5), TWO_DIMS)
    a[:, :2].square().sum().backward()

    assert torch.equal(a, policy(latents(5), other, TWO_DIMS))
    assert torch.equal(policy.log_std.grad[2:], torch.zeros(4))
    assert policy.log_std.grad[:2].abs().min() > 0


@clause
def noise_that_came_down_to_its_floor_may_grow_again(kind, settings):
    policy = fresh_policy(kind, settings)
    torch.nn.init.constant_(policy.log_std, MIN_LOG_STD - 0.01)
    policy.keep_exploring()

    (-policy.sample(latents(5), noise(5), ALL_DIMS)[1].square().sum()).backward()

    assert_close(policy.log_std.detach(), torch.full((6,), MIN_LOG_STD))
    assert policy.log_std.grad.abs().min() > 0


@clause
def noise_starts_and_stops_falling_where_that_of_pwm_does(kind, settings):
    policy = fresh_policy(kind, settings)
    assert_close(policy.log_std.detach(), torch.full((6,), -1.0))
    torch.nn.init.constant_(policy.log_std, -5.0)
    policy.keep_exploring()
    assert_close(policy.log_std.detach(), torch.full((6,), -1.427))


@clause
def weights_start_with_the_spread_of_tdmpc2(kind, settings):
    assert_close(initial_spread(fresh_policy(kind, settings)), 0.02, atol=0.001, rtol=0)


@clause
def deterministic_action_is_the_one_without_noise(kind, settings):
    policy = trained(fresh_policy(kind, settings))

    a = policy.act(latents(5), ALL_DIMS)

    assert torch.equal(a, policy(latents(5), torch.zeros(5, MAX_ACTION_DIM), ALL_DIMS))
    assert not torch.equal(a, policy(latents(5), noise(5), ALL_DIMS))


@clause
def weights_follow_from_the_generator(kind, settings):
    first, same, other = (fresh_policy(kind, settings, seed) for seed in (0, 0, 1))
    assert_close(first.state_dict(), same.state_dict(), rtol=0, atol=0)
    assert not torch.equal(first.act(latents(5), ALL_DIMS), other.act(latents(5), ALL_DIMS))


@clause
def a_loaded_policy_acts_the_same(kind, settings):
    saved = trained(fresh_policy(kind, settings))
    loaded = fresh_policy(kind, settings, seed=1)

    load_saved(saved, loaded)

    arguments = (latents(5), noise(5), ALL_DIMS)
    assert torch.equal(loaded(*arguments), saved(*arguments))


@clause
def noisy_action_trains_every_weight(kind, settings):
    policy = trained(fresh_policy(kind, settings))

    policy(latents(5), noise(5), ALL_DIMS).square().sum().backward()

    assert parameters_without_gradient(policy) == set()
    assert has_finite_gradients(policy)
    assert policy.log_std.grad.abs().min() > 0


@clause
def exploration_has_the_common_floor(kind, settings):
    policy = fresh_policy(kind, settings)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        policy.log_std.fill_(-100.0)

    a = policy(latents(5), noise(5), ALL_DIMS)

    assert_close(a, torch.tanh(math.exp(MIN_LOG_STD) * noise(5)))


@clause
def computes_by_kernels_what_it_computes_without(kind, settings):
    policy = trained(fresh_policy(kind, settings))
    expected = policy(latents(5), noise(5), ALL_DIMS)
    compile_networks(policy, [])
    assert_close(policy(latents(5), noise(5), ALL_DIMS), expected, rtol=1e-4, atol=1e-5)


@clause
def makes_the_network_calls_that_it_states(kind, settings):
    policy = fresh_policy(kind, settings)
    assert count_calls(policy, lambda: policy.act(latents(5), ALL_DIMS)) == policy.num_calls


@clause
def latent_gets_a_gradient(kind, settings):
    policy, z = trained(fresh_policy(kind, settings)), latents(5).requires_grad_()

    policy(z, noise(5), ALL_DIMS).square().sum().backward()

    assert z.grad.isfinite().all() and z.grad.abs().max() > 0


@clause
def computes_in_the_precision_of_its_inputs(kind, settings):
    policy = trained(fresh_policy(kind, settings))
    a = policy(latents(5), noise(5), ALL_DIMS)
    deterministic = policy.act(latents(5), ALL_DIMS)

    policy.double()
    precise = policy(latents(5).double(), noise(5).double(), ALL_DIMS.double())
    precise_deterministic = policy.act(latents(5).double(), ALL_DIMS.double())

    assert precise.dtype == precise_deterministic.dtype == torch.float64
    assert_close(precise.float(), a, rtol=1e-3, atol=1e-4)
    assert_close(precise_deterministic.float(), deterministic, rtol=1e-3, atol=1e-4)


@clause
def computes_on_the_device_of_its_inputs(kind, settings):
    def devices_of_actions(device):
        policy = fresh_policy(kind, settings).to(device)
        z, eps, mask = (x.to(device) for x in (latents(5), noise(5), ALL_DIMS))
        return {policy(z, eps, mask).device.type, policy.act(z, mask).device.type}

    found = {device: devices_of_actions(device) for device in DEVICES}

    assert found == {device: {device} for device in DEVICES}


@clause
def computes_the_same_twice_and_draws_nothing(kind, settings):
    policy = trained(fresh_policy(kind, settings))
    before = torch.get_rng_state()

    first, second = (policy(latents(5), noise(5), ALL_DIMS) for _ in range(2))

    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@clause
def has_as_many_parameters_as_the_gaussian_at_every_size(kind, settings):
    of_both = [count_at_every_size("policy", name) for name in (kind, "gaussian")]
    assert of_both[0] == pytest.approx(of_both[1], rel=0.02)


@clause
def costs_the_operations_that_are_counted(kind, settings):
    trial = trial_with("policy", kind, settings)
    assert count_update_flops(trial).total == measure_update_flops(trial)


every_clause = pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)


@every_clause
@pytest.mark.parametrize(("kind", "settings"), cases(POLICIES))
def test_policy_keeps_its_contract(clause, kind, settings):
    clause(kind, settings)


# A kind that is registered by one line.


class BoundedPolicy(Policy):
    """u = 3 tanh(mean(z) / 3) + std * noise: a toy, to show what a new kind takes."""

    def _build(self, latent_dim):
        self.mean = mish_mlp(latent_dim, self.config.units, MAX_ACTION_DIM)

    def pre_squash(self, z_BL, scaled_noise_BA, mask_A):
        return 3 * torch.tanh(self.mean(z_BL) / 3) + scaled_noise_BA


class ConvolvingPolicy(Policy):
    """u = conv(z) + std * noise: of a layer that torch initialises, and no linear one."""

    def _build(self, latent_dim):
        self.mean = torch.nn.Conv1d(1, MAX_ACTION_DIM, latent_dim)

    def pre_squash(self, z_BL, scaled_noise_BA, mask_A):
        rows = self.mean(z_BL.flatten(0, -2).unsqueeze(1))
        return rows.view(scaled_noise_BA.shape) + scaled_noise_BA


class RandomPolicy(BoundedPolicy):
    def pre_squash(self, z_BL, scaled_noise_BA, mask_A):
        return torch.randn_like(scaled_noise_BA) + super().pre_squash(z_BL, scaled_noise_BA, mask_A)


class NoiselessPolicy(BoundedPolicy):
    def pre_squash(self, z_BL, scaled_noise_BA, mask_A):
        return super().pre_squash(z_BL, 0 * scaled_noise_BA, mask_A)


class LeakingPolicy(BoundedPolicy):
    """The noise of any action moves all of them."""

    def sample(self, z_BL, noise_BA, mask_A):
        return super().sample(z_BL, noise_BA + noise_BA.sum(-1, keepdim=True), mask_A)


class DearPolicy(BoundedPolicy):
    def pre_squash(self, z_BL, scaled_noise_BA, mask_A):
        return self.mean(z_BL) + super().pre_squash(z_BL, scaled_noise_BA, mask_A)


@every_clause
def test_policy_that_a_test_registers_gets_the_whole_contract(clause, monkeypatch):
    monkeypatch.setitem(POLICIES, "bounded", BoundedPolicy)
    clause("bounded", {})


@pytest.mark.parametrize(
    "clause",
    [
        weights_follow_from_the_generator,
        computes_by_kernels_what_it_computes_without,
        costs_the_operations_that_are_counted,
    ],
)
def test_policy_of_layers_that_torch_initialises_keeps_its_contract(clause, monkeypatch):
    monkeypatch.setitem(POLICIES, "convolving", ConvolvingPolicy)
    clause("convolving", {})


@pytest.mark.parametrize(
    ("broken", "clause"),
    [
        (RandomPolicy, computes_the_same_twice_and_draws_nothing),
        (NoiselessPolicy, exploration_has_the_common_floor),
        (NoiselessPolicy, noise_that_came_down_to_its_floor_may_grow_again),
        (LeakingPolicy, actions_that_the_task_lacks_move_nothing),
        (DearPolicy, makes_the_network_calls_that_it_states),
        (DearPolicy, costs_the_operations_that_are_counted),
    ],
)
def test_policy_that_breaks_a_clause_is_caught(broken, clause, monkeypatch):
    monkeypatch.setitem(POLICIES, "broken", broken)
    with pytest.raises(AssertionError):
        clause("broken", {})
