"""Reacher: dm_control's arm of two links and TD-MPC2's of three, each with two sizes of target."""

from typing import Any

import numpy as np

from pwmray.envs.fast.formulas import Formulas, Readings, norms
from pwmray.envs.fast.tolerance import is_within


class Reacher(Formulas):
    """Observation: angles (2 or 3), target from the finger in x and y (2), velocities (2 or 3)."""

    reads = ("qpos", "qvel", "geom_xpos")
    changes = ("geom_pos",)

    def __init__(self, model: Any):
        self._finger = model.geom("finger").id
        self._target = model.geom("target").id
        self._geom_size = model.geom_size  # the start of an episode sets the target's

    def observe(self, now: Readings) -> tuple[np.ndarray, ...]:
        return now.qpos, self._to_target(now), now.qvel

    def easy(self, now: Readings) -> np.ndarray:
        radii = self._geom_size[self._target, 0] + self._geom_size[self._finger, 0]
        return is_within(norms(self._to_target(now)), 0, radii)

    hard = three_easy = three_hard = easy

    def _to_target(self, now: Readings) -> np.ndarray:
        return now.geom_xpos[:, self._target, :2] - now.geom_xpos[:, self._finger, :2]
