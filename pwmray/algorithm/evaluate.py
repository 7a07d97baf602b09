"""Run a policy for whole episodes, all in lockstep with one batched forward a step.

Shapes: N episodes, O padded observation, A padded action; environments have their own o and a.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from pwmray.models.two_hot import symlog
from pwmray.tasks import EPISODE_STEPS, MAX_OBS_DIM

Act = Callable[[Tensor], Tensor]  # [N, O] -> [N, A]


class Episodes(NamedTuple):
    """One entry an episode, in the order of the seeds."""

    returns: np.ndarray  # summed reward, [0, 1000]
    lengths: np.ndarray  # environment steps
    first_obs: Tensor  # [N, O], where each starts
    discounted: np.ndarray  # sum of gamma^t symlog(r_t): what the critics estimate at the start


class LockstepEnvironments(Protocol):
    """What `evaluate` needs of a gymnasium vector environment."""

    num_envs: int

    def reset(self, *, seed: list[int]) -> tuple[np.ndarray, dict]: ...

    def step(self, actions: np.ndarray) -> tuple: ...


@runtime_checkable
class Stateful(Protocol):
    """An act with a memory, such as a planner; `evaluate` resets it at the episodes' start."""

    def __call__(self, obs_NO: Tensor) -> Tensor: ...

    def reset(self) -> None: ...


def evaluate(
    act: Act,
    environments: LockstepEnvironments,
    seeds: Sequence[int],
    action_dim: int,
    device: torch.device,
    discount: float = 1.0,
) -> Episodes:
    """Run one episode per seed; `environments` holds as many as there are seeds."""
    assert environments.num_envs == len(seeds)
    if isinstance(act, Stateful):
        act.reset()
    obs_No, _ = environments.reset(seed=list(seeds))
    padded_NO = torch.zeros(len(seeds), MAX_OBS_DIM, device=device)
    padded_NO[:, : obs_No.shape[1]] = torch.from_numpy(obs_No)
    first_NO = padded_NO.clone()
    returns, discounted = np.zeros(len(seeds)), np.zeros(len(seeds))
    lengths = np.zeros(len(seeds), dtype=np.int64)
    running = np.ones(len(seeds), dtype=bool)
    for step in range(EPISODE_STEPS):
        padded_NO[:, : obs_No.shape[1]] = torch.from_numpy(obs_No)
        actions = act(padded_NO)[:, :action_dim].cpu().numpy()
        obs_No, rewards, terminated, truncated, _ = environments.step(actions)
        rewards = np.where(running, rewards, 0.0)
        returns += rewards
        discounted += discount**step * symlog(torch.from_numpy(rewards)).numpy()
        lengths += running
        running &= ~(terminated | truncated)
    return Episodes(returns, lengths, first_NO, discounted)
