"""The study of a search: which settings were tried, what came of them, which to try next.

Optuna keeps it in a journal in the search's folder. TPE proposes all settings jointly, and
asynchronous successive halving (ASHA, Li et al., arXiv 1810.05934) stops the worse trials early.
Both read nothing but the journal, so a search that was stopped goes on as if it never had been.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from pwmray.files import append_lines, see_afresh
from pwmray.room import with_room
from pwmray.search.space import Space, quieten_optuna

JOURNAL_FILE = "study.journal"
FINGERPRINT = "fingerprint"  # attribute of a study's trial: the fingerprint of ours
STOPPED_AT = "stopped_at"  # another one: the epoch at which ASHA stopped it
_REDUCTION = 3  # ASHA lets the best third of the trials at a rung go on
_RECORD = b'{"op_code":'  # how every line of a journal begins
# What Optuna raises for a journal of JSON objects that are not its own.
_UNREADABLE = (AssertionError, AttributeError, LookupError, TypeError, ValueError)


class Studies(NamedTuple):
    """The studies in a search's journal."""

    by_task: dict[str, optuna.Study]  # those of the search's settings; a task may have none yet
    others: dict[str, list[optuna.Study]]  # those of other settings of the search, by task


def open_study(
    folder: Path,
    task: str,
    settings: Mapping[str, Any],
    first_rung: int,
    disk_wait_seconds: float = 0.0,
    tell: Callable[[], None] = lambda: None,
) -> optuna.Study:
    """Open or create the study of a task in a search's folder, to go on with it.

    `settings` is all that defines it: another space or another scale is another study.
    `first_rung` is the epoch at which ASHA first compares a trial. There may be one writer at a
    time; it waits up to `disk_wait_seconds` for room on a full disk, which it may `tell`, as
    `with_room`. Raises ValueError for a journal that cannot be read, which is left as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    see_afresh(folder / JOURNAL_FILE)
    storage = _open_journal(folder / JOURNAL_FILE, disk_wait_seconds, tell)
    study = optuna.create_study(
        storage=storage,
        study_name=_study_name(task, settings),
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.SuccessiveHalvingPruner(first_rung, _REDUCTION),
    )
    # The draws of a later run must not repeat those of the first.
    study.sampler = optuna.samplers.TPESampler(
        multivariate=True, constant_liar=True, seed=len(study.get_trials(deepcopy=False))
    )
    return study


def load_studies(folder: Path, settings: Mapping[str, Mapping[str, Any]]) -> Studies:
    """Return the studies that there are, to look at; writes nothing, and reads the journal once.

    `settings` has what defines the study of each task. Raises ValueError for a journal that cannot
    be read.
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
    """Return the trials without an outcome: those that run, or that a stopped search left."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [optuna.Trial(study, trial._trial_id) for trial in running]


def ask_again(study: optuna.Study, params: Mapping[str, Any], space: Space) -> optuna.Trial:
    """Return a new trial of the study with these settings."""
    study.enqueue_trial(dict(params))
    return study.ask(dict(space))


def report(trial: optuna.Trial, epoch: int, value: float) -> bool:
    """Report a trial's return at an epoch; return whether ASHA stops it.

    The decision is kept at once, so that it survives a search that is killed before the trial ends.
    """
    with warnings.catch_warnings():
        # A trial that resumes from its checkpoint reports some epochs again.
        warnings.filterwarnings("ignore", message=".*already reported.*")
        trial.report(value, epoch)
    is_stopped = trial.should_prune()
    if is_stopped:
        trial.set_user_attr(STOPPED_AT, epoch)
    return is_stopped


def outcomes(study: optuna.Study) -> dict[str, FrozenTrial]:
    """Return the outcome of every trial that has ended, by fingerprint.

    A trial that was tried several times has the best of its outcomes: that it came to its return,
    else that it was stopped early, else that it failed.
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
    """Return the completed trials with the highest returns, the best first."""
    done = [trial for trial in outcomes(study).values() if trial.state is TrialState.COMPLETE]
    return sorted(done, key=lambda trial: -(trial.value or 0.0))[:number]


def _study_name(task: str, settings: Mapping[str, Any]) -> str:
    defining = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return f"{task}-{defining[:8]}"


class _Journal(JournalFileBackend):
    """Optuna's journal without a lock: its one writer holds the search's claim.

    Optuna's own lock stays half a minute after its process is killed, and for ever if the folder is
    moved. Lines are written whole or not at all, once the disk has room. A line that a kill cut off
    is dropped, or the next one would be glued to it.
    """

    def __init__(self, path: Path, disk_wait_seconds: float, tell: Callable[[], None]):
        super().__init__(str(path))
        self._path, self._disk_wait_seconds, self._tell = path, disk_wait_seconds, tell

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append a line for each log; raise OSError where the disk got no room in time."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        asked = (self._path.parent, self._disk_wait_seconds, self._tell)
        with_room(lambda: append_lines(self._path, lines), *asked)


def _open_journal(
    path: Path, disk_wait_seconds: float = 0.0, tell: Callable[[], None] = lambda: None
) -> JournalStorage:
    """Open a journal, or create it; raise ValueError for a file that is no journal."""
    quieten_optuna()
    try:
        if path.exists():
            _check_lines(path.read_bytes())
        return JournalStorage(_Journal(path, disk_wait_seconds, tell))
    except _UNREADABLE as error:
        what = str(error) or repr(error)
        raise ValueError(
            f"{path} is not a readable journal of Optuna's: {what}; move it away to search anew"
        ) from error


def _check_lines(content: bytes) -> None:
    """Raise ValueError unless each line is a JSON object; the last may be cut or half written."""
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not _RECORD.startswith(line[: len(_RECORD)]):
            raise ValueError(f"line {number} is {line!r:.60}")
        try:
            if number < len(lines):
                json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON ({error})") from error
