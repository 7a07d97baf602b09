"""Ball in cup: dm_control's catch and TD-MPC2's spin."""

from typing import Any

import numpy as np

from pwmray.envs.fast.formulas import PLANE, Formulas, Readings, norms
from pwmray.envs.fast.tolerance import linear

_SPIN_DISTANCE = 0.5  # m
_SPIN_SPEED = 6.0  # m/s


class BallInCup(Formulas):
    """Observation: positions of cup and ball (4), their velocities (4)."""

    reads = ("qpos", "qvel", "xpos", "site_xpos")

    def __init__(self, model: Any):
        self._ball = model.body("ball").id
        self._target = model.site("target").id
        self._room = model.site_size[self._target, PLANE] - model.geom("ball").size[0]

    def observe(self, now: Readings) -> tuple[np.ndarray, ...]:
        return now.qpos, now.qvel

    def catch(self, now: Readings) -> np.ndarray:
        return (np.abs(self._to_target(now)) < self._room).all(axis=1).astype(np.float64)

    def spin(self, now: Readings) -> np.ndarray:
        far = _linear(norms(self._to_target(now)), _SPIN_DISTANCE)
        fast = _linear(norms(now.qvel[:, 2:]), _SPIN_SPEED)
        return (1 - self.catch(now)) * (far + 2 * fast) / 3

    def _to_target(self, now: Readings) -> np.ndarray:
        return now.site_xpos[:, self._target, PLANE] - now.xpos[:, self._ball, PLANE]


def _linear(values: np.ndarray, bound: float) -> np.ndarray:
    return linear(values, bound, np.inf, margin=bound / 2, value_at_margin=0.5)
