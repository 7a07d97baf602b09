"""Cartpole: dm_control's balance and swingup, each with a smooth and a sparse reward."""

from typing import Any

import numpy as np

from pwmray.envs.fast.formulas import XZ, ZZ, Formulas, Readings
from pwmray.envs.fast.tolerance import gaussian, is_within, quadratic

_CART_RANGE = (-0.25, 0.25)  # m
_COSINE_RANGE = (0.995, 1)  # of the angle from upright


class Cartpole(Formulas):
    """Observation: position of the cart (1), cosine and sine of the angle (2), velocities (2)."""

    reads = ("qpos", "qvel", "xmat")

    def __init__(self, model: Any):
        self._pole = model.body("pole_1").id

    def observe(self, now: Readings) -> tuple[np.ndarray, ...]:
        cosine, sine = now.xmat[:, self._pole, ZZ, None], now.xmat[:, self._pole, XZ, None]
        return now.qpos[:, :1], cosine, sine, now.qvel

    def balance(self, now: Readings) -> np.ndarray:
        upright = (now.xmat[:, self._pole, ZZ] + 1) / 2
        centered = (1 + gaussian(now.qpos[:, 0], 0.0, 0.0, margin=2)) / 2
        small_control = (4 + quadratic(now.ctrl[:, 0], margin=1)) / 5
        small_velocity = (1 + gaussian(now.qvel[:, 1], 0.0, 0.0, margin=5)) / 2
        return upright * small_control * small_velocity * centered

    def balance_sparse(self, now: Readings) -> np.ndarray:
        cosine = now.xmat[:, self._pole, ZZ]
        return is_within(now.qpos[:, 0], *_CART_RANGE) * is_within(cosine, *_COSINE_RANGE)

    # The tasks differ in where an episode starts.
    swingup = balance
    swingup_sparse = balance_sparse
