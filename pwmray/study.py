"""The study of a search: which settings were tried, what came of them, which to try next.

Optuna keeps it in a journal in the search's folder: proposals by TPE over all settings jointly,
early stopping by asynchronous successive halving (ASHA, Li et al., arXiv 1810.05934). Both read
the journal alone, so that a search that was stopped goes on as if it never had been.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, TrialState

JOURNAL_FILE = "study.journal"
FINGERPRINT = "fingerprint"  # attribute of a study's trial: which of ours it is
_REDUCTION = 3  # ASHA lets the best third of those at a rung go on
_RANGE_KEYS = {"low", "high", "log"}


def read_space(space: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions of a search space that is plain data.

    A sequence has the choices; a mapping with low and high, and log where it is to be drawn on
    that scale, a range, of whole numbers where both ends are. Raises ValueError naming the key.
    """
    if not space:
        raise ValueError("the search space is empty")
    return {key: _distribution(key, values) for key, values in space.items()}


def open_study(
    folder: Path, task: str, settings: Mapping[str, Any], first_rung: int
) -> optuna.Study:
    """Open or create the study of a task in a search's folder.

    `settings` are all that defines it: another space or another scale is another study.
    `first_rung` is the epoch at which ASHA looks at a trial first.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    defining = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL_FILE)))
    study = optuna.create_study(
        storage=storage,
        study_name=f"{task}-{defining[:8]}",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.SuccessiveHalvingPruner(first_rung, _REDUCTION),
    )
    # The draws of a run that goes on must not repeat those of the first.
    study.sampler = optuna.samplers.TPESampler(
        multivariate=True, constant_liar=True, seed=len(study.get_trials(deepcopy=False))
    )
    return study


def unfinished(study: optuna.Study) -> list[optuna.Trial]:
    """Return the trials of which nothing was told: a search that was stopped left them."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [optuna.Trial(study, trial._trial_id) for trial in running]


def report(trial: optuna.Trial, epoch: int, value: float) -> bool:
    """Tell how far a trial has come, its return; return whether ASHA stops it."""
    with warnings.catch_warnings():
        # A trial that goes on from its checkpoint comes through some epochs again.
        warnings.filterwarnings("ignore", message=".*already reported.*")
        trial.report(value, epoch)
    return trial.should_prune()


def same_before(study: optuna.Study, fingerprint: str) -> FrozenTrial | None:
    """Return the finished trial of the study with that fingerprint, if there is one."""
    trials = study.get_trials(deepcopy=False)
    finished = (trial for trial in trials if trial.state.is_finished())
    return next((t for t in finished if t.user_attrs.get(FINGERPRINT) == fingerprint), None)


def best_trials(study: optuna.Study, number: int) -> Sequence[FrozenTrial]:
    """Return the trials that came to their end with the highest returns, the best first."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(done, key=lambda trial: -(trial.value or 0.0))[:number]


def _distribution(key: str, values: Any) -> BaseDistribution:
    try:
        if isinstance(values, Mapping):
            return _range(values)
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ValueError("valid: a list of choices, or a mapping with low, high and log")
        return CategoricalDistribution(list(values))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the search space of {key!r} is {values!r}: {error}") from error


def _range(values: Mapping[str, Any]) -> BaseDistribution:
    if not {"low", "high"} <= set(values) <= _RANGE_KEYS:
        raise ValueError("a range has low and high, and may have log")
    low, high, log = values["low"], values["high"], values.get("log", False)
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)
