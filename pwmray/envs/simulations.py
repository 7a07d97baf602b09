"""N MuJoCo simulations of one task that are stepped directly; dm_control only starts episodes.

Steps equal those of dm_control's Physics.step bit for bit: after each control step, the state and
all that is derived from it are up to date (MuJoCo documents this order at mj_step1 and mj_step2).
"""

# mujoco's names come from compiled modules without type stubs.
# pyright: reportAttributeAccessIssue=false

import copy
import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mujoco
import numpy as np

from pwmray.envs.environment import copy_of_compiled
from pwmray.envs.fast.formulas import Readings
from pwmray.tasks import ACTION_REPEAT, SIMULATIONS, find_task

# A control step of fewer substeps costs no more than handing it to another thread.
_SUBSTEPS_WORTH_A_THREAD = 4
_RUNGE_KUTTA_ORDER = 4
_AFTER_VELOCITY = int(mujoco.mjtStage.mjSTAGE_VEL)  # an enum is slow to pass


class Simulations:
    """N simulations that share one compiled model, stepped by up to `num_threads` threads.

    `reads` are the fields of mjData that `all_steps` and `now` hold after `step`. `changes` are the
    fields of mjModel that each episode sets for itself. They are written into the shared model
    before a simulation steps, because a copy of the model for each would take 12 MB (textures).
    """

    def __init__(
        self,
        task: str,
        num_envs: int,
        reads: Sequence[str],
        changes: Sequence[str],
        num_threads: int,
    ):
        self._starter = copy_of_compiled(task)
        self.model = self._starter.physics.model.ptr
        num_substeps = SIMULATIONS[find_task(task).domain].num_substeps
        self._datas = [mujoco.MjData(self.model) for _ in range(num_envs)]
        self._ctrls = [data.ctrl for data in self._datas]
        self._warnings = [data.warning.number for data in self._datas]
        self._warnings_at_start = np.concatenate(self._warnings)
        self._changes = [getattr(self.model, field) for field in changes]
        self._changed = [[view.copy() for view in self._changes] for _ in range(num_envs)]
        self.all_steps = Readings()  # 2 N rows: after the first control step, after the second
        self.now = Readings()  # its last N rows; `start` fills these
        for field in ("ctrl", *reads):
            self._allocate(field)
        if num_substeps < _SUBSTEPS_WORTH_A_THREAD:
            num_threads = 1
        self._groups = [
            self._group(rows[0], rows[-1] + 1, reads, changes, num_substeps)
            for rows in np.array_split(np.arange(num_envs), min(num_threads, num_envs))
        ]
        self._threads = self._make_threads()

    def start(self, randoms: list[np.random.RandomState]) -> None:
        """Start an episode in every simulation, drawn from its own random state."""
        for index, random in enumerate(randoms):
            self._starter.task._random = random
            self._starter.reset()
            mujoco.mj_copyData(self._datas[index], self.model, self._starter.physics.data.ptr)
            for own, view in zip(self._changed[index], self._changes, strict=True):
                own[:] = view
        self._warnings_at_start = np.concatenate(self._warnings)
        for group in self._groups:
            group.read(ACTION_REPEAT - 1)
        # A thread flushes denormals if the one that starts it does: each episode has new threads.
        self.close()
        self._threads = self._make_threads()

    def set_control(self, ctrl: np.ndarray) -> None:
        """Hold `ctrl` [N, nu] from now on."""
        self.all_steps.ctrl.reshape(ACTION_REPEAT, *ctrl.shape)[:] = ctrl
        for view, row in zip(self._ctrls, ctrl, strict=True):
            view[:] = row

    def step(self) -> None:
        """Advance every simulation by the control steps of one environment step."""
        first, *others = self._groups
        running = [self._threads.submit(group.step) for group in others]
        first.step()
        for group in running:
            group.result()

    def find_failed(self) -> tuple[int, str] | None:
        """Return the first simulation with a warning of MuJoCo in this episode, and the warning."""
        new = np.concatenate(self._warnings) > self._warnings_at_start
        if not new.any():
            return None
        index, kind = np.argwhere(new.reshape(len(self._warnings), -1))[0]
        return int(index), mujoco.mjtWarning(kind).name

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def _make_threads(self) -> ThreadPoolExecutor:
        """Return a thread for each group but the first, which is the caller's."""
        return ThreadPoolExecutor(max(len(self._groups) - 1, 1))

    def _allocate(self, field: str) -> None:
        one = getattr(self._datas[0], field)
        rows = np.zeros((ACTION_REPEAT * len(self._datas), *one.shape))
        setattr(self.all_steps, field, rows)
        setattr(self.now, field, rows[-len(self._datas) :])

    def _group(
        self, start: int, stop: int, reads: Sequence[str], changes: Sequence[str], substeps: int
    ) -> "_Group":
        """Return the simulations from `start` to `stop`, ready for a thread of their own."""
        # If episodes change the model, each thread needs one of its own.
        model = copy.copy(self.model) if changes and start > 0 else self.model
        views = [getattr(model, field) for field in changes]
        num_envs, datas = len(self._datas), self._datas[start:stop]
        sources = [[getattr(data, field) for data in datas] for field in reads]
        targets = [
            [_joined(getattr(self.all_steps, field)[row + start : row + stop]) for field in reads]
            for row in range(0, ACTION_REPEAT * num_envs, num_envs)
        ]
        return _Group(
            model,
            substeps,
            datas,
            [list(zip(views, own, strict=True)) for own in self._changed[start:stop]],
            [list(zip(sources, own, strict=True)) for own in targets],
        )


@dataclasses.dataclass
class _Group:
    """Simulations that one thread steps and reads."""

    model: Any
    num_substeps: int
    datas: list[Any]
    changes: list[list[tuple[np.ndarray, np.ndarray]]]  # of each simulation: place, value
    reads: list[list[tuple[list[np.ndarray], np.ndarray]]]  # of each control step: sources, target

    def __post_init__(self):
        self._is_rk4 = self.model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
        assert self.num_substeps == 1 or not self._is_rk4

    def step(self) -> None:
        """Advance by the control steps of one environment step, reading after each."""
        advance = self._advance_rk4 if self._is_rk4 else self._advance_euler
        for control_step in range(ACTION_REPEAT):
            for data, changes in zip(self.datas, self.changes, strict=True):
                for place, value in changes:
                    place[:] = value
                advance(data)
            self.read(control_step)

    def read(self, control_step: int) -> None:
        """Copy the fields that are read to the rows of a control step."""
        for sources, target in self.reads[control_step]:
            np.concatenate(sources, out=target)

    def _advance_euler(self, data: Any) -> None:
        mujoco.mj_step2(self.model, data)
        if self.num_substeps > 1:
            mujoco.mj_step(self.model, data, self.num_substeps - 1)
        mujoco.mj_step1(self.model, data)

    def _advance_rk4(self, data: Any) -> None:
        # mj_step without its first stage, which the mj_step1 of the step before has computed.
        mujoco.mj_forwardSkip(self.model, data, _AFTER_VELOCITY, False)
        mujoco.mj_RungeKutta(self.model, data, _RUNGE_KUTTA_ORDER)
        mujoco.mj_step1(self.model, data)


def _joined(array: np.ndarray) -> np.ndarray:
    """Return a view of [N, rows, ...] as [N * rows, ...], into which np.concatenate writes."""
    return array.reshape(-1, *array.shape[2:])
