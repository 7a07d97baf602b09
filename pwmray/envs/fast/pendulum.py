"""Pendulum: dm_control's swingup and TD-MPC2's spin."""

from typing import Any

import numpy as np

from pwmray.envs.fast.formulas import XZ, ZZ, Formulas, Readings
from pwmray.envs.fast.tolerance import is_within, linear

_COSINE_BOUND = np.cos(np.deg2rad(8))  # of the angle from upright
_SPIN_SPEED = 9.0  # rad/s


class Pendulum(Formulas):
    """Observation: cosine and sine of the angle (2), angular velocity (1)."""

    reads = ("xmat", "qvel")

    def __init__(self, model: Any):
        self._pole = model.body("pole").id

    def observe(self, now: Readings) -> tuple[np.ndarray, ...]:
        return now.xmat[:, self._pole, ZZ, None], now.xmat[:, self._pole, XZ, None], now.qvel

    def swingup(self, now: Readings) -> np.ndarray:
        return is_within(now.xmat[:, self._pole, ZZ], _COSINE_BOUND, 1)

    def spin(self, now: Readings) -> np.ndarray:
        speed = np.abs(now.qvel[:, 0])
        return linear(speed, _SPIN_SPEED, np.inf, margin=_SPIN_SPEED / 2, value_at_margin=0.5)
