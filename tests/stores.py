"""Small stores whose values tell the episode and row that they are of, for tests of the data."""

from types import SimpleNamespace

import numpy as np
import torch

from pwmray.data.store import open_store, write_store
from pwmray.data.windows import EpisodeWindows


def write_rows(path, lengths=(5, 7), task="reacher-easy", recipe=None):
    """Write and open a store whose observations begin with the episode's and the row's number."""
    num_rows = sum(lengths)
    obs = np.zeros((num_rows, 6), np.float32)
    obs[:, 0] = np.repeat(np.arange(len(lengths)), lengths)
    obs[:, 1] = np.arange(num_rows)
    action = np.tile(obs[:, 1:2], (1, 2)) + 0.5
    reward = np.arange(num_rows, dtype=np.float32)
    firsts = np.cumsum(lengths) - lengths
    action[firsts], reward[firsts] = np.nan, np.nan
    write_store(path, task, obs, action, reward, lengths, ["held-4"] * len(lengths), recipe or {})
    return open_store(path)


def first_rows(lengths, horizon, episodes):
    """Return the first row of every window of the chosen episodes, in order."""
    lengths = np.array(lengths)
    starts = np.cumsum(lengths) - lengths
    store = SimpleNamespace(
        path="rows", num_rows=lengths.sum(), episode_lengths=lengths, episode_starts=starts
    )
    windows = EpisodeWindows([store], [np.array(episodes)], horizon, torch.device("cpu"))
    return windows.locate(torch.arange(windows.num_windows))[0].tolist()
