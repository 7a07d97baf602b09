"""Windows of a task's episodes as training batches.

Shapes: H horizon, B batch, O and A padded observation and action sizes, K = O + A + 1, W windows.
"""

from typing import NamedTuple

import numpy as np
import torch

from pwmray.data.store import Store
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM


class Batch(NamedTuple):
    """B windows, time-major and contiguous: obs_t --a_t--> obs_{t+1}, with reward r_t."""

    obs_HBO: torch.Tensor  # [H + 1, B, O] float32
    a_HBA: torch.Tensor  # [H, B, A] float32
    r_HB1: torch.Tensor  # [H, B, 1] float32


class WindowSampler:
    """Draw windows of H + 1 rows, uniformly over all that lie within one episode.

    The rows are packed as [obs | action | reward], zero-padded, and moved to `device` once:
    31 floats a row at MT30's sizes. Draws follow from `generator` alone, which must live on the
    same device; sampling never waits for the device.
    """

    def __init__(
        self,
        store: Store,
        horizon: int,
        batch_size: int,
        device: torch.device | str,
        generator: torch.Generator,
        max_obs_dim: int = MAX_OBS_DIM,
        max_action_dim: int = MAX_ACTION_DIM,
    ):
        longest = int(store.episode_lengths.max()) - 1
        if not 1 <= horizon <= longest:
            raise ValueError(f"horizon must be in [1, {longest}] for {store.path}, got {horizon}")
        self.horizon = horizon
        self.batch_size = batch_size
        self._generator = generator
        self._sizes = [max_obs_dim, max_action_dim, 1]
        packed = _pack(store, max_obs_dim, max_action_dim).to(device)
        # One row of this view is a whole window, so that a draw copies B long rows.
        num_rows, num_columns = packed.shape
        window = (num_rows - horizon, (horizon + 1) * num_columns)
        self._windows = packed.as_strided(window, (num_columns, 1))
        self._starts_W = torch.from_numpy(window_starts(store, horizon)).to(device)

    @property
    def num_windows(self) -> int:
        """Return W, the number of different windows."""
        return len(self._starts_W)

    def sample(self, batch_size: int | None = None) -> Batch:
        """Draw `batch_size` windows (the constructor's unless given), with replacement."""
        num_draws = self.batch_size if batch_size is None else batch_size
        draws_B = torch.randint(
            self.num_windows,
            (num_draws,),
            generator=self._generator,
            device=self._starts_W.device,
        )
        rows = self._windows.index_select(0, self._starts_W[draws_B])
        rows_HBK = rows.view(num_draws, self.horizon + 1, -1).transpose(0, 1)
        obs_HBO, a_HBA, r_HB1 = rows_HBK.split(self._sizes, dim=-1)
        # The first row's action and reward led to the window, not on from it.
        return Batch(obs_HBO.contiguous(), a_HBA[1:].contiguous(), r_HB1[1:].contiguous())


def window_starts(store: Store, horizon: int) -> np.ndarray:
    """Return the first row of every window that stays within its episode, [W] int64."""
    counts = np.maximum(store.episode_lengths - horizon, 0)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(store.episode_starts, counts) + offsets


def _pack(store: Store, max_obs_dim: int, max_action_dim: int) -> torch.Tensor:
    """Return the rows as one zero-padded tensor [R, K]; the mapped file is copied, not touched."""
    obs_dim, action_dim = store.obs.shape[1], store.action.shape[1]
    assert obs_dim <= max_obs_dim and action_dim <= max_action_dim, "padding too small"
    packed = np.zeros((len(store.obs), max_obs_dim + max_action_dim + 1), np.float32)
    packed[:, :obs_dim] = store.obs
    packed[:, max_obs_dim : max_obs_dim + action_dim] = store.action
    packed[:, -1] = store.reward
    return torch.from_numpy(packed)
