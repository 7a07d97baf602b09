"""What holds for every input: simplex normalisation, rewards as classes, TD(lambda), windows."""

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from pwmray.algorithm.returns import td_lambda
from pwmray.models import two_hot
from pwmray.models.layers import SIMPLEX_SIZE, SimNorm, groups
from tests.stores import first_rows

# The same examples in every run, and no limit on how long a busy machine takes for one.
settings.register_profile("steady", derandomize=True, deadline=None, database=None)
settings.load_profile("steady")

BIN_RANGE = 10.0
LARGEST = float(np.expm1(BIN_RANGE))  # the largest reward inside the bins
seeds = st.integers(0, 2**32 - 1)
horizons = st.integers(1, 20)
shares = st.floats(0.0, 1.0)


def numbers(low, high, size):
    return st.lists(st.floats(low, high), min_size=size, max_size=size).map(
        lambda values: torch.tensor(values, dtype=torch.float64)
    )


def column(values):
    return torch.as_tensor(values, dtype=torch.float64).view(-1, 1, 1)


# Simplex normalisation.

logits = st.integers(1, 4).flatmap(lambda n: numbers(-50, 50, n * SIMPLEX_SIZE))


@given(logits)
def test_simnorm_gives_every_group_positive_entries_that_sum_to_one(x):
    z = groups(SimNorm()(x))
    assert (z > 0).all()
    assert_close(z.sum(-1), torch.ones(len(z), dtype=torch.float64))


@given(logits, st.floats(-100, 100))
def test_simnorm_does_not_change_with_a_shift_of_a_group(x, shift):
    shifted = groups(x).clone()
    shifted[0] += shift
    assert_close(SimNorm()(shifted.flatten()), SimNorm()(x))


@given(logits)
def test_simnorm_is_the_closed_form_and_keeps_the_order_within_a_group(x):
    z, powers = groups(SimNorm()(x)), groups(x).exp()
    assert_close(z, powers / powers.sum(-1, keepdim=True))
    assert_close(z.gather(-1, groups(x).argsort(-1)), z.sort(-1).values)


# Symlog.

any_number = st.floats(-1e6, 1e6)


def as_tensor(x):
    return torch.tensor(x, dtype=torch.float64)


@given(any_number)
def test_symlog_is_odd(x):
    assert_close(two_hot.symlog(as_tensor(-x)), -two_hot.symlog(as_tensor(x)))


@given(any_number)
def test_symlog_is_inverted_by_the_exponential_less_one(x):
    y = two_hot.symlog(as_tensor(x))
    assert_close(y.sign() * torch.expm1(y.abs()), as_tensor(x), rtol=1e-9, atol=1e-12)


@given(any_number, st.floats(1e-3, 1e3))
def test_symlog_rises(x, step):
    assert two_hot.symlog(as_tensor(x + step)) > two_hot.symlog(as_tensor(x))


# Two-hot codes.

bin_counts = st.integers(2, 200)


def code(r, num_bins):
    return two_hot.two_hot(torch.tensor([[r]], dtype=torch.float64), num_bins, BIN_RANGE)[0]


@given(st.floats(-1e9, 1e9), bin_counts)
@example(LARGEST, 78)  # of 77 widths more than the range, by rounding
def test_two_hot_weights_are_two_neighbours_that_sum_to_one(r, num_bins):
    weights = code(r, num_bins)
    taken = weights.nonzero().flatten()
    assert (weights >= 0).all()
    assert_close(weights.sum(), as_tensor(1.0))
    assert len(taken) <= 2
    assert taken.max() - taken.min() <= 1


@given(st.floats(-LARGEST, LARGEST), bin_counts)
def test_two_hot_is_read_out_as_the_symlog_of_a_reward_inside_the_bins(r, num_bins):
    bins = torch.linspace(-BIN_RANGE, BIN_RANGE, num_bins, dtype=torch.float64)
    read = two_hot.read_out(code(r, num_bins).log(), bins)
    assert_close(read, two_hot.symlog(as_tensor([r])), rtol=0, atol=1e-9)


@given(st.floats(-LARGEST, LARGEST), seeds)
def test_cross_entropy_is_least_where_the_logits_are_the_code(r, seed):
    logits = torch.randn(101, generator=torch.Generator().manual_seed(seed)).double()
    weights = code(r, 101)

    loss = two_hot.cross_entropy(logits, as_tensor([r]), BIN_RANGE)

    assert loss >= -torch.xlogy(weights, weights).sum() - 1e-12
    assert_close(loss, -(weights * logits.log_softmax(-1)).sum())


# TD(lambda).


def n_step_return(r, next_v, discount, t, n):
    """Return r_t + .. + gamma^(n-1) r_(t+n-1) + gamma^n V(z_(t+n))."""
    rewards = sum(discount**k * r[t + k] for k in range(n))
    return rewards + discount**n * next_v[t + n - 1]


def weighted_sum(r, next_v, discount, trace, t):
    """Return (1 - lambda) sum_n lambda^(n-1) G_n over n < N, plus lambda^(N-1) G_N."""
    last = len(r) - t
    short = sum(trace ** (n - 1) * n_step_return(r, next_v, discount, t, n) for n in range(1, last))
    return (1 - trace) * short + trace ** (last - 1) * n_step_return(r, next_v, discount, t, last)


def draw_rollout(horizon, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=horizon), rng.normal(size=horizon)


@given(horizons, seeds, shares, shares)
def test_td_lambda_is_the_weighted_sum_of_the_n_step_returns(horizon, seed, discount, trace):
    r, next_v = draw_rollout(horizon, seed)
    expected = [weighted_sum(r, next_v, discount, trace, t) for t in range(horizon)]
    assert_close(td_lambda(column(r), column(next_v), discount, trace), column(expected))


@given(horizons, seeds, shares)
def test_td_lambda_at_one_is_the_monte_carlo_return(horizon, seed, discount):
    r, next_v = draw_rollout(horizon, seed)
    expected = [n_step_return(r, next_v, discount, t, horizon - t) for t in range(horizon)]
    assert_close(td_lambda(column(r), column(next_v), discount, 1.0), column(expected))


@given(horizons, seeds, shares)
def test_td_lambda_at_zero_is_the_one_step_target(horizon, seed, discount):
    r, next_v = draw_rollout(horizon, seed)
    targets = td_lambda(column(r), column(next_v), discount, 0.0)
    assert_close(targets, column(r + discount * next_v))


@given(horizons, seeds, shares, shares)
def test_td_lambda_is_linear_in_rewards_and_values(horizon, seed, discount, trace):
    r, next_v = (column(values) for values in draw_rollout(horizon, seed))
    zero = torch.zeros_like(r)
    apart = td_lambda(r, zero, discount, trace) + td_lambda(zero, next_v, discount, trace)
    assert_close(td_lambda(r, next_v, discount, trace), apart)


def test_td_lambda_of_the_true_values_is_those_values():
    # V = 1 / (1 - gamma) where every reward is 1: no mixture of n-step returns moves it.
    targets = td_lambda(column([1.0] * 8), column([100.0] * 8), 0.99, 0.95)
    assert targets.flatten().tolist() == pytest.approx([100.0] * 8)


# Windows of episodes.

lengths_of_episodes = st.lists(st.integers(1, 9), min_size=4, max_size=4)
chosen_episodes = st.lists(st.integers(0, 3), min_size=1, max_size=8)


@given(lengths_of_episodes, chosen_episodes, st.integers(1, 8))
def test_windows_are_all_those_within_a_chosen_episode(lengths, chosen, horizon):
    assume(max(lengths[episode] for episode in chosen) > horizon)
    starts = np.cumsum(lengths) - lengths
    expected = [
        starts[episode] + step for episode in chosen for step in range(lengths[episode] - horizon)
    ]
    assert first_rows(lengths, horizon, chosen) == expected
