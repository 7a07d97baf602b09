"""Read learning curves as arrays, with the losses that tell a sick run from a healthy one."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from analysis.load import Sweep, encode, find_starts, to_array
from pwmray.results import CURVE, read_table

POSITIVE = ("world_model_loss", "critic_loss")  # losses that are never negative
LOSSES = (*POSITIVE, "actor_loss")
WANTED = ("trial", "epoch", "return_mean", *LOSSES)  # of 18: tables may have gigabytes


class LearningCurve(NamedTuple):
    """One trial's curve, in order of epoch; NaN where nothing was recorded."""

    epochs: np.ndarray
    returns: np.ndarray  # mean of the evaluation episodes during training
    losses: tuple[np.ndarray, ...]  # one of LOSSES each

    @property
    def points(self) -> list[tuple[int, float]]:
        """Return the epochs that have a return, each with it."""
        known = np.isfinite(self.returns)
        return list(zip(self.epochs[known].tolist(), self.returns[known].tolist(), strict=True))


Curves = dict[str, LearningCurve]  # by trial


def load_curves(sweep: Sweep) -> Curves:
    """Return the curves of a sweep's trials, of all sweeps merged into it; empty without a file.

    Raises ValueError naming a file that is broken or lacks a column.
    """
    curves = {}
    for folder in (sweep.folder, *sweep.other_folders):
        curves |= _read_curves(folder / "curves.arrow")
    return curves


def _read_curves(path: Path) -> Curves:
    if not path.is_file():
        return {}
    table = read_table(path, CURVE, WANTED)
    if not len(table):
        return {}
    trials, names = encode(table["trial"])
    columns = [to_array(table[name]) for name in WANTED[1:]]
    del table  # the trials' names are a third of what was read
    if not _is_in_order(trials, columns[0]):
        order = np.lexsort((columns[0], trials))
        trials, columns = trials[order], [column[order] for column in columns]
    starts = find_starts(trials)
    ends = [*starts[1:].tolist(), len(trials)]
    curves = {}
    for start, end in zip(starts.tolist(), ends, strict=True):
        epochs, returns, *losses = (column[start:end] for column in columns)
        curves[names[trials[start]]] = LearningCurve(epochs, returns, tuple(losses))
    return curves


def _is_in_order(trials: np.ndarray, epochs: np.ndarray) -> bool:
    """Tell whether rows stand trial after trial and by epoch, as they are written."""
    is_next = trials[1:] > trials[:-1]
    is_same = (trials[1:] == trials[:-1]) & (epochs[1:] >= epochs[:-1])
    return bool((is_next | is_same).all())
