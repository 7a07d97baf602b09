"""What a sweep would run: which trials are new or done, what they wait for, what the rest costs."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pwmray import learner_code, prices, registry, tables
from pwmray.build import count_parameters
from pwmray.config import TrialConfig
from pwmray.contract import check_promises
from pwmray.data.sources import current_fingerprint, missing_data
from pwmray.levels import Words, levels_of, names_of
from pwmray.pretraining import prices as pretraining_prices
from pwmray.pretraining.prerequisites import Prerequisite
from pwmray.pretraining.pretrained import check_pretrained, is_of_other_data
from pwmray.prices import Price
from pwmray.registry import BEST_FILE, CHECKPOINT_FILE, CURVE_FILE, Status
from pwmray.registry.sweep_folders import TRIALS
from pwmray.results import read_table
from pwmray.room import check_room, check_writable
from pwmray.wording import number_of, one_line

_FROZEN_BYTES = 4  # a parameter: float32
_TRAINED_BYTES = 3 * 4  # a parameter, with Adam's two moments
_NUM_CHECKPOINTS = 2  # the last and the best
_CURVE_ROW_BYTES = 200

# Of a trial in a plan: it waits for a world model, is new, resumes from its checkpoint, begins
# again at epoch 0 since its data changed, runs in another process, failed or is done.
State = Literal["waits", "new", "resumes", "again", "running", "failed", "done"]


@dataclass(frozen=True)
class PlannedTrial:
    """One trial of the sweep and where it stands."""

    config: TrialConfig
    name: str  # readable, unique within the plan
    levels: dict[str, Any]  # on the axes that no trial's label names
    state: State
    price: Price
    checkpoint_bytes: int  # to be written beside what is there
    curve_bytes: int
    epochs_done: int = 0  # that a run goes on from
    other_code: Sequence[str] = ()  # what it is of so far, and not of what this process runs

    @property
    def is_to_run(self) -> bool:
        """Whether it is this driver's to bring to its end, once its world model is there."""
        return self.state in ("waits", "new", "resumes", "again", "failed")

    @property
    def minutes(self) -> float:
        """Minutes of its share of a device, for the whole trial."""
        return self.price.minutes(self.config.epochs)

    @property
    def minutes_left(self) -> float:
        """Minutes of its share of a device, from where it stands."""
        return self.price.minutes(self.config.epochs - self.epochs_done)

    @property
    def disk_bytes(self) -> int:
        """Bytes of its files that are still to be written."""
        return self.checkpoint_bytes + self.curve_bytes


@dataclass(frozen=True)
class Plan:
    """A sweep at one scale against one results folder."""

    sweep: Any  # pwmray.sweep.Sweep
    scale: str
    results: Path
    trials: list[PlannedTrial]
    prerequisites: Sequence[Prerequisite] = ()
    missing_data: Sequence[str] = ()  # a line each
    on_other_data: Sequence[PlannedTrial] = ()  # done, on other data than is there now
    to_begin_again: Sequence[PlannedTrial] = ()  # not done, with a checkpoint of other data
    pretrained_on_other_data: Sequence[Prerequisite] = ()  # done, like trials
    words: Words = field(default_factory=dict)  # of pretrained world models
    unreadable: Mapping[str, str] = field(default_factory=dict)  # left out: by fingerprint, why

    @property
    def to_run(self) -> list[PlannedTrial]:
        """The trials that are not done and that no other process runs."""
        return [trial for trial in self.trials if trial.is_to_run]

    @property
    def unfinished(self) -> list[PlannedTrial]:
        """The trials to run and those that other processes run, which may leave them to us."""
        return [trial for trial in self.trials if trial.state != "done"]

    @property
    def is_ready(self) -> bool:
        """Whether no trial waits for a pretrained world model."""
        return all(trial.state != "waits" for trial in self.trials)

    @property
    def minutes(self) -> float:
        """Minutes still to run, one trial after another."""
        return sum(trial.minutes_left for trial in self.to_run)

    @property
    def disk_bytes(self) -> int:
        """Disk still to be written, by the trials and by what makes their world models."""
        pretrainings = [wanted.pretraining for wanted in self.prerequisites]
        made = pretraining_prices.count_disk_bytes(pretrainings, self.results)
        return made + sum(trial.disk_bytes for trial in self.to_run)

    def counts(self) -> dict[str, int]:
        """Return how many trials are in each state."""
        states = [trial.state for trial in self.trials]
        return {state: states.count(state) for state in dict.fromkeys(states)}


def make(
    sweep: Any,
    scale: str,
    configs: list[TrialConfig],
    results: Path,
    prerequisites: Sequence[Prerequisite] = (),
    data_dir: Path | None = None,
    words: Words | None = None,
) -> Plan:
    """Look every config up in the results folder and price it; writes nothing.

    Without `data_dir` the plan does not say which data is missing or has changed. `words` are those
    of `prerequisites.find`. A trial whose record cannot be read is left out.
    Raises ValueError if the results folder holds this sweep at another scale, or if no trial is
    left.
    """
    tables.check_scale(results / sweep.name, scale)
    for config in configs:
        check_pretrained(config)
    check_promises(configs)
    configs, records, unreadable = _read_records(configs, results)
    folders = [registry.trial_folder(results, config.fingerprint) for config in configs]
    measured = prices.measure(results, zip(configs, records, strict=True))
    priced = prices.price(configs, measured, sweep.scales[scale])
    axes, named = sweep.axes, sweep.named_levels(scale)
    names = names_of(configs, axes, named, words)
    trials = []
    rows = zip(configs, names, folders, records, priced, count_disk_bytes(configs), strict=True)
    for config, name, folder, record, price, (checkpoint_bytes, curve_bytes) in rows:
        state = "waits" if config.awaits_world_model else _state(folder, record)
        if state in ("resumes", "failed"):
            checkpoint_bytes = max(checkpoint_bytes - _stored_bytes(folder), 0)
        levels, done = levels_of(config, axes, named, words), _epochs_done(folder, state)
        bytes_left = (checkpoint_bytes, curve_bytes)
        other = learner_code.find_other_code(record, learner_code.kinds_of(config))
        trials.append(PlannedTrial(config, name, levels, state, price, *bytes_left, done, other))
    plan = Plan(
        sweep, scale, results, trials, prerequisites, words=words or {}, unreadable=unreadable
    )
    return plan if data_dir is None else _compare_data(plan, records, data_dir)


def _read_records(
    configs: Sequence[TrialConfig], results: Path
) -> tuple[list[TrialConfig], list[registry.Record], dict[str, str]]:
    """Return the trials whose records can be read, those records, and of the others why not."""
    readable, records, unreadable = [], [], {}
    for config in configs:
        try:
            records.append(registry.read(registry.trial_folder(results, config.fingerprint)))
            readable.append(config)
        except (ValueError, OSError) as error:
            unreadable[config.fingerprint] = one_line(error)
    if unreadable and not readable:
        raise ValueError(next(iter(unreadable.values())))
    return readable, records, unreadable


def check_disk(plan: Plan, is_tried: bool = True) -> None:
    """Raise ValueError unless the tables and trials can be written, and fit on the disk.

    A quota is seen only if it `is_tried`, by a file that is written and deleted.
    """
    check_trials(plan.results / plan.sweep.name, len(plan.to_run), plan.disk_bytes, is_tried)


def check_trials(folder: Path, num_trials: int, num_bytes: int, is_tried: bool = True) -> None:
    """Raise ValueError unless the folder of a sweep or search and its trials can be written.

    Of a results folder that several people share, one part may be another's.
    """
    check_writable(folder)
    if num_trials:
        check_writable(folder.parent / TRIALS)
    what = f"the results of {number_of(num_trials, 'trial')}"
    check_room(what, num_bytes, folder.parent, is_tried)


def _compare_data(plan: Plan, records: Sequence[registry.Record], data_dir: Path) -> Plan:
    """Return the plan with what of its data is missing, and which trials had other data."""
    wanted = [(trial.config.task, trial.config.data) for trial in plan.to_run]
    changed = _find_on_other_data(plan, records, data_dir)
    to_begin_again = [trial for trial in changed if trial.state != "done"]
    again = {trial.config.fingerprint for trial in to_begin_again}
    trials = [
        # "failed" says more than "again".
        replace(trial, state="again" if trial.state == "resumes" else trial.state, epochs_done=0)
        if trial.config.fingerprint in again
        else trial
        for trial in plan.trials
    ]
    return replace(
        plan,
        trials=trials,
        missing_data=missing_data(wanted, data_dir),
        on_other_data=[trial for trial in changed if trial.state == "done"],
        to_begin_again=to_begin_again,
        pretrained_on_other_data=[
            wanted
            for wanted in plan.prerequisites
            if is_of_other_data(wanted.pretraining, wanted.folder, data_dir)
        ],
    )


def _find_on_other_data(
    plan: Plan, records: Sequence[registry.Record], data_dir: Path
) -> list[PlannedTrial]:
    """Return the trials, done or with a checkpoint to go on from, whose data has changed since."""
    now: dict[tuple, str | None] = {}  # by task and recipe: trials of thousands share a few files
    found = []
    for trial, record in zip(plan.trials, records, strict=True):
        trained_on = record.last("data_fingerprint")
        folder = registry.trial_folder(plan.results, trial.config.fingerprint)
        goes_on = trial.state == "resumes" or (
            trial.state == "failed" and (folder / CHECKPOINT_FILE).exists()
        )
        if trained_on is None or not (trial.state == "done" or goes_on):
            continue
        wanted = (trial.config.task, trial.config.data)
        if wanted not in now:
            now[wanted] = current_fingerprint(*wanted, data_dir)
        if now[wanted] not in (None, trained_on):
            found.append(trial)
    return found


def _state(folder: Path, record: registry.Record) -> State:
    if record.status is Status.EVALUATED:
        return "done"
    if registry.running_elsewhere(folder):
        return "running"
    if record.status is Status.FAILED:
        return "failed"
    return "resumes" if (folder / CHECKPOINT_FILE).exists() else "new"


def _epochs_done(folder: Path, state: str) -> int:
    """Return the last epoch of the curve that a trial goes on with, 0 where it begins anew."""
    if state not in ("resumes", "failed") or not (folder / CHECKPOINT_FILE).exists():
        return 0
    try:
        curve = read_table(folder / CURVE_FILE, columns=("epoch",))
    except (ValueError, OSError):  # a trial without a curve that can be read begins anew, too
        return 0
    return max(curve["epoch"].to_pylist(), default=0)


def _stored_bytes(folder: Path) -> int:
    """Return the bytes of a trial's checkpoints; the best may be another name of the last."""
    found = {}
    for name in (CHECKPOINT_FILE, BEST_FILE):
        with contextlib.suppress(OSError):
            status = (folder / name).stat()
            found[status.st_ino] = status.st_size
    return sum(found.values())


def count_disk_bytes(configs: Sequence[TrialConfig]) -> list[tuple[int, int]]:
    """Return the bytes of each trial's checkpoints, and of its curve and evaluations."""
    found = []
    for config, counts in zip(configs, count_all_parameters(configs), strict=True):
        rows = config.epochs // config.evaluation.every_epochs + config.evaluation.final_episodes
        trained = sum(counts.values())
        frozen = 0 if config.trains_world_model else counts["world_model"]
        checkpoint = (trained - frozen) * _TRAINED_BYTES + frozen * _FROZEN_BYTES
        found.append((_NUM_CHECKPOINTS * checkpoint, rows * _CURVE_ROW_BYTES))
    return found


def count_all_parameters(configs: Iterable[TrialConfig]) -> Iterator[dict[str, int]]:
    """Yield each trial's parameters by part, counted once for all of one shape."""
    counted: dict[tuple, dict[str, int]] = {}  # a sweep of thousands of trials has a few
    for config in configs:
        shapes = (config.world_model, config.policy, config.critic, config.fidelity)
        if shapes not in counted:
            counted[shapes] = count_parameters(config)
        yield counted[shapes]
