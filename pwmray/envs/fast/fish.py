"""Fish: dm_control's swim."""

from typing import Any

import numpy as np

from pwmray.envs.fast.formulas import ZZ, Formulas, Readings, norms
from pwmray.envs.fast.tolerance import gaussian


class Fish(Formulas):
    """Observation: joint angles (7), upright (1), target from the mouth (3), velocities (13)."""

    reads = ("qpos", "qvel", "xmat", "geom_xpos", "geom_xmat")
    changes = ("geom_pos",)

    def __init__(self, model: Any):
        self._joints = slice(model.joint("tail1").qposadr[0], model.nq)
        self._torso = model.body("torso").id
        self._mouth = model.geom("mouth").id
        self._target = model.geom("target").id
        self._radii = model.geom_size[[self._mouth, self._target], 0].sum()

    def observe(self, now: Readings) -> tuple[np.ndarray, ...]:
        upright = now.xmat[:, self._torso, ZZ, None]
        return now.qpos[:, self._joints], upright, self._mouth_to_target(now), now.qvel

    def swim(self, now: Readings) -> np.ndarray:
        distance = norms(self._mouth_to_target(now))
        in_target = gaussian(distance, 0.0, self._radii, margin=2 * self._radii)
        upright = 0.5 * (now.xmat[:, self._torso, ZZ] + 1)
        return (7 * in_target + upright) / 8

    def _mouth_to_target(self, now: Readings) -> np.ndarray:
        """Return the target [N, 3] as seen from the mouth, in its frame."""
        offset = now.geom_xpos[:, self._target] - now.geom_xpos[:, self._mouth]
        rotation = now.geom_xmat[:, self._mouth].reshape(-1, 3, 3)
        return (offset[:, None] @ rotation)[:, 0]
