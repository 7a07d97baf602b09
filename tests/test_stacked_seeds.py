"""Seeds stacked as one computation against each alone."""

import copy
import importlib

import pytest
import torch

from pwmray.build import build_learner
from pwmray.config import TrialConfig
from pwmray.data.sampler import WindowSampler
from pwmray.seeding import generator
from pwmray.variants import VARIANTS
from tests.imports import ROOT
from tests.tiny import SETTINGS

EPOCHS, SEEDS = 20, (0, 1, 2)


@pytest.fixture
def benchmark(monkeypatch):
    """Import modules of the benchmark by name, as its script does."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def make_learner(variant):
    trial = {"variant": variant, "task": "cheetah-run", "seed": 3, "epochs": 1}
    frozen = {"world_model_from": "nowhere", "finetune_wm": False, "learner.action_penalty": 0.2}
    return build_learner(TrialConfig.from_flat({**SETTINGS, **trial, **frozen}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_seed_of_a_stack_learns_what_it_learns_alone(benchmark, variant):
    workload, stacked = benchmark("workload"), benchmark("stacked_seeds")
    store, learner = workload.random_store(workload.TASK, 3), make_learner(variant)
    together, alone = ([copy.deepcopy(learner) for _ in SEEDS] for _ in range(2))
    sides = [
        (
            [WindowSampler(store, 3, "cpu", generator(s, "windows")) for s in SEEDS],
            [generator(s, "noise") for s in SEEDS],
        )
        for _ in range(2)
    ]
    stack = stacked.Stack(together)
    for _ in range(EPOCHS):
        for one, sampler, noise in zip(alone, *sides[1], strict=True):
            one.set_schedules(0.0)
            one.run_epoch(sampler.sample, noise)
        stack.set_schedules(0.0)
        stack.update(*sides[0])

    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-5)
    first, second = together[0].state_dict(), together[1].state_dict()
    assert not torch.equal(first["policy.log_std"], second["policy.log_std"])
