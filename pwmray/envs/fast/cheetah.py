"""Cheetah: dm_control's run; TD-MPC2's run backwards, on the front or the back feet, and jump."""

from typing import Any

import numpy as np

from pwmray.envs.fast.formulas import Formulas, Readings, sensor_slice
from pwmray.envs.fast.tolerance import gaussian, linear

_RUN_SPEED = 10.0  # m/s
_BACKWARDS_SPEED = 8.0  # m/s
_TWO_FEET_SPEED = 6.0  # m/s
_RAISED_HEIGHT = 1.2  # m
_HEIGHT_MARGIN = 0.6  # m
_JUMP_DRIFT = 0.5  # m/s


class Cheetah(Formulas):
    """Observation: positions without x (8), velocities (9)."""

    reads = ("qpos", "qvel", "xpos", "sensordata")

    def __init__(self, model: Any):
        self._torso = model.body("torso").id
        self._front_foot = model.body("ffoot").id
        self._back_foot = model.body("bfoot").id
        self._velocity = sensor_slice(model, "torso_subtreelinvel").start

    def observe(self, now: Readings) -> tuple[np.ndarray, ...]:
        return now.qpos[:, 1:], now.qvel

    def run(self, now: Readings) -> np.ndarray:
        return self._speed(now, _RUN_SPEED, np.inf, margin=_RUN_SPEED)

    def run_backwards(self, now: Readings) -> np.ndarray:
        return self._speed(now, -np.inf, -_BACKWARDS_SPEED, margin=_BACKWARDS_SPEED)

    def run_front(self, now: Readings) -> np.ndarray:
        return self._run_on_feet(now, self._back_foot)

    def run_back(self, now: Readings) -> np.ndarray:
        return self._run_on_feet(now, self._front_foot)

    def jump(self, now: Readings) -> np.ndarray:
        still = self._speed(now, -_JUMP_DRIFT, _JUMP_DRIFT, margin=_JUMP_DRIFT)
        torso = now.xpos[:, self._torso, 2]
        back = _raised((torso + now.xpos[:, self._back_foot, 2]) / 2)
        front = _raised((torso + now.xpos[:, self._front_foot, 2]) / 2)
        return ((5 * back + still) / 6 + (5 * front + still) / 6) / 2

    def _run_on_feet(self, now: Readings, raised_foot: int) -> np.ndarray:
        torso = _raised(now.xpos[:, self._torso, 2])
        foot = _raised(now.xpos[:, raised_foot, 2])
        speed = self._speed(now, _TWO_FEET_SPEED, np.inf, margin=_TWO_FEET_SPEED)
        return (3 * foot + 2 * torso) / 5 * (5 * speed + 1) / 6

    def _speed(self, now: Readings, lower: float, upper: float, margin: float) -> np.ndarray:
        return linear(now.sensordata[:, self._velocity], lower, upper, margin, value_at_margin=0)


def _raised(height: np.ndarray) -> np.ndarray:
    return gaussian(height, _RAISED_HEIGHT, np.inf, _HEIGHT_MARGIN)
