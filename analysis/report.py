"""Summarise a sweep: its numbers, and the notes beside them. Every format prints a Summary."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from analysis.arms import Arm, build_arms, leave_out_replaced
from analysis.compare import (
    UNCOMPARED,
    Comparison,
    ComparisonTable,
    compare_arms,
    is_pooled,
    list_factors,
)
from analysis.conditions import describe_code, describe_machines
from analysis.cost import Cost, measure_costs
from analysis.diagnose import Signs, describe_signs, diagnose
from analysis.factorial import Factorial, find_effects
from analysis.flags import describe_trials, find_flags, list_first
from analysis.load import Sweep, describe_progress
from analysis.merge import SWEEP
from analysis.pool import describe_averaging, find_left_out
from analysis.predictions import Predictions, measure_predictions
from analysis.reference import ReferenceTable, list_beside
from analysis.scaling import Scaling, scale_epochs
from analysis.scattered import is_scattered
from analysis.shared import describe_shared
from analysis.short_names import ShortNames, shorten_levels
from analysis.stats import FALSE_WINNER_RATES, expected_false_winners, smallest_exact_p
from analysis.suite import Suite, build_suites
from analysis.verdict import (
    CONFIDENCE,
    CONFIRM_SEEDS,
    LOW_SHARE,
    MIN_DIFFERENCE,
    MIN_STANDARD_ERRORS,
    is_low_but_apart,
)
from pwmray.wording import number_of

UNLIKE_SPREADS = 2.0  # arms that take so many times the usual points have a sentence of their own
POWER_ERRORS = 0.84  # standard normal quantile of 80 %: how far beyond the limit a sure win is
SEARCH_NOTE = (
    "Each trial of a search has its own settings and the search's one seed, so no verdict compares "
    "them. The best of them is flattered by the choice: confirm it by a sweep on other seeds. It "
    "also has an advantage over arms whose settings nobody searched as long."
)


class Summary(NamedTuple):
    """A sweep in numbers and words."""

    sweep: Sweep
    progress: str
    arms: tuple[Arm, ...]
    comparisons: tuple[ComparisonTable, ...]
    factorial: Factorial
    suites: tuple[Suite, ...]
    costs: tuple[Cost, ...]
    scalings: tuple[Scaling, ...]
    predictions: tuple[Predictions, ...]
    signs: Signs
    notes: tuple[str, ...]
    reference: ReferenceTable | None = None


def summarize_sweep(
    sweep: Sweep,
    compare: str | None = None,
    despite_differences: bool = False,
    within: Sequence[str] | None = None,
    reference: str | None = None,
) -> Summary:
    """Return the sweep's arms, comparisons and notes.

    `compare` replaces the factor that the sweep names; `within` keeps only those factors apart;
    `despite_differences` also judges arms that the guard rejects; `reference` names published
    returns to put beside ours. Raises ValueError where no trial is evaluated.
    """
    progress = describe_progress(sweep)
    if not sweep.usable:
        raise ValueError(f"nothing to summarise in {sweep.folder}: {progress}")
    arms = tuple(build_arms(sweep))
    factors = list_factors(sweep, compare)
    compared = [compare_arms(sweep, arms, f, despite_differences, within) for f in factors]
    counting = leave_out_replaced(sweep)
    signs = diagnose(counting)
    names = shorten_levels(arms)
    notes = describe_sweep(sweep, counting, arms, names)
    if within is None and compare in (None, sweep.compare):
        notes += _describe_within(sweep, arms)
    return Summary(
        sweep=sweep,
        progress=progress,
        arms=arms,
        comparisons=tuple(
            t._replace(notes=tuple(describe_comparisons(t, sweep, arms[0], names)))
            for t in compared
        ),
        factorial=find_effects(arms, despite_differences, within, sweep.find_names_of("variant")),
        costs=tuple(measure_costs(arms)),
        scalings=tuple(scale_epochs(arms, sweep.find_names_of("epochs"), despite_differences)),
        predictions=tuple(measure_predictions(sweep, arms)),
        suites=tuple(suite for table in compared for suite in build_suites(table)),
        signs=signs,
        notes=tuple(notes + describe_signs(counting, signs, names)),
        reference=None if reference is None else list_beside(reference, arms),
    )


def describe_comparisons(
    table: ComparisonTable, sweep: Sweep, arm: Arm, names: ShortNames
) -> list[str]:
    """Return the notes beside one table of verdicts; `arm` is any of the sweep's."""
    if not table.rows:
        if table.apart:
            said = f"the levels of {table.factor} differ in {' and '.join(table.apart)} too"
            return [f"Nothing to compare: {said}{_describe_other_way(table, sweep, arm)}."]
        return [f"Nothing to compare: {table.factor} has one level here."]
    notes = describe_averaging(table.averaged, table.rows[0].level)
    notes += [_describe_differences(row, names) for row in table.rows if row.differences]
    decided = [row for row in table.rows if row.verdict.has_decision]
    if decided:
        notes += _describe_limits(decided, names)
        notes += describe_shared((row.baseline, row.level) for row in decided)
    return notes


def describe_aggregates(table: ComparisonTable, names: ShortNames) -> str:
    """Return the note beside the means over tasks of one table of verdicts."""
    left_out = say_left_out([_name_row(row, names) for row in table.rows if not is_pooled(row)])
    return (
        "Wins, losses, ties: of the row on these tasks, ties also where both are low; open: "
        "inconclusive. Mean difference: paired by seed within each task, "
        f"{CONFIDENCE:.0%} bootstrap of the task x seed blocks; with few seeds such an interval is "
        f"too narrow.{left_out}"
    )


def describe_sweep(
    sweep: Sweep, counting: Sweep, arms: Sequence[Arm], names: ShortNames
) -> list[str]:
    """Return the notes on the sweep as a whole; `counting` is the sweep without replaced trials."""
    notes = [
        "Returns are mean +- sample sd over training seeds; a trial's final return is the mean of "
        "its evaluation episodes. Floor: the better of doing nothing and acting at random. Both "
        f"low: below floor + {LOW_SHARE:.0%} of the way to 1,000.",
        _describe_hidden(sweep),
        _describe_planning(counting),
        _describe_missing(sweep, arms),
        _describe_diverged(counting, names),
        SEARCH_NOTE if is_scattered(sweep) else "",
        _describe_calls(counting),
        describe_machines(counting),
        describe_code(counting),
        *find_flags(sweep, names),
    ]
    return [note for note in notes if note]


def say_left_out(names: Sequence[str]) -> str:
    """Name what means over tasks have not: what fails may be what is hard."""
    if not names:
        return ""
    return f" Not in this table, for lack of a verdict or of seeds: {list_first(names)}."


def _name_row(row: Comparison, names: ShortNames) -> str:
    return f"{name_group(row.group, names)}, {_name_level(row, row.level, names)}"


def _name_level(row: Comparison, arm: Arm, names: ShortNames) -> str:
    return names.named(row.factor, arm.factors[row.factor])


def name_group(group: dict[str, Any], names: ShortNames) -> str:
    """Return a group's factors as printed, e.g. "reacher-easy, baseline, epochs 15,000"."""
    return ", ".join(names.list_apart(group))


def _describe_differences(row: Comparison, names: ShortNames) -> str:
    baseline, level = (_name_level(row, arm, names) for arm in (row.baseline, row.level))
    listed = "; ".join(str(difference) for difference in row.differences)
    said = "Compared despite differences" if row.verdict.has_decision else "Not comparable"
    return f"{said}, {name_group(row.group, names)}, {baseline} against {level}: {listed}."


def _describe_limits(decided: Sequence[Comparison], names: ShortNames) -> list[str]:
    counts = [row.verdict.num_seeds for row in decided]
    notes = [
        _describe_false_winners(counts),
        _describe_exact_tests(min(counts)),
        _describe_power(decided),
        _describe_both_low(decided, names),
        f"Intervals: {CONFIDENCE:.0%} Welch t over seeds.{_describe_evidence(decided)}",
    ]
    if any(row.verdict.is_open for row in decided):
        notes.append(
            "Inconclusive (k seeds): k seeds an arm would decide if means and sds stay as they "
            "are. Fix the number beforehand: adding seeds until somebody wins finds a winner."
        )
    return [note for note in notes if note]


def _describe_evidence(decided: Sequence[Comparison]) -> str:
    if not any(row.evidence for row in decided):
        return ""
    tests = sum(
        row.verdict.welch is not None and row.verdict.welch.p is not None for row in decided
    )
    return (
        " Evidence of a win: suggestive (the rule only), supported (Welch p < .05), confirmed "
        f"(also after Holm over the {number_of(tests, 'test')} of this table, and {CONFIRM_SEEDS} "
        "seeds or more)."
    )


def _describe_false_winners(counts: Sequence[int]) -> str:
    expected = expected_false_winners(counts)
    rates = ", ".join(f"{rate:.0%} at n={n}" for n, rate in FALSE_WINNER_RATES.items())
    return (
        f"If no arms differed, about {expected:.1f} spurious winners would be expected in "
        f"{number_of(len(counts), 'comparison')} (simulated rate of this rule: {rates})."
    )


def _describe_exact_tests(num_seeds: int) -> str:
    unpaired, paired = smallest_exact_p(num_seeds)
    if unpaired < 1.0 - CONFIDENCE:
        return ""
    return (
        f"With {number_of(num_seeds, 'seed')} no exact test can reach p < .05 (smallest: "
        f"{unpaired:.2f} unpaired, {paired:.2f} paired)."
    )


def _describe_power(decided: Sequence[Comparison]) -> str:
    """Say which difference n seeds can support, given this table's spread."""
    arms = {id(arm): arm for row in decided for arm in (row.baseline, row.level)}  # each once
    sds = [arm.sd for arm in arms.values() if arm.sd is not None]
    num_seeds = min(row.verdict.num_seeds for row in decided)
    sd = math.sqrt(median(sd**2 for sd in sds)) if sds else 0.0
    if not sd or num_seeds < 2:
        return ""
    error = sd * math.sqrt(2.0 / num_seeds)
    wins = max(MIN_DIFFERENCE, MIN_STANDARD_ERRORS * error)
    return (
        f"What {num_seeds} seeds support: at this table's median sd of {sd:.0f} a difference wins "
        f"from {wins:.0f} points on, and a true one of {wins + POWER_ERRORS * error:.0f} points "
        "would win about four times in five; a smaller one that wins looks larger than it is."
        f"{_describe_widest(decided, wins)}"
    )


def _describe_widest(decided: Sequence[Comparison], usual: float) -> str:
    """Say what wins where two arms spread far more than in the middle of the table."""
    errors = [row.verdict.welch.standard_error for row in decided if row.verdict.welch is not None]
    wins = MIN_STANDARD_ERRORS * max((error for error in errors if error is not None), default=0.0)
    if wins < UNLIKE_SPREADS * usual:
        return ""
    return f" Where two arms spread most, it takes {wins:.0f} points."


def _describe_both_low(decided: Sequence[Comparison], names: ShortNames) -> str:
    """Name what the order of the rule hides: on some tasks even the best agents return little."""
    apart = [row for row in decided if is_low_but_apart(row.verdict)]
    told = [
        f"{_name_row(row, names)} {row.verdict.welch.difference:+z.0f}"
        for row in apart
        if row.verdict.welch is not None
    ]
    if not told:
        return ""
    return (
        "Tie (Both Low): neither arm has learned the task by that measure, not that both are "
        f"alike. By their difference one would win in {len(told)} of these: {list_first(told)}."
    )


def _describe_hidden(sweep: Sweep) -> str:
    """Say that tasks were chosen: whoever sees the choice alone would take it for the sweep."""
    if not sweep.num_hidden_tasks:
        return ""
    num_shown = len({trial.factors["task"] for trial in sweep.trials})
    return (
        f"Shown: {num_shown} of the sweep's {num_shown + sweep.num_hidden_tasks} tasks. "
        "Corrections, and means over tasks, are of these alone."
    )


def _describe_planning(sweep: Sweep) -> str:
    planned = [trial for trial in sweep.usable if len(trial.plan_returns)]
    if not planned:
        return ""
    # An imported trial has one row for all its episodes, however many they were.
    known = {len(trial.plan_returns) for trial in planned if not trial.record.get("origin")}
    counts = " or ".join(map(str, sorted(known)))
    where = f", on the first {counts} of the evaluation episodes" if known else ""
    return (
        f"Plan return: the same agent acting by the planner (MPPI over its world model){where}; "
        "no verdict rests on it."
    )


def _describe_missing(sweep: Sweep, arms: Sequence[Arm]) -> str:
    # A search's arms are single trials, of which many are stopped early on purpose.
    num_short = 0 if is_scattered(sweep) else sum(not arm.is_complete for arm in arms)
    num_rowless = sweep.num_planned - len(sweep.trials)
    said = []
    if num_short:
        said.append(f"Short of seeds: {num_short} of {number_of(len(arms), 'arm')}; see n.")
    if num_rowless:
        said.append(
            f"Without a row yet: {number_of(num_rowless, 'trial')} of the grid, not counted in n."
        )
    return " ".join(said)


def _describe_diverged(sweep: Sweep, names: ShortNames) -> str:
    """Say whom missing seeds flatter: that a trial diverged is a result, and no mean has it."""
    averaged = {tuple(trial.factors.items()) for trial in sweep.usable}
    lost = [
        names.name_trial(trial)
        for trial in sweep.trials
        if not trial.is_usable and trial.has_diverged and tuple(trial.factors.items()) in averaged
    ]
    if not lost or is_scattered(sweep):
        return ""
    return (
        f"{describe_trials(lost, 'that diverged, without a return')}. The mean of such an arm is "
        "of the seeds that did not, and flatters it."
    )


def _describe_other_way(table: ComparisonTable, sweep: Sweep, arm: Arm) -> str:
    """Say how two sweeps are compared along the one factor that keeps them apart."""
    (name, *more) = table.apart
    if table.factor != SWEEP or more or name not in sweep.varies or name in UNCOMPARED:
        return ""
    kept = [factor for factor in arm.factors if factor not in ("task", SWEEP, name)]
    return f" (to compare that: --compare {name} --within {','.join(kept)})"


def _describe_within(sweep: Sweep, arms: Sequence[Arm]) -> list[str]:
    """Say how to get the sweep's own comparison, if that averages over factors."""
    if not sweep.within or is_scattered(sweep):
        return []
    left_out = find_left_out(arms, sweep.find_bound(sweep.compare), sweep.within)
    if not left_out:
        return []
    return [
        f"The sweep compares within {', '.join(sweep.within)}: --within {','.join(sweep.within)} "
        f"averages over {' and '.join(left_out)}, seed by seed."
    ]


def _describe_calls(sweep: Sweep) -> str:
    """Say where variants differ in network calls per step: no control, but a cost."""
    calls = {}
    for trial in sweep.usable:
        if trial.record["velocity_calls"] is not None:  # imported trials do not say
            calls.setdefault(trial.factors["variant"], set()).add(trial.record["velocity_calls"])
    if len(set().union(*calls.values())) < 2:
        return ""
    listed = "; ".join(
        f"{variant} {', '.join(map(str, sorted(nums)))}" for variant, nums in calls.items()
    )
    return (
        f"Network calls of one model step plus one action differ: {listed}. One of the world model "
        "costs more than one of the policy: `pwmray models` counts FLOPs."
    )
