"""What a search is to run: its settings, what it has tried in a results folder, what is left."""

import functools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from pwmray import prices, registry, tables
from pwmray.config import FORMAT, TrialConfig
from pwmray.contract import check_promises
from pwmray.data.sources import current_fingerprint
from pwmray.plan import check_trials, count_disk_bytes
from pwmray.registry import Record
from pwmray.results import read_table
from pwmray.search import study
from pwmray.search.space import (
    Settings,
    all_values,
    check_space,
    distinct,
    draw_configs,
    find_cells,
    read_space,
)

_NUM_DRAWS = 200  # from a space that is not enumerated, for settings that were not tried
_NUM_PRICED = 30  # settings drawn from a space: trials of some take several times as long
_FIRST_LOOK = 9  # ASHA looks first after a ninth of the epochs, then after a third


@dataclass(frozen=True)
class SearchPlan:
    """A search at one scale against one results folder."""

    search: Any  # pwmray.search.Search
    scale: str
    tasks: list[str]
    num_trials: int  # of each task, with different settings
    results: Path
    minutes: float  # of a trial that runs to its end, on average over the space
    trial_bytes: int  # of its files
    cells: Sequence[Settings]  # all of the space if it has few, else none
    data_dir: Path | None = None  # None: nobody asks whether the data has changed

    @classmethod
    def make(
        cls,
        search: Any,
        scale: str,
        tasks: list[str],
        num_trials: int,
        results: Path,
        data_dir: Path | None = None,
    ) -> "SearchPlan":
        """Check the space and every task's settings, and price a trial; writes nothing.

        A space with fewer settings than `num_trials` has each tried once. Raises ValueError for a
        setting or a space that cannot run, a key that changes nothing, or another scale's folder.
        """
        tables.check_scale(results / search.name, scale)
        space = read_space(search.space)
        configs = [search.config(scale, task, {}) for task in tasks]
        config_of = functools.partial(search.config, scale, tasks[0])
        check_promises([*configs, *check_space(search.name, space, config_of)])
        cells = find_cells(space, config_of)
        num_trials = min(num_trials, len(cells) or num_trials)
        drawn = draw_configs(space, config_of, _NUM_PRICED) or configs[:1]
        finished = _read_finished(results / search.name)
        tell = [*finished, *configs[:1]]  # at what pace trials run here, and what one may take
        measured = prices.measure(results, ())
        priced = prices.price([*drawn, *tell], measured, search.scales[scale])[: len(drawn)]
        minutes = sum(price.minutes(configs[0].epochs) for price in priced) / len(drawn)
        (sizes,) = count_disk_bytes(configs[:1])  # of any task: models are as wide for all
        trial_bytes = sum(sizes)
        return cls(search, scale, tasks, num_trials, results, minutes, trial_bytes, cells, data_dir)

    @property
    def folder(self) -> Path:
        """The search's own folder; its trials' folders are beside those of sweeps."""
        return self.results / self.search.name

    @property
    def space(self) -> dict[str, BaseDistribution]:
        """The space as Optuna's distributions."""
        return read_space(self.search.space)

    def config(self, task: str, chosen: Mapping[str, Any]) -> TrialConfig:
        """Return the trial of a task with the settings chosen."""
        return self.search.config(self.scale, task, chosen)

    @property
    def is_finite(self) -> bool:
        """Whether the space is finite: every key has choices or whole numbers."""
        return all(map(all_values, self.space.values()))

    def draw_cells(self, rng: random.Random) -> list[Settings]:
        """Return settings of a finite space in random order: all of a small one, some of a large.

        All of them can run, and no two are the same trial.
        """
        if self.cells:
            return rng.sample(self.cells, len(self.cells))
        choices = {key: all_values(distribution) for key, distribution in self.space.items()}
        drawn = [{k: rng.choice(v) for k, v in choices.items()} for _ in range(_NUM_DRAWS)]
        return distinct(drawn, functools.partial(self.config, self.tasks[0]))

    def open_study(self, task: str, tell: Callable[[], None] = lambda: None) -> optuna.Study:
        """Open or create a task's study to go on with it. The caller holds the search's claim.

        Where the disk is full it is waited for, of which it may `tell`, as `with_room`.
        """
        base = self.config(task, {})
        # A multiple of the curve's rows, where returns are known.
        every = base.evaluation.every_epochs
        first_rung = max(1, base.epochs // _FIRST_LOOK // every) * every
        seconds = base.runtime.disk_wait_seconds
        defining = self._defining(base)
        return study.open_study(self.folder, task, defining, first_rung, seconds, tell)

    def read_journal(self) -> study.Studies:
        """Return the studies that there are, to look at; writes nothing.

        Raises ValueError for a journal that cannot be read.
        """
        definitions = {task: self._defining(self.config(task, {})) for task in self.tasks}
        return study.load_studies(self.folder, definitions)

    def studies(self) -> dict[str, optuna.Study]:
        """Return the studies that this search defines, by task, as `read_journal`."""
        return self.read_journal().by_task

    def num_left(self, found: optuna.Study | None) -> int:
        """Return how many trials a task's study, if there is one, has yet to bring to an end.

        Failed trials are among them: they are tried again whenever the search is started.
        """
        outcomes = study.outcomes(found).values() if found else ()
        return max(0, self.num_trials - sum(t.state is not TrialState.FAIL for t in outcomes))

    def count_left(self, studies: Mapping[str, optuna.Study]) -> dict[str, int]:
        """Return `num_left` of each task, by its study in `studies`."""
        return {task: self.num_left(studies.get(task)) for task in self.tasks}

    def check_disk(self, num_left: int) -> None:
        """Raise ValueError unless so many trials can be written, and fit on the disk."""
        check_trials(self.folder, num_left, num_left * self.trial_bytes)

    def read_records(self, studies: Mapping[str, optuna.Study]) -> dict[str, list[Record]]:
        """Return the records of each task's ended trials; one that cannot be read is empty."""
        return {
            task: [
                _read(registry.trial_folder(self.results, name)) for name in study.outcomes(found)
            ]
            for task, found in studies.items()
        }

    def count_on_other_data(self, task: str, records: Sequence[Record]) -> int:
        """Return how many of a task's trials were trained on other data than is there now.

        It is 0 without a `data_dir`.
        """
        if self.data_dir is None:
            return 0
        now = current_fingerprint(task, self.config(task, {}).data, self.data_dir)
        trained_on = [record.last("data_fingerprint") for record in records]
        return sum(now is not None and one not in (None, now) for one in trained_on)

    def _defining(self, base: TrialConfig) -> dict[str, Any]:
        """Return all that defines the study of a task, whose default trial is `base`."""
        config = base.to_dict()
        del config["runtime"]
        config["data"] = base.data.definition
        return {"format": FORMAT, "space": dict(self.search.space), "config": config}


def _read_finished(folder: Path) -> list[TrialConfig]:
    """Return the trials that came to their end, none where the table is not there or not ours."""
    try:
        rows = read_table(folder / "trials.arrow", columns=("trial", "status", "config"))
    except (ValueError, OSError):
        return []
    found = []
    for row in rows.to_pylist():
        if row["status"] == registry.Status.EVALUATED:
            try:
                found.append(TrialConfig.from_dict(json.loads(row["config"])))
            except (AttributeError, TypeError, ValueError) as error:  # edited, or another version's
                prices.pass_over(folder, row, error)
    return found


def _read(folder: Path) -> Record:
    try:
        return registry.read(folder)
    except (ValueError, OSError):  # the tables say what is wrong with it
        return Record()
