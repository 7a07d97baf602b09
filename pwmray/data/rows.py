"""Where sampled rows come from: packed in memory, the host's or a GPU's, or mapped from files.

A packed row is [reward | action | obs]. The action is padded with zeros to MT30's size, but the
observation only to the widest of the stores, because memory bandwidth limits a batch's time. Rows
that are read from files are padded to MT30's sizes. Rows are numbered through all the stores.

Shapes: H horizon, B windows, R rows, K = 1 + A + O columns of a row.
"""

import logging
import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from pwmray.data.angles import wrap_observations
from pwmray.data.store import Store, chunks
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM, find_task

FIRST_OBS = 1 + MAX_ACTION_DIM  # the first column of the observation
Place = Literal["memory", "map"]

# The host packs rows up to this size. Larger data is sampled from the files: opening them costs
# neither time nor memory, and all processes of a machine share their pages.
HOST_BYTES = 128 * 2**20
_DEVICE_SHARE = 0.5  # of a GPU's free memory that rows may take; the rest is for training

_log = logging.getLogger(__name__)


class PackedRows:
    """Rows in the memory of a device; `gather` never waits for the device."""

    def __init__(
        self, stores: Sequence[Store], horizon: int, device: torch.device, wrap_angles: bool
    ):
        shape = packed_shape(stores)
        if device.type == "cpu":
            # numpy asks for huge pages, torch does not; they make a batch a sixth faster.
            packed_RK = torch.from_numpy(np.zeros(shape, np.float32))
        else:
            packed_RK = torch.zeros(shape, device=device)
        first = 0
        for store in stores:
            for part in chunks(store.num_rows):
                rows = _pack(store, part, shape[1], wrap_angles)
                packed_RK[first : first + len(rows)] = torch.from_numpy(rows)
                first += len(rows)
        self._num_columns = shape[1]
        self._windows = _view_windows(packed_RK, horizon)

    def gather(self, starts_B: torch.Tensor) -> torch.Tensor:
        """Return the windows that begin at these rows, [B, H + 1, K]."""
        return self._windows.index_select(0, starts_B).view(len(starts_B), -1, self._num_columns)


class MappedRows:
    """Rows in their files; `gather` reads a batch and moves it to the device.

    It waits for a GPU, which draws the windows.
    """

    def __init__(
        self, stores: Sequence[Store], horizon: int, device: torch.device, wrap_angles: bool
    ):
        self._stores, self._device, self._wrap_angles = stores, device, wrap_angles
        self._shape = (horizon + 1, FIRST_OBS + MAX_OBS_DIM)
        self._rows_before = torch.tensor([0, *(store.num_rows for store in stores)]).cumsum(0)
        self._columns = [_map_columns(store, horizon) for store in stores]

    def gather(self, starts_B: torch.Tensor) -> torch.Tensor:
        """Return the windows that begin at these rows, [B, H + 1, K]."""
        starts_B = starts_B.cpu()
        pinned = self._device.type == "cuda"
        found_BHK = torch.zeros(len(starts_B), *self._shape, pin_memory=pinned)
        if len(self._stores) == 1:
            self._read(0, starts_B, found_BHK)
            return found_BHK.to(self._device, non_blocking=True)
        owner_B = torch.searchsorted(self._rows_before, starts_B, right=True) - 1
        for owner in owner_B.unique().tolist():
            own = (owner_B == owner).nonzero().squeeze(1)
            part = found_BHK.new_zeros(len(own), *self._shape)
            self._read(owner, starts_B[own] - self._rows_before[owner], part)
            found_BHK[own] = part
        return found_BHK.to(self._device, non_blocking=True)

    def _read(self, index: int, starts_B: torch.Tensor, found_BHK: torch.Tensor) -> None:
        """Fill in the windows that begin at these rows of one store."""
        store = self._stores[index]
        for first, windows in self._columns[index].items():
            rows = windows.index_select(0, starts_B).view(*found_BHK.shape[:2], -1)
            found_BHK[..., first : first + rows.shape[-1]] = rows
        if self._wrap_angles:
            obs = found_BHK[..., FIRST_OBS:]
            obs[:] = torch.from_numpy(wrap_observations(obs.numpy(), find_task(store.task)))


def place_rows(
    stores: Sequence[Store],
    horizon: int,
    device: torch.device | str,
    wrap_angles: bool,
    place: Place | None = None,
) -> PackedRows | MappedRows:
    """Return the rows in the memory of `device` or mapped: as `place` says, by default by size.

    By size, the log says where they are, with a warning if they do not fit into a GPU.
    """
    device = torch.device(device)
    rows = PackedRows if (place or _choose_place(stores, device)) == "memory" else MappedRows
    return rows(stores, horizon, device, wrap_angles)


def packed_shape(stores: Sequence[Store]) -> tuple[int, int]:
    """Return R and K of the packed rows."""
    widest = max(store.obs.shape[1] for store in stores)
    return sum(store.num_rows for store in stores), FIRST_OBS + widest


def _choose_place(stores: Sequence[Store], device: torch.device) -> Place:
    num_rows, num_columns = packed_shape(stores)
    num_bytes = 4 * num_rows * num_columns
    room = HOST_BYTES
    if device.type == "cuda":
        room = _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
    place = "memory" if num_bytes <= room else "map"
    _log.info("rows=%s mib=%d device=%s", place, num_bytes / 2**20, device)
    if place == "map" and device.type == "cuda":
        _log.warning(
            "rows=map: %d MiB of rows do not fit into %d MiB, half of what is free on %s; every "
            "batch is read from the files and waits for the device",
            num_bytes / 2**20,
            room / 2**20,
            device,
        )
    return place


def _pack(store: Store, part: slice, num_columns: int, wrap_angles: bool) -> np.ndarray:
    obs, action = store.obs[part], store.action[part]
    if wrap_angles:
        obs = wrap_observations(obs, find_task(store.task))
    packed = np.zeros((len(obs), num_columns), np.float32)
    packed[:, 0] = store.reward[part]
    packed[:, 1 : 1 + action.shape[1]] = action
    packed[:, FIRST_OBS : FIRST_OBS + obs.shape[1]] = obs
    return packed


def _map_columns(store: Store, horizon: int) -> dict[int, torch.Tensor]:
    """Return the windows of reward, action and obs by their first column in a packed row."""
    columns = {0: store.reward, 1: store.action, FIRST_OBS: store.obs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that they are read-only; nobody writes
        return {
            first: _view_windows(torch.from_numpy(rows).view(store.num_rows, -1), horizon)
            for first, rows in columns.items()
        }


def _view_windows(rows: torch.Tensor, horizon: int) -> torch.Tensor:
    """View rows [R, n] as overlapping windows, one a row: a batch is then B long copies."""
    num_rows, width = rows.shape
    return rows.as_strided((num_rows - horizon, (horizon + 1) * width), (width, 1))
