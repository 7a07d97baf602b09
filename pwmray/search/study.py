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
from typing import Any, NamedTuple

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from pwmray.files import append_lines, see_afresh
from pwmray.room import with_room

JOURNAL_FILE = "study.journal"
FINGERPRINT = "fingerprint"  # attribute of a study's trial: which of ours it is
_STOPPED_AT = "stopped_at"  # and the epoch at which ASHA stopped it
_REDUCTION = 3  # ASHA lets the best third of those at a rung go on
_RANGE_KEYS = {"low", "high", "log"}
_RECORD = b'{"op_code":'  # how every line of a journal begins
# What Optuna raises where a journal is of JSON objects, but not of its own.
_UNREADABLE = (AssertionError, AttributeError, LookupError, TypeError, ValueError)


class Studies(NamedTuple):
    """The studies in a search's journal."""

    by_task: dict[str, optuna.Study]  # that the search's settings define, of tasks that have one
    others: dict[str, list[optuna.Study]]  # of each task, that other settings define


def read_space(space: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions of a search space that is plain data.

    A sequence has the choices; a mapping with low and high, and log where it is to be drawn on
    that scale, a range, of whole numbers where both ends are. Raises ValueError naming the key.
    """
    if not space:
        raise ValueError("the search space is empty")
    return {key: _distribution(key, values) for key, values in space.items()}


def open_study(
    folder: Path,
    task: str,
    settings: Mapping[str, Any],
    first_rung: int,
    disk_wait_seconds: float = 0.0,
) -> optuna.Study:
    """Open or create the study of a task in a search's folder, to go on with it.

    `settings` are all that defines it: another space or another scale is another study.
    `first_rung` is the epoch at which ASHA looks at a trial first. For one writer at a time, who
    waits `disk_wait_seconds` for room on a full disk. Raises ValueError for a journal that cannot
    be read, which is left as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    see_afresh(folder / JOURNAL_FILE)
    storage = _open_journal(folder / JOURNAL_FILE, disk_wait_seconds)
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


def load_studies(folder: Path, settings: Mapping[str, Mapping[str, Any]]) -> Studies:
    """Return the studies that there are to look at; writes nothing, and reads the journal once.

    `settings` are by task what defines its study. Raises ValueError for a journal that cannot be
    read.
    """
    found = Studies({}, {task: [] for task in settings})
    if not (folder / JOURNAL_FILE).exists():
        return found
    storage = _open_journal(folder / JOURNAL_FILE)
    names = {task: _study_name(task, defining) for task, defining in settings.items()}
    known = [known.study_name for known in storage.get_all_studies()]
    for task, own in names.items():
        for name in (name for name in known if name.rpartition("-")[0] == task):
            loaded = optuna.load_study(study_name=name, storage=storage)
            if name == own:
                found.by_task[task] = loaded
            else:
                found.others[task].append(loaded)
    return found


def unfinished(study: optuna.Study) -> list[optuna.Trial]:
    """Return the trials of which nothing was told: a search that was stopped left them."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [optuna.Trial(study, trial._trial_id) for trial in running]


def ask_again(
    study: optuna.Study, params: Mapping[str, Any], space: Mapping[str, BaseDistribution]
) -> optuna.Trial:
    """Return a new trial of the study with these settings."""
    study.enqueue_trial(dict(params))
    return study.ask(dict(space))


def report(trial: optuna.Trial, epoch: int, value: float) -> bool:
    """Tell how far a trial has come, its return; return whether ASHA stops it.

    That it does is kept at once: a search that is killed before the trial's end knows it.
    """
    with warnings.catch_warnings():
        # A trial that goes on from its checkpoint comes through some epochs again.
        warnings.filterwarnings("ignore", message=".*already reported.*")
        trial.report(value, epoch)
    is_stopped = trial.should_prune()
    if is_stopped:
        trial.set_user_attr(_STOPPED_AT, epoch)
    return is_stopped


def stopped_at(trial: optuna.Trial) -> int | None:
    """Return the epoch at which ASHA stopped a trial, None where it did not."""
    return trial.user_attrs.get(_STOPPED_AT)


def outcomes(study: optuna.Study) -> dict[str, FrozenTrial]:
    """Return by fingerprint what came of every trial of ours that has come to an end.

    Of one that was tried several times that is its return, or that it was stopped, or that it
    failed.
    """
    rank = {TrialState.FAIL: 0, TrialState.PRUNED: 1, TrialState.COMPLETE: 2}
    found: dict[str, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        name = trial.user_attrs.get(FINGERPRINT)
        if name is None or trial.state not in rank:
            continue
        if name not in found or rank[trial.state] >= rank[found[name].state]:
            found[name] = trial
    return found


def best_trials(study: optuna.Study, number: int) -> Sequence[FrozenTrial]:
    """Return the trials that came to their end with the highest returns, the best first."""
    done = [trial for trial in outcomes(study).values() if trial.state is TrialState.COMPLETE]
    return sorted(done, key=lambda trial: -(trial.value or 0.0))[:number]


def _study_name(task: str, settings: Mapping[str, Any]) -> str:
    defining = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return f"{task}-{defining[:8]}"


class _Journal(JournalFileBackend):
    """Optuna's journal for one writer, who holds the search's claim: without a lock.

    Optuna's own lock outlives a process that is killed by half a minute, and for ever where the
    folder is moved. Lines are written whole or not at all, once the disk has room; one that a kill
    cut off is dropped, for the next would be glued to it.
    """

    def __init__(self, path: Path, disk_wait_seconds: float):
        super().__init__(str(path))
        self._path, self._disk_wait_seconds = path, disk_wait_seconds

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append a line each; raise OSError where the disk came to no room."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with_room(
            lambda: append_lines(self._path, lines), self._path.parent, self._disk_wait_seconds
        )


def _open_journal(path: Path, disk_wait_seconds: float = 0.0) -> JournalStorage:
    """Open a journal, made where there is none; raise ValueError for a file that is none."""
    _quieten()
    try:
        if path.exists():
            _check_lines(path.read_bytes())
        return JournalStorage(_Journal(path, disk_wait_seconds))
    except _UNREADABLE as error:
        what = str(error) or repr(error)
        raise ValueError(
            f"{path} is not a readable journal of Optuna's: {what}; move it away to search anew"
        ) from error


def _quieten() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Which warns of lists, such as layers' widths, whenever it meets one.
    warnings.filterwarnings("ignore", message="Choices for a categorical distribution should be")


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


def _distribution(key: str, values: Any) -> BaseDistribution:
    try:
        if isinstance(values, Mapping):
            return _range(values)
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ValueError("valid: a list of choices, or a mapping with low, high and log")
        _quieten()
        # As the journal gives them back: in JSON there are no tuples.
        return CategoricalDistribution(json.loads(json.dumps(list(values))))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the search space of {key!r} is {values!r}: {error}") from error


def _range(values: Mapping[str, Any]) -> BaseDistribution:
    if not {"low", "high"} <= set(values) <= _RANGE_KEYS:
        raise ValueError("a range has low and high, and may have log")
    low, high, log = values["low"], values["high"], values.get("log", False)
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)
