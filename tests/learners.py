"""Learners with all that can differ from the defaults, and windows to train them on."""

import torch

from pwmray.build import build_learner
from pwmray.config import TrialConfig
from pwmray.data.sampler import Batch
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM
from tests.tiny import SETTINGS

EPOCHS = 100
CHANGES = {
    "learner.wm_iterations": 2,
    "learner.critic_iterations": 2,
    "learner.critic_batches": 3,
    "learner.action_penalty": 0.2,
    "learner.wm_horizon": 3,
    "critic.units": (16, 12),
}
UNEVEN = {  # rows that are no multiple of 16 bytes
    "world_model.units": (20, 13),
    "policy.units": (21, 9),
    "world_model[flow].num_substeps": 2,
    "policy[flow].num_substeps": 2,
}


def make_learner(variant, **settings):
    trial = {"variant": variant, "task": "reacher-easy", "seed": 3, "epochs": 1}
    return build_learner(TrialConfig.from_flat({**SETTINGS, **CHANGES, **trial, **settings}))


def windows(seed):
    return windows_of(torch.Generator().manual_seed(seed))


def windows_of(draws):
    """A sampler of windows without any meaning, with rewards in [0, 2]."""

    def sample(size):
        a = torch.zeros(3, size, MAX_ACTION_DIM)
        a[..., :2] = torch.randn(3, size, 2, generator=draws).tanh()
        obs = torch.randn(4, size, MAX_OBS_DIM, generator=draws)
        return Batch(obs, a, 2 * torch.rand(3, size, 1, generator=draws))

    return sample


def relative_error(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-3)).item()


def step_difference(ours, theirs, before):
    """How far apart two came, relative to the way from `before`: a norm over all weights."""
    x, y, start = (
        torch.cat([p.detach().flatten() for p in one.parameters()])
        for one in (ours, theirs, before)
    )
    return float((x - y).norm() / (y - start).norm())
