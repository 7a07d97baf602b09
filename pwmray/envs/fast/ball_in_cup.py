"""Ball in cup: dm_control's catch."""

from typing import Any

import numpy as np

from pwmray.envs.fast.formulas import Formulas, Readings

_XZ = [0, 2]  # the plane of the task


class BallInCup(Formulas):
    """Observation: positions of cup and ball (4), their velocities (4)."""

    reads = ("qpos", "qvel", "xpos", "site_xpos")

    def __init__(self, model: Any):
        self._ball = model.body("ball").id
        self._target = model.site("target").id
        self._room = model.site_size[self._target, _XZ] - model.geom("ball").size[0]

    def observe(self, now: Readings) -> tuple[np.ndarray, ...]:
        return now.qpos, now.qvel

    def catch(self, now: Readings) -> np.ndarray:
        offset = now.site_xpos[:, self._target, _XZ] - now.xpos[:, self._ball, _XZ]
        return (np.abs(offset) < self._room).all(axis=1).astype(np.float64)
