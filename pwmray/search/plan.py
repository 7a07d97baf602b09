"""What a search has tried and has yet to try, and its best trials."""

import contextlib
import functools
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from pwmray import prices, registry, tables
from pwmray.config import FORMAT, TrialConfig
from pwmray.contract import check_promises
from pwmray.data.sources import current_fingerprint
from pwmray.plan import check_trials, count_disk_bytes
from pwmray.plan_text import duration_text
from pwmray.room import size_text
from pwmray.search import study
from pwmray.search.study import FINGERPRINT
from pwmray.variants import SETS_VARIANT

_NUM_SHOWN = 5  # of the best trials of each task
_MOST_CELLS = 4000  # of a space that is looked through whole, in less than a second
_NUM_DRAWS = 200  # of a larger one, for settings that were not tried
_FIRST_LOOK = 9  # ASHA looks first after a ninth of the epochs, then after a third

_ConfigOf = Callable[[Mapping[str, Any]], TrialConfig]  # of settings chosen from a space


@dataclass(frozen=True)
class SearchPlan:
    """A search at one scale against one results folder."""

    search: Any  # pwmray.search.Search
    scale: str
    tasks: list[str]
    num_trials: int  # of each task, with different settings
    results: Path
    minutes: float  # of a trial with the default settings that runs to its end
    trial_bytes: int  # of its files
    cells: Sequence[dict[str, Any]]  # all settings of a space that has few, else none
    data_dir: Path | None = None  # None: whether the data changed is not told

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
        """Check every task's settings and the space, and price a trial; writes nothing.

        Of a space that has fewer settings than `num_trials`, each is tried. Raises ValueError for a
        setting or a space that cannot run, a key that changes nothing, or another scale's folder.
        """
        tables.check_scale(results / search.name, scale)
        space = study.read_space(search.space)
        configs = [search.config(scale, task, {}) for task in tasks]
        config_of = functools.partial(search.config, scale, tasks[0])
        check_promises([*configs, *_check_space(search.name, space, config_of)])
        cells = _cells(space, config_of)
        num_trials = min(num_trials, len(cells) or num_trials)
        measured = prices.measure(results, ())
        (priced,) = prices.price(configs[:1], measured, search.scales[scale])
        minutes = priced.minutes_per_epoch * configs[0].epochs
        num_bytes = max(map(sum, count_disk_bytes(configs)))
        return cls(search, scale, tasks, num_trials, results, minutes, num_bytes, cells, data_dir)

    @property
    def folder(self) -> Path:
        """The search's own folder; each of its trials has one beside those of sweeps."""
        return self.results / self.search.name

    def config(self, task: str, chosen: dict[str, Any]) -> TrialConfig:
        """Return the trial of a task with the settings chosen."""
        return self.search.config(self.scale, task, chosen)

    @property
    def is_finite(self) -> bool:
        """Whether the space has an end: all its keys have choices or whole numbers."""
        return all(map(_all_values, study.read_space(self.search.space).values()))

    def draw_cells(self, rng: random.Random) -> list[dict[str, Any]]:
        """Return settings of a space that has an end in random order: all, or some of a large one.

        None of them are one trial, and all can run.
        """
        if self.cells:
            return rng.sample(self.cells, len(self.cells))
        space = study.read_space(self.search.space)
        choices = {key: _all_values(distribution) for key, distribution in space.items()}
        drawn = [{k: rng.choice(v) for k, v in choices.items()} for _ in range(_NUM_DRAWS)]
        config_of = functools.partial(self.search.config, self.scale, self.tasks[0])
        return list(_trials(drawn, config_of).values())

    def open_study(self, task: str) -> optuna.Study:
        """Open or create a task's study, to go on with it; for who holds the search's claim."""
        base = self.config(task, {})
        # A multiple of the curve's rows, where returns are known.
        every = base.evaluation.every_epochs
        first_rung = max(1, base.epochs // _FIRST_LOOK // every) * every
        seconds = base.runtime.disk_wait_seconds
        return study.open_study(self.folder, task, self._defining(base), first_rung, seconds)

    def num_left(self, found: optuna.Study | None) -> int:
        """Return how many trials a task's study, if it has one, has yet to bring to an end.

        What failed is tried again whenever the search is started.
        """
        outcomes = study.outcomes(found).values() if found else ()
        return max(0, self.num_trials - sum(t.state is not TrialState.FAIL for t in outcomes))

    def read_journal(self) -> study.Studies:
        """Return the studies that there are, to look at; writes nothing.

        Raises ValueError for a journal that cannot be read.
        """
        definitions = {task: self._defining(self.config(task, {})) for task in self.tasks}
        return study.load_studies(self.folder, definitions)

    def studies(self) -> dict[str, optuna.Study]:
        """Return the studies that this search defines, by task, as `read_journal`."""
        return self.read_journal().by_task

    def count_left(self, studies: Mapping[str, optuna.Study]) -> dict[str, int]:
        """Return how many trials of each task have yet to come to an end, by its `studies`."""
        return {task: self.num_left(studies.get(task)) for task in self.tasks}

    def check_disk(self, num_left: int) -> None:
        """Raise ValueError unless so many trials can be written, and fit on the disk."""
        check_trials(self.folder, num_left, num_left * self.trial_bytes)

    def describe_others(self, journal: study.Studies) -> list[str]:
        """Return a line for each task with trials in the journal that do not count here.

        And one for each with trials that count, but were trained on data that has changed since.
        """
        counts = {
            task: sum(len(study.outcomes(other)) for other in others)
            for task, others in journal.others.items()
        }
        lines = [
            f"{self.folder / study.JOURNAL_FILE} has {number} trials of {task} from other "
            "settings of the search; they do not count here"
            for task, number in counts.items()
            if number
        ]
        lines += [
            f"note: {number} of {task}'s trials were trained on data that has changed since; "
            "they count all the same"
            for task, number in self._count_on_other_data(journal.by_task).items()
            if number
        ]
        return lines

    def _count_on_other_data(self, studies: Mapping[str, optuna.Study]) -> dict[str, int]:
        """Return how many of each task's trials with an outcome had other data than is there."""
        if self.data_dir is None:
            return {}
        counts = {}
        for task, found in studies.items():
            now = current_fingerprint(task, self.config(task, {}).data, self.data_dir)
            ends = study.outcomes(found)
            folders = [registry.trial_folder(self.results, name) for name in ends]
            trained_on = map(_data_fingerprint, folders)
            counts[task] = sum(now is not None and one not in (None, now) for one in trained_on)
        return counts

    def _defining(self, base: TrialConfig) -> dict[str, Any]:
        """Return all that defines the study of a task, of which `base` is the default trial."""
        config = base.to_dict()
        del config["runtime"]
        config["data"] = base.data.definition
        return {"format": FORMAT, "space": dict(self.search.space), "config": config}


def _data_fingerprint(folder: Path) -> str | None:
    """Return what data a trial was trained on, None where that is not known or cannot be read."""
    try:
        return registry.read(folder).last("data_fingerprint")
    except (ValueError, OSError):  # the tables say what is wrong with it
        return None


def as_json(plan: SearchPlan) -> str:
    """Return the plan as one JSON object."""
    studies = plan.studies()
    tasks = {
        task: {"counts": _counts(studies.get(task)), "best": _best(studies.get(task))}
        for task in plan.tasks
    }
    left = sum(plan.count_left(studies).values())
    content = {
        "name": plan.search.name,
        "scale": plan.scale,
        "results": str(plan.results),
        "trials_of_a_task": plan.num_trials,
        "trials_left": left,
        "minutes_if_none_stops_early": round(left * plan.minutes, 2),
        "disk_bytes": left * plan.trial_bytes,
        "space": dict(plan.search.space),
        "tasks": tasks,
    }
    return json.dumps(content, indent=2)


def as_table(plan: SearchPlan) -> str:
    """Return the plan as text: what is searched, what was tried, the best of each task."""
    journal = plan.read_journal()
    studies = journal.by_task
    lines = [_head(plan)]
    lines += [f"  {key}: {_shown(values)}" for key, values in plan.search.space.items()]
    for task in plan.tasks:
        counts = _counts(studies.get(task))
        said = ", ".join(f"{number} {state}" for state, number in counts.items()) or "nothing yet"
        lines += [f"{task}: {said}", *best_lines(studies.get(task))]
    lines += [*caution_lines(plan, studies), *plan.describe_others(journal), _tail(plan, studies)]
    return "\n".join(lines)


def as_summary(plan: SearchPlan) -> str:
    """Return the plan as two lines: what is searched at all, and what is left of it."""
    return f"{_head(plan)}\n{_tail(plan, plan.studies())}"


def _head(plan: SearchPlan) -> str:
    return f"search {plan.search.name} at scale {plan.scale}, by task {plan.num_trials} trials"


def _tail(plan: SearchPlan, studies: Mapping[str, optuna.Study]) -> str:
    left = sum(plan.count_left(studies).values())
    device = plan.search.scales[plan.scale].get("device", "device")
    return (
        f"to run: {left} trials, about {duration_text(left * plan.minutes / 60, device)} with the "
        "default settings if none were stopped early, disk "
        f"{size_text(left * plan.trial_bytes)}"
    )


def caution_lines(plan: SearchPlan, studies: Mapping[str, optuna.Study]) -> list[str]:
    """Return a line of caution about the best returns, once there are any."""
    if not any(_best(found) for found in studies.values()):
        return []
    seed = plan.config(plan.tasks[0], {}).seed
    return [
        "the best of many returns with one seed is higher than it will be again: "
        f"confirm it in a sweep, with seeds other than {seed}, against arms searched as long"
    ]


def best_lines(found: optuna.Study | None) -> list[str]:
    """Return a line for each of a study's best trials, with its settings as a sweep's level."""
    return [
        f"  {row['return']:>6.1f}  {row['fingerprint']}  {row['settings']}" for row in _best(found)
    ]


def _best(found: optuna.Study | None) -> list[dict[str, Any]]:
    trials = study.best_trials(found, _NUM_SHOWN) if found else []
    return [
        {"return": t.value, "fingerprint": t.user_attrs[FINGERPRINT], "settings": t.params}
        for t in trials
    ]


def _counts(found: optuna.Study | None) -> dict[str, int]:
    """Return the number of trials by outcome; each counts once, however often it was tried."""
    if found is None:
        return {}
    words = {"COMPLETE": "done", "PRUNED": "stopped early", "FAIL": "failed"}
    ends = study.outcomes(found)
    states = [words[trial.state.name] for trial in ends.values()]
    begun = {trial.user_attrs.get(FINGERPRINT) for trial in study.unfinished(found)}
    return dict(Counter([*states, *("begun" for name in begun if name and name not in ends)]))


def _shown(values: Any) -> str:
    if isinstance(values, dict):
        scale = ", logarithmically" if values.get("log") else ""
        return f"{values['low']} to {values['high']}{scale}"
    return ", ".join(map(str, values))


def _check_space(
    name: str, space: Mapping[str, BaseDistribution], config_of: _ConfigOf
) -> list[TrialConfig]:
    """Return a trial of each choice of a kind.

    Raises ValueError for a choice that cannot run, or a key that changes nothing of a trial. A
    choice may ask for another key's: each is looked at by itself, then beside each of the others.
    """
    kinds = []
    others = [{key: value} for key in space for value in _ends(space[key])]
    for key, distribution in space.items():
        values = _ends(distribution)
        contexts: list[dict[str, Any]] = [{}, *(other for other in others if key not in other)]
        for value in values:
            runs = _find_running([{**context, key: value} for context in contexts], config_of)
            kinds += [runs] if key in SETS_VARIANT else []
        beside = ([{**context, key: value} for value in values] for context in contexts)
        if len(values) > 1 and all(len(_trials(few, config_of)) < 2 for few in beside):
            raise ValueError(
                f"search {name}: {key!r} changes no trial: it is held, or belongs to another "
                "kind of world model or policy"
            )
    return kinds


def _find_running(settings: Sequence[Mapping[str, Any]], config_of: _ConfigOf) -> TrialConfig:
    """Return the first of some settings that can run; raise the first's ValueError if none can."""
    errors = []
    for chosen in settings:
        try:
            return config_of(chosen)
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def _cells(space: Mapping[str, BaseDistribution], config_of: _ConfigOf) -> list[dict[str, Any]]:
    """Return all settings of a space that are different trials; none where there are many."""
    choices = [_all_values(distribution) for distribution in space.values()]
    if math.prod(map(len, choices)) not in range(1, _MOST_CELLS + 1):
        return []
    settings = (dict(zip(space, values, strict=True)) for values in itertools.product(*choices))
    return list(_trials(settings, config_of).values())


def _trials(settings: Iterable[dict[str, Any]], config_of: _ConfigOf) -> dict[str, dict[str, Any]]:
    """Return the first settings of each trial by its fingerprint, without those that cannot run."""
    found: dict[str, dict[str, Any]] = {}
    for chosen in settings:
        with contextlib.suppress(ValueError):  # a choice that asks for another key's
            found.setdefault(config_of(chosen).fingerprint, chosen)
    return found


def _all_values(distribution: BaseDistribution) -> Sequence[Any]:
    """Return every value of a distribution, none if it has infinitely many."""
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1)
    return distribution.choices if isinstance(distribution, CategoricalDistribution) else ()


def _ends(distribution: BaseDistribution) -> Sequence[Any]:
    """Return all choices of a distribution, or both ends of a range."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    return list(dict.fromkeys((distribution.low, distribution.high)))  # type: ignore[attr-defined]
