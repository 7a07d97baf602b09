"""Read learning curves as arrays, with the losses that tell a sick run from a healthy one."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from analysis.load import Sweep
from pwmray.results import CURVE, read_table

POSITIVE = ("world_model_loss", "critic_loss")  # losses that cannot fall below 0
LOSSES = (*POSITIVE, "actor_loss")


class LearningCurve(NamedTuple):
    """One trial's curve, in order of epoch; NaN where nothing was recorded."""

    epochs: np.ndarray
    returns: np.ndarray  # mean of the evaluation episodes during training
    losses: np.ndarray  # [rows, LOSSES]


def load_curves(sweep: Sweep) -> dict[str, LearningCurve]:
    """Return every trial's curve; empty where there is no file.

    Raises ValueError naming a file that is broken or lacks a column.
    """
    curves = {}
    for folder in (sweep.folder, *sweep.other_folders):
        curves |= _read(folder / "curves.arrow")
    return curves


def _read(path: Path) -> dict[str, LearningCurve]:
    if not path.is_file():
        return {}
    table = read_table(path, CURVE)
    wanted = ("epoch", "return_mean", *LOSSES)
    missing = [name for name in ("trial", *wanted) if name not in table.column_names]
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}")
    if not len(table):
        return {}
    coded = table["trial"].combine_chunks().dictionary_encode()
    trials = coded.indices.to_numpy(zero_copy_only=False)
    values = np.column_stack([table[name].to_numpy().astype(float, copy=False) for name in wanted])
    if not _is_in_order(trials, values[:, 0]):
        order = np.lexsort((values[:, 0], trials))
        trials, values = trials[order], values[order]
    starts = np.flatnonzero(np.diff(trials, prepend=-1))
    parts = np.split(values, starts[1:])
    names = coded.dictionary.to_pylist()
    return {
        names[trials[start]]: LearningCurve(part[:, 0], part[:, 1], part[:, 2:])
        for start, part in zip(starts, parts, strict=True)
    }


def _is_in_order(trials: np.ndarray, epochs: np.ndarray) -> bool:
    """Tell whether rows stand trial after trial and by epoch, as they are written."""
    steps = np.diff(trials)
    return bool(((steps > 0) | ((steps == 0) & (np.diff(epochs) >= 0))).all())
