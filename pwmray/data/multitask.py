"""Windows of several tasks' episodes in one batch, for pretraining a world model."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from pwmray.data.rows import MappedRows, Place, place_rows
from pwmray.data.sampler import Batch, as_batch
from pwmray.data.store import Store
from pwmray.data.windows import EpisodeWindows
from pwmray.tasks import find_task


class Split(NamedTuple):
    """A task's episodes, by number."""

    training: np.ndarray
    held_out: np.ndarray


class MultitaskSampler:
    """Draw windows uniformly from the chosen episodes of all stores.

    `episodes` has each store's chosen episodes. Draws follow from `generator`, which must live on
    `device`. `place` is as in `place_rows`. Raises ValueError for a store whose chosen episodes are
    all shorter than the horizon.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        episodes: Sequence[np.ndarray],
        horizon: int,
        device: torch.device | str,
        generator: torch.Generator,
        wrap_angles: bool = False,
        place: Place | None = None,
    ):
        self._stores, self._horizon, self._device = stores, horizon, device
        self._choose(episodes, generator)
        self._rows = place_rows(stores, horizon, device, wrap_angles, place)

    def among(
        self, episodes: Sequence[np.ndarray], generator: torch.Generator
    ) -> "MultitaskSampler":
        """Return a sampler of other episodes of these stores that shares the rows in memory."""
        other = copy.copy(self)
        other._choose(episodes, generator)
        return other

    @property
    def is_mapped(self) -> bool:
        """Whether batches are read from files: `sample` then waits for the GPU to draw windows."""
        return isinstance(self._rows, MappedRows)

    def sample(self, batch_size: int) -> tuple[Batch, torch.Tensor]:
        """Draw windows with replacement; return them and their tasks' indices [B]."""
        starts_B, episodes_B = self._windows.draw(batch_size, self.generator)
        return as_batch(self._rows.gather(starts_B)), self._tasks_E[episodes_B]

    def _choose(self, episodes: Sequence[np.ndarray], generator: torch.Generator) -> None:
        self.generator = generator
        self._windows = EpisodeWindows(self._stores, episodes, self._horizon, self._device)
        tasks = [find_task(store.task).index for store in self._stores]
        tasks_E = np.repeat(tasks, [len(chosen) for chosen in episodes])
        self._tasks_E = torch.from_numpy(tasks_E).to(self._device)


def split_episodes(store: Store, held_out_share: float, generator: torch.Generator) -> Split:
    """Hold out a share of the episodes, at least one; raise ValueError if none is left."""
    num_held_out = max(1, round(held_out_share * store.num_episodes))
    if num_held_out >= store.num_episodes:
        raise ValueError(
            f"{store.path} has {store.num_episodes} episodes, of which {num_held_out} would be "
            "held out: none is left to train on"
        )
    order = torch.randperm(store.num_episodes, generator=generator).numpy()
    return Split(np.sort(order[num_held_out:]), np.sort(order[:num_held_out]))
