"""How well world models predict rewards, all of a task on the same episodes.

How wrong a model is depends on where it is asked: where a policy stands still, any model is right.
So every agent of a task acts, and each of their world models predicts the rewards of all of them.

Shapes: H steps of a window, B windows, N episodes side by side, O padded observation, A padded
action; environments have their own o and a.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pwmray import agent, system
from pwmray.agent import Agent
from pwmray.algorithm.evaluate import LockstepEnvironments
from pwmray.algorithm.pwm import Learner
from pwmray.models import WorldModel
from pwmray.models.two_hot import symlog
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM

_EVERY = 25  # steps from the start of a window to that of the next, or as many as it has
_ROWS = 1024  # windows predicted at once


class Windows(NamedTuple):
    """Stretches of H steps: where each starts, what was done, and the rewards that came."""

    obs_BO: Tensor
    a_HBA: Tensor
    r_HB: Tensor  # symlog, as the learner predicts them


def record_windows(
    actor: Agent, seeds: Sequence[int], num_steps: int, on_step: Callable[[int], None]
) -> Windows:
    """Let an agent's deterministic policy act for one episode of each seed, and cut out windows.

    They begin every 25 steps, or where they are longer one after the other. Raises ValueError if a
    simulation diverges.
    """
    from pwmray.envs.vector import make_vector  # gymnasium: a GPU machine may lack it

    environments = make_vector(actor.config.task, len(seeds), system.num_cores())
    recorder = _Recorder(environments)
    try:
        agent.run(actor, seeds, actor.policy, recorder, on_step)
    finally:
        environments.close()
    return recorder.cut(num_steps)


def join(parts: Sequence[Windows]) -> Windows:
    """Return the windows of several agents as one."""
    obs, actions, rewards = zip(*parts, strict=True)
    return Windows(torch.cat(obs), torch.cat(actions, dim=1), torch.cat(rewards, dim=1))


@torch.no_grad()
def predict_rewards(learner: Learner, obs_BO: Tensor, a_HBA: Tensor) -> Tensor:
    """Return the symlog rewards [H, B] that the model predicts along actions.

    It sees the first observation and nothing that comes after.
    """
    model = learner.world_model
    e_BT = model.embed(learner.task).expand(len(obs_BO), -1)
    z_BL, rewards = learner.encode(obs_BO), []
    for a_BA in a_HBA:
        rewards.append(model.reward(z_BL, e_BT, a_BA).squeeze(-1))
        z_BL = model.next(z_BL, e_BT, a_BA)
    return torch.stack(rewards)


def measure_errors(learner: Learner, windows: Windows) -> list[float]:
    """Return the root mean squared error of the predicted reward 1, 2, ... H steps ahead."""
    device = learner.mask_A.device
    square_H = torch.zeros(len(windows.r_HB), dtype=torch.float64)
    for first in range(0, len(windows.obs_BO), _ROWS):
        part = slice(first, first + _ROWS)
        obs_BO, a_HBA = windows.obs_BO[part].to(device), windows.a_HBA[:, part].to(device)
        predicted_HB = predict_rewards(learner, obs_BO, a_HBA).cpu().double()
        square_H += (predicted_HB - windows.r_HB[:, part]).square().sum(1)
    return (square_H / len(windows.obs_BO)).sqrt().tolist()


def measure_spreads(windows: Windows) -> list[float]:
    """Return the sd over windows of the real reward of each step.

    It is the error of whoever knew only their mean.
    """
    return windows.r_HB.double().std(dim=1, correction=0).tolist()


def digest(world_model: WorldModel) -> str:
    """Return 16 hex digits over what a world model predicts by: its weights and its settings."""
    settings = repr((world_model.config, world_model.fidelity))  # how a flow is integrated, say
    content = hashlib.sha256(settings.encode())
    for name, tensor in world_model.state_dict().items():
        content.update(name.encode())
        content.update(tensor.cpu().numpy().tobytes())
    return content.hexdigest()[:16]


class _Recorder:
    """Environments, as `evaluate` takes them, that keep what happens in them."""

    def __init__(self, environments: LockstepEnvironments):
        self.num_envs = environments.num_envs
        self._environments = environments
        self._obs: list[np.ndarray] = []  # one more than actions: the last one follows them
        self._actions: list[np.ndarray] = []
        self._rewards: list[np.ndarray] = []

    def reset(self, *, seed: list[int]) -> tuple[np.ndarray, dict]:
        obs_No, info = self._environments.reset(seed=seed)
        self._obs.append(obs_No.copy())
        return obs_No, info

    def step(self, actions: np.ndarray) -> tuple:
        obs_No, rewards, *rest = self._environments.step(actions)
        self._obs.append(obs_No.copy())
        self._actions.append(actions.copy())
        self._rewards.append(rewards.copy())
        return obs_No, rewards, *rest

    def cut(self, num_steps: int) -> Windows:
        starts = range(0, len(self._actions) - num_steps + 1, max(num_steps, _EVERY))
        obs_Bo = np.concatenate([self._obs[start] for start in starts])
        a_HBa = _cut(self._actions, starts, num_steps)
        return Windows(
            F.pad(torch.from_numpy(obs_Bo), (0, MAX_OBS_DIM - obs_Bo.shape[-1])),
            F.pad(a_HBa, (0, MAX_ACTION_DIM - a_HBa.shape[-1])),
            symlog(_cut(self._rewards, starts, num_steps)),
        )


def _cut(steps: Sequence[np.ndarray], starts: Sequence[int], num_steps: int) -> Tensor:
    """Return the stretches of steps [N, ...] that begin at `starts`, as [H, B, ...]."""
    parts = [np.stack(steps[start : start + num_steps]) for start in starts]
    return torch.from_numpy(np.concatenate(parts, axis=1))
