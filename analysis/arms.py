"""Group a sweep's trials into arms: what differs in its seed alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from analysis.load import Sweep, Trial
from analysis.stats import Contrast, compare_with, mean, mean_and_sd, sample_sd
from analysis.verdict import CONFIDENCE
from pwmray.tasks import Task, find_task


@dataclass(frozen=True)
class Arm:
    """The evaluated trials that differ in their seed alone, or several such arms averaged."""

    factors: dict[str, Any]
    trials: tuple[Trial, ...]
    planned: frozenset[int]  # the training seeds that the sweep asks for
    kinds: tuple[str, str] = ("", "")  # of world model and policy
    diverged: frozenset[int] = frozenset()  # planned seeds whose latest trial has
    parts: tuple["Arm", ...] = ()  # averaged over, seed by seed; this arm has no trials then

    @cached_property
    def counted(self) -> tuple[Trial, ...]:
        """Return one trial a seed: of several, made as held settings changed, the latest.

        A sweep lists the latest first (see pwmray.tables.open_sweep); an imported one keeps the
        order of its source.
        """
        oldest_first = self.trials if self._is_imported else self.trials[::-1]
        last = {trial.seed: trial for trial in oldest_first}
        return tuple(trial for trial in self.trials if trial is last[trial.seed])

    @cached_property
    def compared(self) -> tuple[Trial, ...]:
        """Return the trials whose controls a comparison checks: those that count.

        In an imported sweep these are all, since nothing says that one replaced another.
        """
        return self.trials if self._is_imported else self.counted

    @property
    def _is_imported(self) -> bool:
        return any(trial.record.get("origin") for trial in self.trials)

    @cached_property
    def returns(self) -> dict[int, float]:
        """Return the final return by training seed; with parts, their mean, of shared seeds."""
        if not self.parts:
            return {trial.seed: trial.final_return for trial in self.counted}
        found = [part.returns for part in self.parts]
        seeds = [seed for seed in found[0] if all(seed in some for some in found)]
        return {seed: mean([some[seed] for some in found]) for seed in seeds}

    @property
    def mean(self) -> float | None:
        """Return the mean final return over seeds; None without a trial."""
        return mean(list(self.returns.values())) if self.returns else None

    @property
    def sd(self) -> float | None:
        """Return the sample standard deviation over seeds; None below two trials."""
        return sample_sd(list(self.returns.values()))

    @property
    def over_floor(self) -> Contrast | None:
        """Return the mean over seeds less the task's floor; None without a trial."""
        values = list(self.returns.values())
        return compare_with(self.task.floor, values, CONFIDENCE) if values else None

    @property
    def plan_returns(self) -> list[float]:
        """Return the plan return of every counted trial that has one."""
        return [t.plan_return for t in self.counted if t.plan_return is not None]

    @property
    def returns_where_planned(self) -> list[float]:
        """Return each counted trial's `return_where_planned`, of those that have one."""
        found = [trial.return_where_planned for trial in self.counted]
        return [value for value in found if value is not None]

    @property
    def num_planned(self) -> int:
        """Return the number of training seeds that the sweep asks for."""
        return len(self.planned)

    @property
    def is_complete(self) -> bool:
        """Tell whether every planned seed is evaluated."""
        return len(self.counted) == self.num_planned

    @property
    def train_seconds(self) -> float | None:
        """Return the mean training time of a trial; None where none was recorded."""
        seconds = [trial.record["train_seconds"] for trial in self.counted]
        return mean_and_sd([one for one in seconds if one is not None])[0]

    @property
    def return_per_hour(self) -> float | None:
        """Return the mean return divided by the mean hours of training."""
        return self._per_hour(0.0)

    @property
    def gain_per_hour(self) -> float | None:
        """Return the mean return above the floor divided by the mean hours of training."""
        return self._per_hour(self.task.floor)

    def _per_hour(self, above: float) -> float | None:
        if self.mean is None or not self.train_seconds:
            return None
        return (self.mean - above) / (self.train_seconds / 3600.0)

    @property
    def task(self) -> Task:
        """Return the task, which knows its floor."""
        return find_task(self.factors["task"])

    @property
    def floor_kind(self) -> str:
        """Return what the task's floor is the return of: "nothing" or "random" actions."""
        return "nothing" if self.task.zero_return >= self.task.random_return else "random"


def build_arms(sweep: Sweep) -> list[Arm]:
    """Return every arm, task by task in the grid's order, with its evaluated trials."""
    members: dict[tuple, list[Trial]] = {}
    for trial in sweep.trials:
        if trial.factors["epochs"] is not None:  # else it failed, of which arm is not known
            members.setdefault(tuple(trial.factors.items()), []).append(trial)
    seeds: dict[Any, set[int]] = {}  # of each task, which may run seeds that others do not
    for trial in sweep.trials:
        seeds.setdefault(_seeds_of(trial), set()).add(trial.seed)
    arms = [
        Arm(
            factors=trials[0].factors,
            trials=tuple(trial for trial in trials if trial.is_usable),
            planned=frozenset(seeds[_seeds_of(trials[0])]),
            kinds=(trials[0].record["world_model"], trials[0].record["policy"]),
            diverged=_find_diverged(trials),
        )
        for trials in members.values()
    ]
    return order_arms(arms)


def _find_diverged(trials: Sequence[Trial]) -> frozenset[int]:
    latest = {trial.seed: trial for trial in reversed(trials)}  # a sweep lists the latest first
    return frozenset(seed for seed, trial in latest.items() if trial.has_diverged)


def leave_out_replaced(sweep: Sweep) -> Sweep:
    """Return the sweep with one trial a seed of each arm: the one that counts, else the latest.

    An imported sweep keeps all of its trials, as in `Arm.compared`.
    """
    last: dict[tuple, Trial] = {}
    for trial in sweep.trials:
        place = *trial.factors.items(), trial.seed
        if place not in last or (trial.is_usable and not last[place].is_usable):
            last[place] = trial
    kept = {id(trial) for trial in last.values()}
    return sweep._replace(
        trials=tuple(t for t in sweep.trials if id(t) in kept or t.record.get("origin"))
    )


def order_arms(arms: Sequence[Arm]) -> list[Arm]:
    """Return arms sorted by the rank of their levels, factor by factor."""
    places = rank_levels(arms)
    return sorted(arms, key=lambda arm: [places[item] for item in arm.factors.items()])


def is_numeric(values: Sequence[Any]) -> bool:
    """Tell whether every value is a number."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def rank_levels(arms: Sequence[Arm]) -> dict[tuple[str, Any], int]:
    """Return the rank of each factor's level: numbers by size, others in the grid's order."""
    places = {}
    for factor in arms[0].factors if arms else ():
        levels = list(dict.fromkeys(arm.factors[factor] for arm in arms))
        applying = [level for level in levels if level is not None]
        if is_numeric(applying):  # where the factor does not apply comes last
            levels = [*sorted(applying), *([None] if None in levels else [])]
        places |= {(factor, level): place for place, level in enumerate(levels)}
    return places


def _seeds_of(trial: Trial) -> Any:
    return trial.factors.get("sweep"), trial.factors["task"]  # merged sweeps are told apart
