"""Windows of a task's episodes as training batches.

Shapes: H horizon, B batch, O and A padded observation and action sizes, K = O + A + 1, W windows.
"""

from typing import NamedTuple

import numpy as np
import torch

from pwmray.data.angles import wrap_observations
from pwmray.data.store import Store
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM, find_task


class Batch(NamedTuple):
    """B windows, time-major and contiguous: obs_t --a_t--> obs_{t+1}, with reward r_t."""

    obs_HBO: torch.Tensor  # [H + 1, B, O] float32
    a_HBA: torch.Tensor  # [H, B, A] float32
    r_HB1: torch.Tensor  # [H, B, 1] float32


class WindowSampler:
    """Draw windows of H + 1 rows, uniformly over all that lie within one episode.

    The rows are packed as [obs | action | reward], zero-padded, and moved to `device` once:
    31 floats a row at MT30's sizes. Draws follow from `generator` alone, which must live on the
    same device; sampling never waits for the device. `episodes` names those to draw from, an
    episode as often as it is named; without it, all of them once.
    """

    def __init__(
        self,
        store: Store,
        horizon: int,
        batch_size: int,
        device: torch.device | str,
        generator: torch.Generator,
        episodes: np.ndarray | None = None,
        max_obs_dim: int = MAX_OBS_DIM,
        max_action_dim: int = MAX_ACTION_DIM,
        wrap_angles: bool = False,
    ):
        longest = int(store.episode_lengths.max()) - 1
        if not 1 <= horizon <= longest:
            raise ValueError(f"horizon must be in [1, {longest}] for {store.path}, got {horizon}")
        self.horizon = horizon
        self.batch_size = batch_size
        self._generator = generator
        self._sizes = [max_obs_dim, max_action_dim, 1]
        packed = pack_rows(store, max_obs_dim, max_action_dim, wrap_angles)
        self._windows = windows(packed.to(device), horizon)
        self._starts_W = torch.from_numpy(window_starts(store, horizon, episodes)).to(device)
        if not self.num_windows:
            raise ValueError(f"no chosen episode of {store.path} has {horizon} steps")

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
        return take(self._windows, self._starts_W[draws_B], self._sizes)


def windows(packed_RK: torch.Tensor, horizon: int) -> torch.Tensor:
    """View rows so that one row is a whole window: a draw then copies B long rows."""
    num_rows, num_columns = packed_RK.shape
    shape = (num_rows - horizon, (horizon + 1) * num_columns)
    return packed_RK.as_strided(shape, (num_columns, 1))


def take(windows: torch.Tensor, starts_B: torch.Tensor, sizes: list[int]) -> Batch:
    """Copy the windows that begin at these rows; `sizes` are the widths O, A and 1."""
    rows = windows.index_select(0, starts_B)
    rows_HBK = rows.view(len(starts_B), -1, sum(sizes)).transpose(0, 1)
    obs_HBO, a_HBA, r_HB1 = rows_HBK.split(sizes, dim=-1)
    # The first row's action and reward led to the window, not on from it.
    return Batch(obs_HBO.contiguous(), a_HBA[1:].contiguous(), r_HB1[1:].contiguous())


def window_starts(store: Store, horizon: int, episodes: np.ndarray | None = None) -> np.ndarray:
    """Return the first row of every window that stays within its episode, [W] int64."""
    chosen = np.arange(store.num_episodes) if episodes is None else episodes
    counts = np.maximum(store.episode_lengths[chosen] - horizon, 0)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(store.episode_starts[chosen], counts) + offsets


def draw_episodes(
    store: Store, max_rows: int, with_replacement: bool, generator: torch.Generator
) -> np.ndarray:
    """Return the episodes that fit into a buffer of `max_rows` (0: of all), in random order.

    Each is drawn once, or `with_replacement` as the published learner fills its buffer.
    """
    num_episodes = store.num_episodes
    if with_replacement:
        order = torch.randint(num_episodes, (num_episodes,), generator=generator).numpy()
    else:
        order = torch.randperm(num_episodes, generator=generator).numpy()
    if max_rows == 0:
        return order
    fitting = np.cumsum(store.episode_lengths[order]) <= max_rows
    if not fitting[0]:
        raise ValueError(
            f"learner.wm_buffer_size is {max_rows} rows, fewer than one episode of {store.path}"
        )
    return order[fitting]


def pack_rows(
    store: Store,
    max_obs_dim: int = MAX_OBS_DIM,
    max_action_dim: int = MAX_ACTION_DIM,
    wrap_angles: bool = False,
) -> torch.Tensor:
    """Return the rows as one zero-padded tensor [R, K]; the mapped file is copied, not touched."""
    obs_dim, action_dim = store.obs.shape[1], store.action.shape[1]
    assert obs_dim <= max_obs_dim and action_dim <= max_action_dim, "padding too small"
    packed = np.zeros((len(store.obs), max_obs_dim + max_action_dim + 1), np.float32)
    packed[:, :obs_dim] = (
        wrap_observations(store.obs, find_task(store.task)) if wrap_angles else store.obs
    )
    packed[:, max_obs_dim : max_obs_dim + action_dim] = store.action
    packed[:, -1] = store.reward
    return torch.from_numpy(packed)
