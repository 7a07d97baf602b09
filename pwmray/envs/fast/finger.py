"""Finger: dm_control's spin, and turn with an easy and a hard target."""

from typing import Any

import numpy as np

from pwmray.envs.fast.formulas import PLANE, Formulas, Readings, norms, sensor_slice

_SPIN_SPEED = 15.0  # rad/s, backwards


class Spin(Formulas):
    """Observation: angles (2), tip (2), angular velocities (3), log touch (2).

    Positions are x and z relative to the spinner.
    """

    reads = ("sensordata",)

    def __init__(self, model: Any):
        self._angles = sensor_slice(model, "proximal", "distal")
        self._velocities = sensor_slice(model, "proximal_velocity", "hinge_velocity")
        self._spinning = sensor_slice(model, "hinge_velocity").start
        self._touch = sensor_slice(model, "touchtop", "touchbottom")
        self._spinner, self._tip, self._target = (
            sensor_slice(model, name) for name in ("spinner", "tip", "target")
        )

    def observe(self, now: Readings) -> tuple[np.ndarray, ...]:
        values = now.sensordata
        touch = np.log1p(values[:, self._touch])
        return values[:, self._angles], self._tip_at(now), values[:, self._velocities], touch

    def spin(self, now: Readings) -> np.ndarray:
        return (now.sensordata[:, self._spinning] <= -_SPIN_SPEED).astype(np.float64)

    def _tip_at(self, now: Readings) -> np.ndarray:
        return (now.sensordata[:, self._tip] - now.sensordata[:, self._spinner])[:, PLANE]


class Turn(Spin):
    """Observation: Spin's, the target (2) and the distance to its edge (1)."""

    changes = ("site_pos",)

    def __init__(self, model: Any):
        super().__init__(model)
        self._target_size = model.site("target").size  # the start of an episode sets the radius

    def observe(self, now: Readings) -> tuple[np.ndarray, ...]:
        return *super().observe(now), self._target_at(now), self._distance(now)[:, None]

    def turn_easy(self, now: Readings) -> np.ndarray:
        return (self._distance(now) <= 0).astype(np.float64)

    turn_hard = turn_easy

    def _target_at(self, now: Readings) -> np.ndarray:
        return (now.sensordata[:, self._target] - now.sensordata[:, self._spinner])[:, PLANE]

    def _distance(self, now: Readings) -> np.ndarray:
        return norms(self._target_at(now) - self._tip_at(now)) - self._target_size[0]
