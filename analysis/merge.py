"""Merge several sweeps into one with a factor `sweep`, or keep some tasks of a sweep."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

from analysis.load import Sweep, Trial, find_level, list_factors_of_arms
from pwmray.wording import unknown

SWEEP = "sweep"  # the factor that tells the trials of several sweeps apart


def merge_sweeps(sweeps: Sequence[Sweep]) -> Sweep:
    """Return one sweep that varies whatever any of them varies, and `sweep`.

    A trial of a sweep that holds what another varies gets the level held, or None if the factor
    does not apply to it. Raises ValueError for two sweeps of one name.
    """
    if len(sweeps) == 1:
        return sweeps[0]
    names = [sweep.name for sweep in sweeps]
    _check_told_apart(sweeps)
    varies = tuple(dict.fromkeys(name for sweep in sweeps for name in sweep.varies))
    factors = list_factors_of_arms(varies)
    return Sweep(
        folder=sweeps[0].folder,
        name=" + ".join(names),
        scale=" and ".join(dict.fromkeys(sweep.scale for sweep in sweeps)),
        compare=sweeps[0].compare,
        varies=(*varies, SWEEP),
        axes=_unite_axes(sweeps),
        trials=tuple(_place(trial, s.name, factors) for s in sweeps for trial in s.trials),
        num_planned=sum(sweep.num_planned for sweep in sweeps),
        other_folders=tuple(sweep.folder for sweep in sweeps[1:]),
        num_unlisted=sum(sweep.num_unlisted for sweep in sweeps),
    )


def _check_told_apart(sweeps: Sequence[Sweep]) -> None:
    """Raise ValueError for a sweep given twice, and for two that have one name."""
    folders = [(sweep.name, sweep.folder) for sweep in sweeps]
    for (name, folder), (other, its) in itertools.combinations(folders, 2):
        if name == other and folder.resolve() == its.resolve():
            raise ValueError(f"sweep {name!r} is given twice")
        if name == other:
            raise ValueError(
                f"{folder} and {its} are both of sweep {name!r}, and sweeps are told apart by "
                "their names; give one of them another in its sweep.json"
            )


def _unite_axes(sweeps: Sequence[Sweep]) -> dict[str, tuple[str, ...]]:
    """Return the keys that each axis sets in any of the sweeps."""
    keys: dict[str, dict[str, None]] = {SWEEP: {SWEEP: None}}
    for sweep in sweeps:
        for axis, some in sweep.axes.items():
            keys.setdefault(axis, {}).update(dict.fromkeys(some))
    return {axis: tuple(some) for axis, some in keys.items()}


def keep_tasks(sweep: Sweep, tasks: Sequence[str]) -> Sweep:
    """Return the sweep with only the trials of `tasks`; trials without a row are not counted.

    Raises ValueError for a task that the sweep does not have.
    """
    there = list(dict.fromkeys(trial.factors["task"] for trial in sweep.trials))
    for task in tasks:
        if task not in there:
            raise ValueError(unknown(f"task of sweep {sweep.name}", task, there))
    kept = tuple(trial for trial in sweep.trials if trial.factors["task"] in tasks)
    num_hidden = len(set(there) - set(tasks))
    return sweep._replace(
        trials=kept, num_planned=len(kept), num_unlisted=0, num_hidden_tasks=num_hidden
    )


def _place(trial: Trial, sweep: str, factors: Sequence[str]) -> Trial:
    levels = {name: find_level(trial, name) for name in factors}
    return replace(trial, factors=levels | {SWEEP: sweep})
