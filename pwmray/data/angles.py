"""Angles of joints that can turn without limit, wrapped into one turn."""

import math
from typing import TypeVar

import numpy as np
import torch

from pwmray.tasks import Task

_TURN = 2 * math.pi
_Array = TypeVar("_Array", np.ndarray, torch.Tensor)


def wrap(angles: _Array) -> _Array:
    """Return the angles [rad] wrapped into [-pi, pi]."""
    return angles - _TURN * (angles / _TURN).round()


def wrap_observations(obs: np.ndarray, task: Task) -> np.ndarray:
    """Return observations [..., obs_dim] with the task's unlimited angles wrapped.

    Returns the same array, not a copy, for a task without such angles.
    """
    if not task.winding_angles:
        return obs
    obs = obs.copy()
    entries = list(task.winding_angles)
    obs[..., entries] = wrap(obs[..., entries])
    return obs
