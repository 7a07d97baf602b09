"""What a search has tried and has yet to try, and its best trials."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from pwmray import prices, study, tables
from pwmray.config import TrialConfig
from pwmray.study import FINGERPRINT

_NUM_SHOWN = 5  # of the best trials of each task
_FIRST_LOOK = 9  # ASHA looks first after a ninth of the epochs, then after a third


@dataclass(frozen=True)
class SearchPlan:
    """A search at one scale against one results folder."""

    search: Any  # pwmray.search.Search
    scale: str
    tasks: list[str]
    num_trials: int  # of each task
    results: Path
    minutes: float  # of a trial with the default settings that runs to its end

    @classmethod
    def make(
        cls, search: Any, scale: str, tasks: list[str], num_trials: int, results: Path
    ) -> "SearchPlan":
        """Check every task's settings and the space, and price a trial; writes nothing.

        Raises ValueError for a setting or a space that cannot run, or another scale's folder.
        """
        tables.check_scale(results / search.name, scale)
        space = study.read_space(search.space)
        configs = [search.config(scale, task, {}) for task in tasks]
        for name, distribution in space.items():
            search.config(scale, tasks[0], {name: _some_value(distribution)})
        measured = prices.measure(results, ())
        (priced,) = prices.price(configs[:1], measured, search.scales[scale])
        minutes = priced.minutes_per_epoch * configs[0].epochs
        return cls(search, scale, tasks, num_trials, results, minutes)

    @property
    def folder(self) -> Path:
        """The search's own folder; each of its trials has one beside those of sweeps."""
        return self.results / self.search.name

    def config(self, task: str, chosen: dict[str, Any]) -> TrialConfig:
        """Return the trial of a task with the settings chosen."""
        return self.search.config(self.scale, task, chosen)

    def open_study(self, task: str) -> optuna.Study:
        """Open or create a task's study, to go on with it; for who holds the search's claim."""
        base = self.config(task, {})
        # A multiple of the curve's rows, where returns are known.
        every = base.evaluation.every_epochs
        first_rung = max(1, base.epochs // _FIRST_LOOK // every) * every
        return study.open_study(self.folder, task, self._defining(base), first_rung)

    def num_left(self, found: optuna.Study | None) -> int:
        """Return how many trials a task's study, if it has one, has yet to bring to an end."""
        trials = found.get_trials(deepcopy=False) if found else []
        return max(0, self.num_trials - sum(trial.state.is_finished() for trial in trials))

    def studies(self) -> dict[str, optuna.Study]:
        """Return the studies that there are, by task, to look at; writes nothing."""
        defining = {task: self._defining(self.config(task, {})) for task in self.tasks}
        found = {task: study.load_study(self.folder, task, defining[task]) for task in self.tasks}
        return {task: one for task, one in found.items() if one is not None}

    def _defining(self, base: TrialConfig) -> dict[str, Any]:
        """Return all that defines the study of a task, of which `base` is the default trial."""
        config = base.to_dict()
        del config["runtime"]
        config["data"] = base.data.definition
        return {"space": dict(self.search.space), "config": config}


def as_json(plan: SearchPlan) -> str:
    """Return the plan as one JSON object."""
    studies = plan.studies()
    tasks = {
        task: {"counts": _counts(studies.get(task)), "best": _best(studies.get(task))}
        for task in plan.tasks
    }
    left = _num_left(plan, studies)
    content = {
        "name": plan.search.name,
        "scale": plan.scale,
        "results": str(plan.results),
        "trials_of_a_task": plan.num_trials,
        "trials_left": left,
        "minutes_if_none_stops_early": round(left * plan.minutes, 2),
        "space": {key: list(v) if isinstance(v, tuple) else v for key, v in _space(plan).items()},
        "tasks": tasks,
    }
    return json.dumps(content, indent=2)


def as_table(plan: SearchPlan) -> str:
    """Return the plan as text: what is searched, what was tried, the best of each task."""
    studies = plan.studies()
    left = _num_left(plan, studies)
    device = plan.search.scales[plan.scale].get("device", "device")
    lines = [f"search {plan.search.name} at scale {plan.scale}, by task {plan.num_trials} trials"]
    lines += [f"  {key}: {_shown(values)}" for key, values in _space(plan).items()]
    for task in plan.tasks:
        counts = _counts(studies.get(task))
        said = ", ".join(f"{number} {state}" for state, number in counts.items()) or "nothing yet"
        lines += [f"{task}: {said}", *best_lines(studies.get(task))]
    lines.append(
        f"to run: {left} trials, {left * plan.minutes / 60:.1f} {device} hours with the default "
        "settings if none were stopped early"
    )
    return "\n".join(lines)


def best_lines(found: optuna.Study | None) -> list[str]:
    """Return a line for each of a study's best trials."""
    return [
        f"  {row['return']:>6.1f}  {row['fingerprint']}  "
        + ", ".join(f"{name}={_number(value)}" for name, value in row["settings"].items())
        for row in _best(found)
    ]


def _best(found: optuna.Study | None) -> list[dict[str, Any]]:
    trials = study.best_trials(found, _NUM_SHOWN) if found else []
    return [
        {"return": t.value, "fingerprint": t.user_attrs[FINGERPRINT], "settings": t.params}
        for t in trials
    ]


def _counts(found: optuna.Study | None) -> dict[str, int]:
    words = {"COMPLETE": "done", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "begun"}
    trials = found.get_trials(deepcopy=False) if found else []
    return dict(Counter(words.get(trial.state.name, "begun") for trial in trials))


def _num_left(plan: SearchPlan, studies: dict[str, optuna.Study]) -> int:
    return sum(plan.num_left(studies.get(task)) for task in plan.tasks)


def _space(plan: SearchPlan) -> dict[str, Any]:
    return dict(plan.search.space)


def _shown(values: Any) -> str:
    if isinstance(values, dict):
        scale = ", logarithmically" if values.get("log") else ""
        return f"{values['low']} to {values['high']}{scale}"
    return ", ".join(map(str, values))


def _number(value: Any) -> Any:
    return f"{value:.3g}" if isinstance(value, float) else value


def _some_value(distribution: optuna.distributions.BaseDistribution) -> Any:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return distribution.choices[0]
    return distribution.low  # type: ignore[attr-defined]
