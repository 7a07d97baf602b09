"""Acrobot: dm_control's swingup."""

from typing import Any

import numpy as np

from pwmray.envs.fast.formulas import XZ, ZZ, Formulas, Readings, norms
from pwmray.envs.fast.tolerance import gaussian


class Acrobot(Formulas):
    """Observation: sines and cosines of both arms' angles (4), velocities (2)."""

    reads = ("xmat", "qvel", "site_xpos")

    def __init__(self, model: Any):
        self._arms = slice(model.body("upper_arm").id, model.body("lower_arm").id + 1)
        self._target = model.site("target").id
        self._tip = model.site("tip").id
        self._target_radius = model.site_size[self._target, 0]

    def observe(self, now: Readings) -> tuple[np.ndarray, ...]:
        return now.xmat[:, self._arms, XZ], now.xmat[:, self._arms, ZZ], now.qvel

    def swingup(self, now: Readings) -> np.ndarray:
        distance = norms(now.site_xpos[:, self._target] - now.site_xpos[:, self._tip])
        return gaussian(distance, 0.0, self._target_radius, margin=1)
