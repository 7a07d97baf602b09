"""How well world models predict rewards, as `pwmray predict` measured it."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from analysis.arms import Arm
from analysis.load import Sweep, Trial
from pwmray.results import read_predictions

# Of errors 1, 2, ... steps ahead; None where rewards are alike, or the error is no number.
Shares = tuple[float | None, ...]
_LEAST_SD = 1e-6  # far from a goal, smooth rewards are as good as 0: a share of that says nothing


class Predictions(NamedTuple):
    """Errors of one arm's world models, as shares of the real rewards' sd."""

    arm: Arm
    models: tuple[Shares, ...]  # of each world model once: trials may share a frozen one
    num_trials: int  # whose model was measured since they were evaluated
    num_windows: int  # that all of the task's models predict
    num_agents: int  # that acted in them


def measure_predictions(sweep: Sweep, arms: Sequence[Arm]) -> list[Predictions]:
    """Return the errors of every arm with a measured world model.

    Of several sweeps there are none: each was measured on episodes of its own agents. Raises
    ValueError naming a file that is broken.
    """
    rows = {} if sweep.other_folders else _read(sweep)
    found = [_measure(arm, rows) for arm in arms]
    return [predictions for predictions in found if predictions is not None]


def _read(sweep: Sweep) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each trial, by step."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(read_predictions(sweep.folder).to_pylist(), key=lambda row: row["step"]):
        rows.setdefault(row["trial"], []).append(row)
    return rows


def _measure(arm: Arm, rows: dict[str, list[dict[str, Any]]]) -> Predictions | None:
    known = [rows[t.record["trial"]] for t in arm.counted if _is_known(t, rows)]
    if not known:
        return None
    models = {of_trial[0]["world_model"]: tuple(_divide(of_trial)) for of_trial in known}
    first = known[0][0]
    counts = len(known), first["windows"], first["agents"]
    return Predictions(arm, tuple(models.values()), *counts)


def _is_known(trial: Trial, rows: dict[str, list[dict[str, Any]]]) -> bool:
    """Tell whether a trial's model was measured, and not before the trial was run anew."""
    measured, ended = rows.get(trial.record["trial"]), trial.record["ended_at"]
    return bool(measured) and (ended is None or measured[0]["measured_at"] >= ended)


def _divide(rows: Sequence[dict[str, Any]]) -> Iterable[float | None]:
    for row in rows:
        is_known = row["reward_sd"] > _LEAST_SD and math.isfinite(row["error"])
        yield row["error"] / row["reward_sd"] if is_known else None
