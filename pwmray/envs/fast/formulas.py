"""The interface of a domain's formulas: what they read, and what they must define.

Shapes: N environments. All is float64, as in MuJoCo; only the environment rounds to float32.
"""

from typing import Any

import numpy as np


class Readings:
    """Fields of mjData of N environments, copied after a control step; see MuJoCo's mjData.

    Only the fields in a domain's `reads` are filled. The arrays are overwritten by the next
    control step.
    """

    ctrl: np.ndarray  # [N, nu], always filled; not clipped
    qpos: np.ndarray  # [N, nq], m or rad
    qvel: np.ndarray  # [N, nv], m/s or rad/s
    xpos: np.ndarray  # [N, nbody, 3], m: frames of the bodies
    xipos: np.ndarray  # [N, nbody, 3], m: centres of mass of the bodies
    xmat: np.ndarray  # [N, nbody, 9]: rotations of the bodies, row by row
    geom_xpos: np.ndarray  # [N, ngeom, 3], m
    geom_xmat: np.ndarray  # [N, ngeom, 9]
    site_xpos: np.ndarray  # [N, nsite, 3], m
    sensordata: np.ndarray  # [N, nsensordata]


class Formulas:
    """The formulas of a domain. A method for each task returns the reward [N] of a control step."""

    reads: tuple[str, ...]  # fields of mjData that the formulas need
    # Fields of mjModel that the start of an episode sets differently for every episode.
    changes: tuple[str, ...] = ()

    def __init__(self, model: Any):
        """Look up in the mujoco.MjModel what the formulas need."""
        raise NotImplementedError

    def observe(self, now: Readings) -> tuple[np.ndarray, ...]:
        """Return the parts of the observation, each [N, k], in dm_control's order."""
        raise NotImplementedError


# Places in a rotation matrix that is stored row by row: xz is row x, column z.
XX, XZ, ZZ = 0, 2, 8
PLANE = slice(0, 3, 2)  # x and z of a position; numpy reads a slice six times faster than a list


def norms(vectors: np.ndarray) -> np.ndarray:
    """Return the lengths [N] of `vectors` [N, k], to the last bit those of np.linalg.norm."""
    return np.sqrt(np.vecdot(vectors, vectors))  # norm, too, goes through BLAS's dot product


def sensor_slice(model: Any, first: str, last: str | None = None) -> slice:
    """Return where in `sensordata` a sensor's values are, or those of the first to the last."""
    end = model.sensor(last or first)
    return slice(int(model.sensor(first).adr[0]), int(end.adr[0] + end.dim[0]))
