"""N MuJoCo simulations of one task, stepped directly: dm_control starts their episodes only.

Steps are those of dm_control's Physics.step, bit for bit: its state and what is derived from it
are up to date after each control step (MuJoCo documents this order at mj_step1 and mj_step2).
"""

# mujoco's names come from compiled modules without type stubs.
# pyright: reportAttributeAccessIssue=false

import mujoco
import numpy as np

from pwmray.envs.environment import copy_of_compiled
from pwmray.envs.fast.formulas import Readings


class Simulations:
    """N simulations that share one compiled model.

    reads: fields of mjData that `now` holds after `start` and `step`.
    changes: fields of mjModel that each episode sets for itself; they are put in place before its
    simulation steps, because a copy of the model has 12 MB (its textures).
    """

    def __init__(self, task: str, num_envs: int, reads: tuple[str, ...], changes: tuple[str, ...]):
        self._starter = copy_of_compiled(task)
        physics = self._starter.physics
        self.model = physics.model.ptr
        self._num_substeps = round(self._starter.control_timestep() / physics.timestep())
        self._is_rk4 = self.model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
        self._datas = [mujoco.MjData(self.model) for _ in range(num_envs)]
        self._changes = [getattr(self.model, field) for field in changes]
        self._changed = [[view.copy() for view in self._changes] for _ in range(num_envs)]
        self._ctrls = [data.ctrl for data in self._datas]
        self._warnings = [data.warning.number for data in self._datas]
        self._warnings_at_start = np.concatenate(self._warnings)
        self._sources = [[getattr(data, field) for data in self._datas] for field in reads]
        self.now = Readings()
        self.now.ctrl = np.zeros((num_envs, self.model.nu))
        for field, sources in zip(reads, self._sources, strict=True):
            setattr(self.now, field, np.array(sources))
        self._targets = [_joined(getattr(self.now, field)) for field in reads]

    def start(self, randoms: list[np.random.RandomState]) -> None:
        """Start an episode in every simulation, drawn from its own random state."""
        for index, random in enumerate(randoms):
            self._starter.task._random = random
            self._starter.reset()
            mujoco.mj_copyData(self._datas[index], self.model, self._starter.physics.data.ptr)
            for own, view in zip(self._changed[index], self._changes, strict=True):
                own[:] = view
        self._warnings_at_start = np.concatenate(self._warnings)
        self._read()

    def set_control(self, ctrl: np.ndarray) -> None:
        """Hold `ctrl` [N, nu] from now on."""
        self.now.ctrl[:] = ctrl
        for view, row in zip(self._ctrls, ctrl, strict=True):
            view[:] = row

    def step(self) -> None:
        """Advance every simulation by a control step."""
        advance = self._step_rk4 if self._is_rk4 else self._step_euler
        for data, changed in zip(self._datas, self._changed, strict=True):
            for view, own in zip(self._changes, changed, strict=True):
                view[:] = own
            advance(data)
        self._read()

    def find_failed(self) -> tuple[int, str] | None:
        """Return the first simulation that MuJoCo warned of in its episode, and the warning."""
        new = np.concatenate(self._warnings) > self._warnings_at_start
        if not new.any():
            return None
        index, kind = np.argwhere(new.reshape(len(self._warnings), -1))[0]
        return int(index), mujoco.mjtWarning(kind).name

    def _step_euler(self, data: mujoco.MjData) -> None:
        mujoco.mj_step2(self.model, data)
        if self._num_substeps > 1:
            mujoco.mj_step(self.model, data, self._num_substeps - 1)
        mujoco.mj_step1(self.model, data)

    def _step_rk4(self, data: mujoco.MjData) -> None:
        mujoco.mj_step(self.model, data, self._num_substeps)
        mujoco.mj_step1(self.model, data)

    def _read(self) -> None:
        for target, sources in zip(self._targets, self._sources, strict=True):
            np.concatenate(sources, out=target)


def _joined(array: np.ndarray) -> np.ndarray:
    """Return a view of [N, rows, ...] as [N * rows, ...], into which np.concatenate writes."""
    return array.reshape(-1, *array.shape[2:])
