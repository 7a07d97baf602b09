"""Read one chunk of a published dataset: the only module that knows the layout inside a chunk.

A chunk is a TensorDict, or a dictionary, of E episodes with T rows: `obs` [E, T, O], `action`
[E, T, A] and `reward` [E, T], all float32, and `task` [E, T], whole numbers. Row t holds obs_t and
the action and reward that LED to it; those of row 0 mean nothing. The observations and actions of a
smaller task are padded to O and A.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pwmray.data.layouts import LAYOUTS, Layout
from pwmray.pickles import TensorDict, load_pickled
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM, Task

_NAMES = ("obs", "action", "reward", "task")
_WHOLE_NUMBERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_SLAB_EPISODES = 512  # that are read at a time: 30 MB of MT30


class Rows(NamedTuple):
    """n whole episodes of one task, unpadded; action and reward of each first row are NaN."""

    obs: np.ndarray  # [n, T, obs_dim] float32
    action: np.ndarray  # [n, T, action_dim] float32
    reward: np.ndarray  # [n, T] float32


class Chunk(NamedTuple):
    """An open chunk; its arrays are memory-mapped, so that only what is used is read."""

    path: Path
    layout: Layout
    obs: np.ndarray  # [E, T, O] float32
    action: np.ndarray  # [E, T, A] float32
    reward: np.ndarray  # [E, T] float32
    task: np.ndarray  # [E, T] whole numbers

    @property
    def num_episodes(self) -> int:
        """Return E."""
        return len(self.task)


def open_chunk(path: Path, trust: bool = False) -> Chunk:
    """Map the chunk at `path`.

    A chunk is a pickle; code in it runs only with `trust`. Raises ValueError naming the file and
    what is wrong with its form.
    """
    fields = _fields(path, load_pickled(path, trust, is_mapped=True))
    shape = fields["task"].shape
    layout = _layout(path, shape)
    _check_form(path, fields, (*shape, MAX_OBS_DIM), (*shape, MAX_ACTION_DIM))
    if not shape[0]:
        raise ValueError(f"{path} has no episodes")
    return Chunk(path, layout, *(fields[name].detach().resolve_neg().numpy() for name in _NAMES))


def read_tasks(chunk: Chunk) -> np.ndarray:
    """Return the task's index of each episode, [E]; raise ValueError for an impossible one."""
    tasks = chunk.task[:, 0]
    out_of_range = (tasks < 0) | (tasks >= chunk.layout.num_tasks)
    if out_of_range.any():
        episode = int(out_of_range.argmax())
        raise ValueError(
            f"{chunk.path}: episode {episode} is of task {tasks[episode]}; the tasks of "
            f"{chunk.layout.name} are 0 to {chunk.layout.num_tasks - 1}"
        )
    mixed = (chunk.task != tasks[:, None]).any(axis=1)
    if mixed.any():
        raise ValueError(f"{chunk.path}: episode {int(mixed.argmax())} is of more than one task")
    return tasks.astype(np.int64)


def read_slabs(
    chunk: Chunk, task_ids: np.ndarray, tasks: list[Task]
) -> Iterator[tuple[int, list[tuple[Task, Rows]]]]:
    """Read a chunk slab by slab: yield how many episodes are done, and this slab's rows by task.

    Only rows of `tasks` are read; `task_ids` is what `read_tasks` returned. Raises ValueError for a
    value that is not finite, and for an observation in the padding.
    """
    for start in range(0, chunk.num_episodes, _SLAB_EPISODES):
        stop = min(start + _SLAB_EPISODES, chunk.num_episodes)
        here = task_ids[start:stop]
        present = [task for task in tasks if (here == task.index).any()]
        found = [
            (task, _read_rows(chunk, start + np.flatnonzero(here == task.index), task))
            for task in present
        ]
        yield stop, found


def _read_rows(chunk: Chunk, episodes: np.ndarray, task: Task) -> Rows:
    padded = chunk.obs[episodes]
    rows = Rows(
        obs=np.ascontiguousarray(padded[..., : task.obs_dim], "<f4"),
        action=np.ascontiguousarray(chunk.action[episodes, :, : task.action_dim], "<f4"),
        reward=np.ascontiguousarray(chunk.reward[episodes], "<f4"),
    )
    _complain(
        chunk, episodes, padded[..., task.obs_dim :] != 0, f"has more observations than {task.name}"
    )
    _complain(chunk, episodes, ~np.isfinite(rows.obs), "has an observation that is not finite")
    _complain(chunk, episodes, ~np.isfinite(rows.action), "has an action that is not finite", 1)
    _complain(chunk, episodes, ~np.isfinite(rows.reward), "has a reward that is not finite", 1)
    rows.action[:, 0], rows.reward[:, 0] = np.nan, np.nan
    return rows


def _complain(
    chunk: Chunk, episodes: np.ndarray, is_bad: np.ndarray, fault: str, first_row: int = 0
) -> None:
    """Raise ValueError naming the first bad entry of [n, T, ...], if any, from `first_row` on."""
    if is_bad[:, first_row:].any():
        number, row = (int(index) for index in np.argwhere(is_bad[:, first_row:])[0][:2])
        place = f"row {row + first_row} of episode {episodes[number]}"
        raise ValueError(f"{chunk.path}: {place} {fault}")


def _fields(path: Path, content: Any) -> Mapping[str, torch.Tensor]:
    fields = getattr(content, "_tensordict", None) if isinstance(content, TensorDict) else content
    if not isinstance(fields, Mapping):
        raise ValueError(f"{path} is not a chunk of a dataset but a {type(content).__name__}")
    missing = [name for name in _NAMES if not isinstance(fields.get(name), torch.Tensor)]
    if missing:
        kinds = (f"{name} ({type(value).__name__})" for name, value in fields.items())
        held = ", ".join(kinds) or "nothing"
        raise ValueError(
            f"{path} is not a chunk: it has no tensor {', '.join(missing)}; it holds {held}"
        )
    for name in _NAMES:
        if fields[name].layout != torch.strided or fields[name].is_meta:
            kind = "a tensor without data" if fields[name].is_meta else str(fields[name].layout)
            raise ValueError(f"{path}: {name} is {kind}; it must be an ordinary tensor")
    return fields


def _layout(path: Path, shape: tuple[int, ...]) -> Layout:
    num_rows = shape[1] if len(shape) == 2 else 0
    for layout in LAYOUTS.values():
        if num_rows == layout.num_rows:
            return layout
    lengths = ", ".join(f"{layout.name} has {layout.num_rows}" for layout in LAYOUTS.values())
    raise ValueError(f"{path}: tasks of shape {tuple(shape)}, not [episodes, rows]; {lengths} rows")


def _check_form(
    path: Path, fields: Mapping[str, torch.Tensor], obs: tuple[int, ...], action: tuple[int, ...]
) -> None:
    """Raise ValueError unless the fields have agreeing shapes, wide enough for MT30, and dtypes."""
    for name, least in (("obs", obs), ("action", action), ("reward", obs[:-1])):
        shape, dtype = tuple(fields[name].shape), fields[name].dtype
        fits = len(shape) == len(least) and shape[:2] == least[:2] and shape[2:] >= least[2:]
        if not fits or dtype != torch.float32:
            raise ValueError(
                f"{path}: {name} is {list(shape)} of {dtype}; it must be {list(least)} or wider "
                "of torch.float32"
            )
    if fields["task"].dtype not in _WHOLE_NUMBERS:
        raise ValueError(f"{path}: task is of {fields['task'].dtype}; it must be whole numbers")
