"""The tables of a search: the same as a sweep's, of the trials that its studies have proposed."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna

from pwmray import tables
from pwmray.config import TrialConfig
from pwmray.levels import Words, names_of
from pwmray.search.plan import SearchPlan
from pwmray.search.study import FINGERPRINT


def write_tables(plan: SearchPlan, studies: Mapping[str, optuna.Study], command: str) -> None:
    """Write a sweep's tables into the search's folder, of all trials of its studies so far."""
    for task, tried in studies.items():
        open_tables(plan, asked(plan, task, tried).values(), command)
    if studies:
        tables.Tables(plan.folder).write()


def open_tables(plan: SearchPlan, configs: Iterable[TrialConfig], command: str) -> Path:
    """Create the search's folder, or add these trials to it, like a sweep's; return it."""
    configs = list(configs)
    sweep = plan.search.as_sweep(plan.scale)
    names = names_of(configs, sweep.axes)
    rows = [_Named(config, name) for config, name in zip(configs, names, strict=True)]
    return tables.open_sweep(_Tried(sweep, plan.scale, plan.results, rows, words={}), command)


def asked(plan: SearchPlan, task: str, tried: optuna.Study) -> dict[str, TrialConfig]:
    """Return the trials that a study has proposed, by fingerprint, in the order of proposal."""
    found = {}
    for trial in tried.get_trials(deepcopy=False):
        if FINGERPRINT in trial.user_attrs:
            config = plan.config(task, trial.params)
            found[config.fingerprint] = config
    return found


class _Named(NamedTuple):
    """A trial and its readable name."""

    config: TrialConfig
    name: str


class _Tried(NamedTuple):
    """What the tables need to know of a sweep's plan."""

    sweep: Any
    scale: str
    results: Path
    trials: list[_Named]
    words: Words
    unreadable: Sequence[str] = ()  # the study tells of its trials
