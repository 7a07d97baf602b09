"""Small chunks in the form of TD-MPC2's datasets, for tests."""

import os
import signal

import numpy as np
import torch

from pwmray import cli
from pwmray.data import chunks
from pwmray.data.importing import import_dataset
from pwmray.data.layouts import LAYOUTS
from pwmray.pickles import save_tensor_dict
from pwmray.tasks import TASKS

BY_INDEX = list(TASKS.values())
PENDULUM, CARTPOLE, REACHER = 7, 10, 4  # swingup, swingup, easy
# Of the episodes 0 to 7, in four chunks as MT30 has. The third chunk has no pendulum.
TASKS_BY_CHUNK = [
    [PENDULUM, REACHER, PENDULUM],
    [REACHER, PENDULUM],
    [REACHER],
    [PENDULUM, REACHER],
]
PENDULUM_EPISODES, REACHER_EPISODES = [0, 2, 4, 6], [1, 3, 5, 7]


def chunk_tensors(task_ids, first_episode=0, layout="mt30"):
    """Return a chunk's tensors, whose values tell the episode and the row that they are of.

    Observation column i of row t of episode e is 1000 e + t + i / 100; padding is 0.
    """
    form = LAYOUTS[layout]
    episodes = np.arange(first_episode, first_episode + len(task_ids))
    values = 1000.0 * episodes[:, None] + np.arange(form.num_rows)
    obs = values[..., None] + np.arange(form.obs_dim) / 100
    action = values[..., None] / 1e6 + np.arange(form.action_dim)
    reward = values / 1e5
    action[:, 0], reward[:, 0] = np.nan, np.nan
    for episode, task_id in enumerate(task_ids):
        if task_id < len(BY_INDEX):
            obs[episode, :, BY_INDEX[task_id].obs_dim :] = 0
            action[episode, :, BY_INDEX[task_id].action_dim :] = 0
    task = np.repeat(np.array(task_ids)[:, None], form.num_rows, axis=1)
    floats = {"obs": obs, "action": action, "reward": reward}
    tensors = {name: torch.from_numpy(array.astype(np.float32)) for name, array in floats.items()}
    return {**tensors, "task": torch.from_numpy(task)}


def write_chunks(folder, task_ids_by_chunk, layout="mt30"):
    """Write a chunk for each list of tasks; episodes are numbered through all the chunks."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for number, task_ids in enumerate(task_ids_by_chunk):
        tensors = chunk_tensors(task_ids, first, layout)
        save_tensor_dict(folder / f"chunk_{number}.pt", tensors)
        first += len(task_ids)
    return folder


def change_chunk(folder, number, change):
    """Write one chunk again, with its tensors after `change`."""
    path = folder / f"chunk_{number}.pt"
    tensors = chunk_tensors([PENDULUM, REACHER, PENDULUM])
    change(tensors)
    save_tensor_dict(path, tensors)


def no_progress(what, done, total):
    pass


def run_import(source, data_dir, **options):
    return import_dataset(source, data_dir, no_progress, **options)


def import_command(source, tmp_path, *options):
    return cli.main(["data", "import", str(source), "--data", str(tmp_path / "data"), *options])


def content(folder):
    """Return the bytes of every file under a folder, by file name."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def import_and_die(source, data_dir, num_calls):
    """Import in a process that kills itself at a call of its `progress`; return the signal."""
    calls = []

    def die(what, done, total):
        calls.append(what)
        if len(calls) == num_calls:
            os.kill(os.getpid(), signal.SIGKILL)

    process = os.fork()
    if process == 0:
        chunks._SLAB_EPISODES = 1
        import_dataset(source, data_dir, die)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) * -1
