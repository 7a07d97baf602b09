"""Angles of joints without limits, taken modulo a turn."""

import math
from typing import TypeVar

import numpy as np
import torch

from pwmray.tasks import Task

_TURN = 2 * math.pi
_Array = TypeVar("_Array", np.ndarray, torch.Tensor)


def wrap(angles: _Array) -> _Array:
    """Return angles in [-pi, pi] that differ from the given ones by whole turns."""
    return angles - _TURN * (angles / _TURN).round()


def wrap_observations(obs: np.ndarray, task: Task) -> np.ndarray:
    """Return observations [..., obs_dim] with the task's winding angles wrapped.

    The array itself comes back for a task that has none.
    """
    if not task.winding_angles:
        return obs
    obs = obs.copy()
    entries = list(task.winding_angles)
    obs[..., entries] = wrap(obs[..., entries])
    return obs
