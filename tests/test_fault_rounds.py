"""Twenty kills at random moments of real sweeps, and what they end with."""

import random

import pytest

from tests.fault_rounds import play

NUM_ROUNDS = 20


@pytest.mark.slow
def test_kills_at_random_moments_leave_what_an_undisturbed_sweep_leaves(tmp_path):
    play(NUM_ROUNDS, random.randrange(10**6), tmp_path)  # prints the seed
