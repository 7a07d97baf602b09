"""A toy that a learner masters in seconds: a point on a line, pushed by the action."""

import torch

from pwmray.data.sampler import Batch
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM

POINT_HORIZON, NUM_POINTS = 4, 41
POINT_SETTINGS = {
    "task": "pendulum-spin",  # for its one action dimension
    "world_model.encoder_units": (32,),
    "world_model.units": (32,),
    "policy.units": (32,),
    "critic.units": (32,),
    "learner.horizon": POINT_HORIZON,
    "learner.policy_batch_size": 64,
    "learner.wm_batch_size": 64,
    "learner.wm_iterations": 4,
    "learner.model_lr": 3e-3,
    "learner.actor_lr": 3e-3,
    "learner.critic_lr": 3e-3,
}


def move_point(x, a):
    """Move a point on [-1, 1]; the reward is its closeness to 0."""
    x = (x + 0.2 * a).clamp(-1, 1)
    return x, 1 - x.abs()


def point_windows(generator):
    """Return a sampler of windows of the point under uniform random actions."""

    def sample(batch_size):
        obs = torch.zeros(POINT_HORIZON + 1, batch_size, MAX_OBS_DIM)
        a = torch.zeros(POINT_HORIZON, batch_size, MAX_ACTION_DIM)
        r = torch.zeros(POINT_HORIZON, batch_size, 1)
        obs[0, :, 0] = 2 * torch.rand(batch_size, generator=generator) - 1
        a[..., 0] = 2 * torch.rand(POINT_HORIZON, batch_size, generator=generator) - 1
        for t in range(POINT_HORIZON):
            obs[t + 1, :, 0], r[t, :, 0] = move_point(obs[t, :, 0], a[t, :, 0])
        return Batch(obs, a, r)

    return sample


def play_point(act):
    """Return the mean return of 25 steps from starts all over [-1, 1]."""
    x, total = torch.linspace(-1, 1, NUM_POINTS), torch.zeros(NUM_POINTS)
    for _ in range(25):
        obs = torch.zeros(NUM_POINTS, MAX_OBS_DIM)
        obs[:, 0] = x
        x, r = move_point(x, act(obs)[:, 0])
        total += r
    return total.mean().item()
