"""Synthetic chunks in the layout of TD-MPC2's MT30, for measuring and for trying things out."""

from pathlib import Path

import numpy as np
import torch

from pwmray.data.layouts import LAYOUTS
from pwmray.pickles import save_tensor_dict
from pwmray.tasks import TASKS, Task


def write_chunk(path: Path, tasks: list[Task], episodes_a_task: int, seed: int) -> None:
    """Write random episodes of `tasks`, in random order, padded as published."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.repeat(np.arange(len(tasks)), episodes_a_task))
    layout = LAYOUTS["mt30"]
    shape = (len(order), layout.num_rows)
    obs = np.zeros((*shape, layout.obs_dim), np.float32)
    action = np.zeros((*shape, layout.action_dim), np.float32)
    for episode, number in enumerate(order):
        task = tasks[number]
        obs[episode, :, : task.obs_dim] = rng.random((layout.num_rows, task.obs_dim), np.float32)
        action[episode, :, : task.action_dim] = rng.random(
            (layout.num_rows, task.action_dim), np.float32
        )
    reward = rng.random(shape, np.float32)
    action[:, 0], reward[:, 0] = np.nan, np.nan
    task_ids = np.array([task.index for task in tasks])[order]
    arrays = {
        "obs": obs,
        "action": action,
        "reward": reward,
        "task": np.repeat(task_ids[:, None], layout.num_rows, axis=1),
    }
    save_tensor_dict(path, {name: torch.from_numpy(array) for name, array in arrays.items()})


def write_dataset(folder: Path, num_chunks: int, episodes_a_task: int) -> int:
    """Write chunks of all 30 tasks; return their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_chunks):
        path = folder / f"chunk_{number}.pt"
        write_chunk(path, list(TASKS.values()), episodes_a_task, seed=number)
    return sum(path.stat().st_size for path in folder.glob("chunk_*.pt"))
