"""Run a policy for whole episodes, all in lockstep with batched forward passes.

Shapes: N episodes in groups of G, O padded observation, A padded action; environments have their
own o and a.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pwmray.models.two_hot import symlog
from pwmray.tasks import EPISODE_STEPS, MAX_OBS_DIM

POLICY_GROUP = 25  # the final evaluation has 50
TRAINING_GROUP = 10  # of an evaluation during training, which has as many at paper scale
PLANNER_GROUP = 10  # whose time grows with it, as many as a trial plans
COLLECTION_GROUP = 10  # it decides how data rounds that is collected

Act = Callable[[Tensor], Tensor]  # [G, O] -> [G, A]


class Actor(NamedTuple):
    """What acts, in so many episodes a forward pass.

    How a matrix product rounds depends on its shape, so that all have one: an episode is then the
    same bit for bit, however many others run beside it.
    """

    make: Callable[[int], Act]  # for the first, second, ... group of episodes
    group_size: int  # G


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


def policy_actor(act: Act, group_size: int = POLICY_GROUP) -> Actor:
    """Return the actor of an act without a memory."""
    return Actor(lambda _: act, group_size)


class GroupedAct:
    """Act for N episodes in groups of G, the last one filled up with zeros.

    An act with a memory, such as a planner, is made anew for each group of each `GroupedAct`.
    """

    def __init__(self, actor: Actor, num_episodes: int, device: torch.device):
        num_groups = -(-num_episodes // actor.group_size)
        self._acts = [actor.make(group) for group in range(num_groups)]
        self._group_size, self._num_episodes = actor.group_size, num_episodes
        self._padded = torch.zeros(num_groups * actor.group_size, MAX_OBS_DIM, device=device)

    def __call__(self, obs_No: np.ndarray) -> np.ndarray:
        """Return actions [N, A] for observations as the environments give them."""
        self._padded[: self._num_episodes, : obs_No.shape[1]] = torch.from_numpy(obs_No)
        groups = zip(self._acts, self._padded.split(self._group_size), strict=True)
        actions = torch.cat([act(obs_GO) for act, obs_GO in groups])
        return actions[: self._num_episodes].cpu().numpy()


def evaluate(
    actor: Actor,
    environments: LockstepEnvironments,
    seeds: Sequence[int],
    action_dim: int,
    device: torch.device,
    discount: float = 1.0,
    on_step: Callable[[int], None] | None = None,
) -> Episodes:
    """Run one episode per seed; `environments` holds as many as there are seeds.

    `on_step` hears how many steps of an episode are done.
    """
    assert environments.num_envs == len(seeds)
    act = GroupedAct(actor, len(seeds), device)
    obs_No, _ = environments.reset(seed=list(seeds))
    first_NO = torch.zeros(len(seeds), MAX_OBS_DIM, device=device)
    first_NO[:, : obs_No.shape[1]] = torch.from_numpy(obs_No)
    returns, discounted = np.zeros(len(seeds)), np.zeros(len(seeds))
    lengths = np.zeros(len(seeds), dtype=np.int64)
    running = np.ones(len(seeds), dtype=bool)
    for step in range(EPISODE_STEPS):
        actions = act(obs_No)[:, :action_dim]
        obs_No, rewards, terminated, truncated, _ = environments.step(actions)
        rewards = np.where(running, rewards, 0.0)
        returns += rewards
        discounted += discount**step * symlog(torch.from_numpy(rewards)).numpy()
        lengths += running
        running &= ~(terminated | truncated)
        if on_step is not None:
            on_step(step + 1)
    return Episodes(returns, lengths, first_NO, discounted)
