"""Rewards as classes, against hand-worked numbers; test_properties.py has what holds for all."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pwmray.models import two_hot


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
