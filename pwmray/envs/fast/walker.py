"""Walker: dm_control's stand, walk and run; TD-MPC2's walk and run backwards."""

from typing import Any

import numpy as np

from pwmray.envs.fast.formulas import XX, XZ, ZZ, Formulas, Readings, sensor_slice
from pwmray.envs.fast.tolerance import gaussian, linear

_STAND_HEIGHT = 1.2  # m
_WALK_SPEED = 1.0  # m/s
_RUN_SPEED = 8.0  # m/s


class Walker(Formulas):
    """Observation: orientations of the 7 bodies (14), height (1), velocities (9)."""

    reads = ("xmat", "xpos", "qvel", "sensordata")

    def __init__(self, model: Any):
        self._torso = model.body("torso").id
        self._velocity = sensor_slice(model, "torso_subtreelinvel").start

    def observe(self, now: Readings) -> tuple[np.ndarray, ...]:
        orientations = now.xmat[:, 1:, XX : XZ + 1 : XZ - XX]
        height = now.xpos[:, self._torso, 2:]
        return orientations.reshape(len(height), -1), height, now.qvel

    def stand(self, now: Readings) -> np.ndarray:
        height = now.xpos[:, self._torso, 2]
        standing = gaussian(height, _STAND_HEIGHT, np.inf, margin=_STAND_HEIGHT / 2)
        upright = (1 + now.xmat[:, self._torso, ZZ]) / 2
        return (3 * standing + upright) / 4

    def walk(self, now: Readings) -> np.ndarray:
        return self._move(now, _WALK_SPEED, np.inf, margin=_WALK_SPEED / 2)

    def run(self, now: Readings) -> np.ndarray:
        return self._move(now, _RUN_SPEED, np.inf, margin=_RUN_SPEED / 2)

    def walk_backwards(self, now: Readings) -> np.ndarray:
        return self._move(now, -np.inf, -_WALK_SPEED, margin=_WALK_SPEED / 2)

    def run_backwards(self, now: Readings) -> np.ndarray:
        return self._move(now, -np.inf, -_RUN_SPEED, margin=_RUN_SPEED / 2)

    def _move(self, now: Readings, lower: float, upper: float, margin: float) -> np.ndarray:
        speed = now.sensordata[:, self._velocity]
        move = linear(speed, lower, upper, margin, value_at_margin=0.5)
        return self.stand(now) * (5 * move + 1) / 6
