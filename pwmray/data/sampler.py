"""Windows of a task's episodes as training batches.

Shapes: H horizon, B batch, O and A padded observation and action sizes, K columns of a packed row.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from pwmray.data.rows import MappedRows, Place, place_rows
from pwmray.data.store import Store
from pwmray.data.windows import EpisodeWindows
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM

_SIZES = (1, MAX_ACTION_DIM, MAX_OBS_DIM)  # reward, action, obs, as in a packed row


class Batch(NamedTuple):
    """B windows, time-major: obs_t --a_t--> obs_{t+1}, with reward r_t. obs is not contiguous."""

    obs_HBO: torch.Tensor  # [H + 1, B, O] float32
    a_HBA: torch.Tensor  # [H, B, A] float32
    r_HB1: torch.Tensor  # [H, B, 1] float32


class WindowSampler:
    """Draw windows of H + 1 rows, uniformly from all that lie within one episode.

    Draws follow from `generator` alone, which must live on `device`. `episodes` are those to draw
    from, by default all; one that is listed twice counts twice. `place` is as in `place_rows`.
    Raises ValueError if all these episodes are shorter than the horizon.
    """

    def __init__(
        self,
        store: Store,
        horizon: int,
        device: torch.device | str,
        generator: torch.Generator,
        episodes: np.ndarray | None = None,
        wrap_angles: bool = False,
        place: Place | None = None,
    ):
        self.generator = generator
        chosen = np.arange(store.num_episodes) if episodes is None else episodes
        self._windows = EpisodeWindows([store], [chosen], horizon, device)
        self._rows = place_rows([store], horizon, device, wrap_angles, place)

    @property
    def is_mapped(self) -> bool:
        """Whether batches are read from files: `sample` then waits for the GPU to draw windows."""
        return isinstance(self._rows, MappedRows)

    def sample(self, batch_size: int) -> Batch:
        """Draw `batch_size` windows, with replacement."""
        starts_B, _ = self._windows.draw(batch_size, self.generator)
        return as_batch(self._rows.gather(starts_B))


def as_batch(windows_BHK: torch.Tensor) -> Batch:
    """Return windows of rows as a batch, with observations padded with zeros to MT30's size."""
    if padding := sum(_SIZES) - windows_BHK.shape[-1]:
        windows_BHK = F.pad(windows_BHK, (0, padding))
    rows_HBK = windows_BHK.transpose(0, 1)
    r_HB1, a_HBA, obs_HBO = rows_HBK.split(_SIZES, dim=-1)
    # The first row's action and reward led to the window, so they are dropped. Observations need
    # not be contiguous: models copy them when they join them with other inputs. Actions must be,
    # for a GPU's kernel, and rewards, because a loss adds up in the order of their memory.
    return Batch(obs_HBO, a_HBA[1:].contiguous(), r_HB1[1:].contiguous())


def draw_episodes(
    store: Store, max_rows: int, with_replacement: bool, generator: torch.Generator
) -> np.ndarray:
    """Return the episodes that fit into a buffer of `max_rows` (0: all of them), in random order.

    Each is drawn once, or `with_replacement`, as the published learner fills its buffer. Raises
    ValueError if the first episode does not fit.
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
