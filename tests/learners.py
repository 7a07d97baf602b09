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


def make_learner(variant, **settings):
    trial = {"variant": variant, "task": "reacher-easy", "seed": 3, "epochs": 1}
    return build_learner(TrialConfig.from_flat({**SETTINGS, **CHANGES, **trial, **settings}))


def windows(seed):
    """A sampler of windows without any meaning, with rewards in [0, 2]."""
    draws = torch.Generator().manual_seed(seed)

    def sample(size):
        a = torch.zeros(3, size, MAX_ACTION_DIM)
        a[..., :2] = torch.randn(3, size, 2, generator=draws).tanh()
        obs = torch.randn(4, size, MAX_OBS_DIM, generator=draws)
        return Batch(obs, a, 2 * torch.rand(3, size, 1, generator=draws))

    return sample


def relative_error(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-3)).item()
