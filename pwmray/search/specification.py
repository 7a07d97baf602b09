"""A search over hyperparameters as a specification, and the command that runs it."""

import os
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pwmray.checks import check_folder_name, check_list, check_mapping, complaints_of
from pwmray.commands import CommandParser, run_command
from pwmray.config import SCRATCH, TrialConfig
from pwmray.sweep import Sweep
from pwmray.sweep_options import (
    add_cluster_options,
    add_place_options,
    add_plan_options,
    check_docstrings,
    check_plan_options,
    check_scales,
    choose_scale,
    count,
    task_names,
)
from pwmray.system import quieten_dm_control
from pwmray.tasks import find_task
from pwmray.tracking.recording import choose_mode
from pwmray.variants import check_kinds

if TYPE_CHECKING:
    from pwmray.search.plan import SearchPlan

# What makes returns incomparable; the planner does not act in the final return.
_FIXED = ("task", "seed", "epochs", "data", "planner", "evaluation", "runtime", "world_model_from")


@dataclass(frozen=True)
class Search:
    """One study for each task, of trials whose settings are proposed from `space`.

    `space` maps config keys to lists of choices or to ranges (see pwmray.search.space.read_space),
    `hold` maps others to one value, and `num_trials` is the number of each task's trials. Trials
    are compared by their final return, with one training seed. `scales` and `at_scale` are as in a
    Sweep; `at_scale` may also give another `num_trials` and other `tasks`.
    """

    name: str
    space: Mapping[str, Any]
    tasks: Sequence[str]
    num_trials: int
    scales: Mapping[str, Mapping[str, Any]]
    hold: Mapping[str, Any] = field(default_factory=dict)
    at_scale: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def check(self) -> None:
        """Raise ValueError where the specification contradicts itself or cannot be searched."""
        check_folder_name("a search", self.name)
        with complaints_of(f"search {self.name}"):
            check_scales(self.at_scale, self.scales)
            self._check_space()
            for here in ({}, *self.at_scale.values()):
                _check_tasks(here.get("tasks", self.tasks))
                _check_num_trials(here.get("num_trials", self.num_trials))

    def _check_space(self) -> None:
        check_mapping("space", self.space)
        check_mapping("hold", self.hold)
        for key, values in self.space.items():
            if key.partition(".")[0] in _FIXED:
                raise ValueError(f"{key!r} cannot be searched over")
            if isinstance(values, Mapping) and not isinstance(values.get("log", False), bool):
                raise ValueError(f"{key!r} has log {values['log']!r}; valid: True, False")
        if self.hold.get("world_model_from", SCRATCH) != SCRATCH:
            raise ValueError("its trials must start from scratch")
        choices = [
            {key: value}
            for key in ("variant", "world_model.kind", "policy.kind")
            if not isinstance(values := self.space.get(key, ()), Mapping)
            for value in values
        ]
        for here in ({}, *self.at_scale.values()):
            for choice in ({}, *choices):
                check_kinds({**self.hold, **here, **choice})
        for here in (self.hold, *self.at_scale.values()):
            for key in here:
                if key in self.space or key == "task":
                    setter = "space" if key in self.space else "tasks"
                    raise ValueError(f"{key!r} is held, but {setter} sets it; drop one of them")

    def settings(self, scale: str) -> dict[str, Any]:
        """Return the settings that all trials have in common at a scale."""
        here = {k: v for k, v in self._here(scale).items() if k not in ("num_trials", "tasks")}
        return {**self.scales[scale]["set"], **self.hold, **here}

    def config(self, scale: str, task: str, chosen: Mapping[str, Any]) -> TrialConfig:
        """Return the trial of a task with the settings chosen, and defaults for the others."""
        return TrialConfig.from_flat({**self.settings(scale), **chosen, "task": task})

    def tasks_at(self, scale: str) -> Sequence[str]:
        """Return its tasks at a scale."""
        return self._here(scale).get("tasks", self.tasks)

    def num_trials_at(self, scale: str) -> int:
        """Return the number of a task's trials at a scale."""
        return self._here(scale).get("num_trials", self.num_trials)

    def as_sweep(self, scale: str) -> Sweep:
        """Return the sweep whose tables, names and verdicts this search's trials get."""
        levels = {
            key: [values["low"], values["high"]] if isinstance(values, Mapping) else values
            for key, values in self.space.items()
        }
        return Sweep(
            name=self.name,
            vary={**levels, "task": self.tasks_at(scale)},
            compare=next(iter(self.space)),
            within=["task"],
            scales=self.scales,
        )

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Run the command line and exit: 0 done, 1 all of a task's trials failed, 2 bad input.

        After a signal as a sweep: 75, 129, 130 or 143.
        """
        # In a job of a cluster, going on is for cluster/submit.py.
        command = os.environ.get("PWMRAY_COMMAND") or shlex.join(["python", *sys.argv])
        sys.exit(run_command(lambda: self._run(arguments, command)))

    def _run(self, arguments: Sequence[str] | None, command: str) -> int:
        self.check()
        chosen = search_parser(self).parse_args(arguments)
        check_plan_options(chosen)
        from pwmray.search.plan_text import as_json, as_table

        plan = self.plan(chosen)
        if chosen.plan:
            print(as_json(plan) if chosen.format == "json" else as_table(plan))
            return 0
        check_docstrings()
        mode = choose_mode(chosen.wandb)
        quieten_dm_control()
        from pwmray.search import run as search_run

        data, patience = chosen.data.resolve(), chosen.patience
        return search_run.run(plan, data, chosen.address, command, mode, patience)

    def plan(self, chosen: Namespace) -> "SearchPlan":
        """Return the plan of what the options of the command line choose."""
        from pwmray.search.plan import SearchPlan

        scale = choose_scale(chosen.scale, self.scales)
        tasks = chosen.tasks or list(self.tasks_at(scale))
        number = min(chosen.limit or self.num_trials_at(scale), self.num_trials_at(scale))
        search = self
        if chosen.trials_per_gpu is not None:
            here = {**self._here(scale), "runtime.gpu_fraction": 1 / chosen.trials_per_gpu}
            search = replace(self, at_scale={**self.at_scale, scale: here})
        results, data = chosen.results.resolve(), chosen.data.resolve()
        return SearchPlan.make(search, scale, tasks, number, results, data)

    def _here(self, scale: str) -> Mapping[str, Any]:
        return self.at_scale.get(scale, {})


def _check_tasks(tasks: Any) -> None:
    check_list("tasks", tasks)
    if not tasks:
        raise ValueError("tasks is empty")
    for task in tasks:
        find_task(str(task))
        if list(tasks).count(task) > 1:
            raise ValueError(f"tasks has {task!r} twice")


def _check_num_trials(number: Any) -> None:
    if type(number) is not int or number < 1:
        raise ValueError(f"num_trials is {number!r}; it must be a whole number from 1")


def search_parser(search: Search) -> ArgumentParser:
    """Return the parser of a search's command."""
    parser = CommandParser(
        description=f"Run the search {search.name}; run it again to continue where it stopped."
    )
    add = parser.add_argument
    add_place_options(parser, search.scales)
    add_plan_options(parser, "print what was tried and what is left; run nothing")
    add("--limit", type=count, metavar="N", help="run only the first N trials of each task")
    add("--tasks", type=task_names, metavar="A,B", help="other tasks; mt30 for all 30")
    add_cluster_options(parser)
    add(
        "--patience",
        type=count,
        default=0,
        metavar="SECONDS",
        help="how long to wait while another process runs the search; default: not at all",
    )
    return parser
