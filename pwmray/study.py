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
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from pwmray.files import drop_cut_line

JOURNAL_FILE = "study.journal"
FINGERPRINT = "fingerprint"  # attribute of a study's trial: which of ours it is
_REDUCTION = 3  # ASHA lets the best third of those at a rung go on
_RANGE_KEYS = {"low", "high", "log"}
_RECORD = b'{"op_code":'  # how every line of a journal begins
# What Optuna raises where a journal is of JSON objects, but not of its own.
_UNREADABLE = (AssertionError, AttributeError, LookupError, TypeError, ValueError)


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
    """Open or create the study of a task in a search's folder, to go on with it.

    `settings` are all that defines it: another space or another scale is another study.
    `first_rung` is the epoch at which ASHA looks at a trial first. A last line that a kill cut off
    is dropped, for the next would be glued to it. Raises ValueError for a journal that cannot be
    read, which is left as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    storage = _open_journal(folder / JOURNAL_FILE)
    _drop_cut_line(folder / JOURNAL_FILE)
    study = optuna.create_study(
        storage=storage,
        study_name=_study_name(task, settings),
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.SuccessiveHalvingPruner(first_rung, _REDUCTION),
    )
    # The draws of a run that goes on must not repeat those of the first.
    study.sampler = optuna.samplers.TPESampler(
        multivariate=True, constant_liar=True, seed=len(study.get_trials(deepcopy=False))
    )
    return study


def load_study(folder: Path, task: str, settings: Mapping[str, Any]) -> optuna.Study | None:
    """Return the study of a task to look at, None where there is none; writes nothing.

    Raises ValueError for a journal that cannot be read.
    """
    if not (folder / JOURNAL_FILE).exists():
        return None
    storage = _open_journal(folder / JOURNAL_FILE)
    name = _study_name(task, settings)
    if name not in [known.study_name for known in storage.get_all_studies()]:
        return None
    return optuna.load_study(study_name=name, storage=storage)


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


def _study_name(task: str, settings: Mapping[str, Any]) -> str:
    defining = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return f"{task}-{defining[:8]}"


def _open_journal(path: Path) -> JournalStorage:
    """Open a journal, made where there is none; raise ValueError for a file that is none."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if path.exists():
            _check_lines(path.read_bytes())
        return JournalStorage(JournalFileBackend(str(path)))
    except _UNREADABLE as error:
        what = str(error) or repr(error)
        raise ValueError(
            f"{path} is no journal of Optuna's that can be read: {what}; move it "
            "away to search anew"
        ) from error


def _check_lines(content: bytes) -> None:
    """Check that each line is a JSON object; the last may be cut, or just being written."""
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not _RECORD.startswith(line[: len(_RECORD)]):
            raise ValueError(f"line {number} is {line!r:.60}")
        try:
            if number < len(lines):
                json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON ({error})") from error


def _drop_cut_line(path: Path) -> None:
    """Cut what a kill left behind a journal's last whole line, once nobody is writing it."""
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        drop_cut_line(path)
    finally:
        lock.release()


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
