"""Hopper: dm_control's stand and hop, TD-MPC2's hop backwards."""

from typing import Any

import numpy as np

from pwmray.envs.fast.formulas import Formulas, Readings, sensor_slice
from pwmray.envs.fast.tolerance import is_within, linear, quadratic

_STAND_HEIGHTS = (0.6, 2)  # m, of the torso over the foot
_HOP_SPEED = 2.0  # m/s
_BACKWARDS_SPEED = 1.0  # m/s


class Hopper(Formulas):
    """Observation: positions without x (6), velocities (7), log touch of toe and heel (2)."""

    reads = ("qpos", "qvel", "xipos", "sensordata")

    def __init__(self, model: Any):
        self._torso = model.body("torso").id
        self._foot = model.body("foot").id
        self._velocity = sensor_slice(model, "torso_subtreelinvel").start
        self._touch = sensor_slice(model, "touch_toe", "touch_heel")

    def observe(self, now: Readings) -> tuple[np.ndarray, ...]:
        return now.qpos[:, 1:], now.qvel, np.log1p(now.sensordata[:, self._touch])

    def stand(self, now: Readings) -> np.ndarray:
        small_control = quadratic(now.ctrl, margin=1).mean(axis=1)
        return self._standing(now) * ((small_control + 4) / 5)

    def hop(self, now: Readings) -> np.ndarray:
        return self._hop(now, _HOP_SPEED, np.inf, margin=_HOP_SPEED / 2)

    def hop_backwards(self, now: Readings) -> np.ndarray:
        return self._hop(now, -np.inf, -_BACKWARDS_SPEED, margin=_BACKWARDS_SPEED / 2)

    def _hop(self, now: Readings, lower: float, upper: float, margin: float) -> np.ndarray:
        speed = now.sensordata[:, self._velocity]
        return self._standing(now) * linear(speed, lower, upper, margin, value_at_margin=0.5)

    def _standing(self, now: Readings) -> np.ndarray:
        height = now.xipos[:, self._torso, 2] - now.xipos[:, self._foot, 2]
        return is_within(height, *_STAND_HEIGHTS)
