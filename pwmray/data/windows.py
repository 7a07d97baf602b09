"""The windows within some episodes, and drawing from them. Shapes: B draws, E chosen episodes."""

from collections.abc import Sequence

import numpy as np
import torch

from pwmray.data.store import Store


class EpisodeWindows:
    """All windows of H + 1 rows that lie within one of the chosen episodes of some stores.

    They are counted by episode, not listed: 23,000 episodes have 11 million. Rows are numbered
    through all the stores. `episodes` has each store's chosen episodes; one that is listed twice
    counts twice. Raises ValueError naming the horizon and a store whose chosen episodes are all too
    short for it.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        episodes: Sequence[np.ndarray],
        horizon: int,
        device: torch.device | str,
    ):
        rows_before = np.cumsum([0, *(store.num_rows for store in stores)])
        chosen = list(zip(stores, episodes, rows_before[:-1], strict=True))
        counts_E = np.concatenate([_count(store, own, horizon) for store, own, _ in chosen])
        starts_E = np.concatenate([store.episode_starts[own] + row for store, own, row in chosen])
        ends_E = np.cumsum(counts_E)
        self.num_windows = int(ends_E[-1])
        self._num_each = int(counts_E[0]) if (counts_E == counts_E[0]).all() else 0
        self._ends_E = torch.from_numpy(ends_E).to(device)
        # What to add to a window's number to get its first row.
        self._shifts_E = torch.from_numpy(starts_E - (ends_E - counts_E)).to(device)

    def draw(self, num_draws: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw windows uniformly with replacement; return their first rows and episodes, each [B].

        An episode is a position among the chosen ones. This does not wait for the device.
        """
        return self.locate(
            torch.randint(
                self.num_windows, (num_draws,), generator=generator, device=self._ends_E.device
            )
        )

    def locate(self, numbers_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return first rows and episodes, each [B], of windows by number in [0, num_windows)."""
        if self._num_each:  # all episodes are of one length, as MT30's: three times as fast
            episodes_B = numbers_B.div(self._num_each, rounding_mode="floor")
        else:
            episodes_B = torch.searchsorted(self._ends_E, numbers_B, right=True)
        return numbers_B + self._shifts_E.index_select(0, episodes_B), episodes_B


def _count(store: Store, episodes: np.ndarray, horizon: int) -> np.ndarray:
    """Return how many windows each episode has; raise ValueError if none has any."""
    lengths = store.episode_lengths[episodes]
    longest = int(lengths.max(initial=1)) - 1
    if not 1 <= horizon <= longest:
        raise ValueError(
            f"horizon must be in [1, {longest}], the steps of the longest of the {len(lengths)} "
            f"chosen episodes of {store.path}, got {horizon}"
        )
    return np.maximum(lengths - horizon, 0)
