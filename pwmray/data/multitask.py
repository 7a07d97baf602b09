"""Windows of several tasks' episodes in one batch, for pretraining a world model.

Shapes: H horizon, B batch, K columns of a packed row; see pwmray.data.sampler.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from pwmray.data.sampler import Batch, pack_rows, take, window_starts, windows
from pwmray.data.store import Store
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM, find_task

_SIZES = [MAX_OBS_DIM, MAX_ACTION_DIM, 1]


class Split(NamedTuple):
    """A task's episodes, by number."""

    training: np.ndarray
    held_out: np.ndarray


class MultitaskSampler:
    """Draw windows uniformly over those of the given episodes of all stores."""

    def __init__(
        self,
        stores: Sequence[Store],
        episodes: Sequence[np.ndarray],
        horizon: int,
        device: torch.device | str,
        generator: torch.Generator,
        wrap_angles: bool = False,
    ):
        packed = [pack_rows(store, wrap_angles=wrap_angles) for store in stores]
        self._stores, self._horizon, self._device = stores, horizon, device
        self._first_rows = np.cumsum([0, *map(len, packed)])[:-1]
        self._rows = torch.cat(packed).to(device)
        self._choose(episodes, generator)

    def among(
        self, episodes: Sequence[np.ndarray], generator: torch.Generator
    ) -> "MultitaskSampler":
        """Return a sampler of other episodes that shares this one's rows."""
        other = copy.copy(self)
        other._choose(episodes, generator)
        return other

    @property
    def num_windows(self) -> int:
        """Return W, the number of different windows."""
        return len(self._starts_W)

    def sample(self, batch_size: int) -> tuple[Batch, torch.Tensor]:
        """Draw windows with replacement; return them and their tasks' indices [B]."""
        draws_B = torch.randint(
            self.num_windows,
            (batch_size,),
            generator=self.generator,
            device=self._starts_W.device,
        )
        return take(self._windows, self._starts_W[draws_B], _SIZES), self._tasks_W[draws_B]

    def _choose(self, episodes: Sequence[np.ndarray], generator: torch.Generator) -> None:
        self.generator = generator
        starts = [
            window_starts(store, self._horizon, chosen) + first
            for store, chosen, first in zip(self._stores, episodes, self._first_rows, strict=True)
        ]
        tasks = [
            np.full(len(own), find_task(store.task).index)
            for store, own in zip(self._stores, starts, strict=True)
        ]
        self._starts_W = torch.from_numpy(np.concatenate(starts)).to(self._device)
        self._tasks_W = torch.from_numpy(np.concatenate(tasks)).to(self._device)
        if not self.num_windows:
            raise ValueError(f"no episode has {self._horizon} steps")
        self._windows = windows(self._rows, self._horizon)


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
