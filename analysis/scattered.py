"""Tell a search's trials, drawn from a space, from the cells of a grid."""

import math
from collections.abc import Sequence
from dataclasses import replace

from analysis.load import Sweep, Trial
from analysis.merge import SWEEP
from pwmray.pairing import ARM_FACTORS

_TIMES = 4  # combinations of levels per trial, above which trials are no grid


def is_scattered(sweep: Sweep) -> bool:
    """Tell whether a sweep's trials, or those of one merged into it, are draws from a space.

    Draws have one seed and fill a small part of the grid that their levels would span. Trials of a
    grid that have not run yet count as filled, since they are planned.
    """
    parts: dict[str, list[Trial]] = {}
    for trial in sweep.trials:
        parts.setdefault(trial.factors.get(SWEEP, ""), []).append(trial)
    planned = {name: len(trials) for name, trials in parts.items()}
    if len(parts) == 1:
        planned = dict.fromkeys(parts, sweep.num_planned)
    return any(_are_draws(sweep, trials, planned[name]) for name, trials in parts.items())


def list_settings(sweep: Sweep) -> list[str]:
    """Return the factors that such a sweep's trials differ in, the task and the sweep apart."""
    names = [name for name in sweep.varies if name not in ("task", "seed", SWEEP)]
    return [name for name in names if len(_find_levels(sweep.trials, name)) > 1]


def leave_out_settings(sweep: Sweep) -> Sweep:
    """Return the sweep as if its trials differed in task, variant and epochs alone."""
    kept = (*ARM_FACTORS, SWEEP)
    trials = tuple(
        replace(t, factors={n: level for n, level in t.factors.items() if n in kept})
        for t in sweep.trials
    )
    return sweep._replace(trials=trials)


def _are_draws(sweep: Sweep, trials: Sequence[Trial], num_planned: int) -> bool:
    names = [name for name in sweep.varies if name not in ("seed", SWEEP)]
    counts = [len(_find_levels(trials, name)) for name in names]
    num_settings = sum(
        count > 1 for name, count in zip(names, counts, strict=True) if name != "task"
    )
    has_one_seed = len({trial.seed for trial in trials}) == 1
    is_ours = not any(trial.record.get("origin") for trial in trials)  # what was imported has gaps
    is_sparse = math.prod(max(count, 1) for count in counts) > _TIMES * num_planned
    return num_settings > 1 and has_one_seed and is_ours and is_sparse


def _find_levels(trials: Sequence[Trial], name: str) -> set:
    return {trial.factors[name] for trial in trials} - {None}
