"""The tables of the 2x2 and of the view over the suite, as text; nothing is computed here."""

from collections.abc import Sequence
from typing import Any

from analysis.compare import mark_despite
from analysis.factorial import EFFECTS_NOTE, Factorial, TaskEffects, is_pooled
from analysis.formats.grid import Grid, format_p, format_range, name_levels
from analysis.load import format_span
from analysis.report import Summary, name_group, say_left_out
from analysis.short_names import ShortNames
from analysis.stats import Interval, mean
from analysis.suite import THRESHOLDS, Suite
from analysis.verdict import CONFIDENCE, RETURN_MAX
from pwmray.tasks import find_task

SHOWN_THRESHOLDS = (100, 250, 500, 750, 900)  # columns of the table; figures have all
SUITE_NOTE = (
    "Over the suite: scores are returns / 1,000. IQM: mean of the middle half of all runs. Gap: "
    "mean shortfall from 1. Improvement: chance that a run beats one of the baseline on a task "
    f"drawn at random. [ ]: {CONFIDENCE:.0%} bootstrap of seeds within tasks; with few seeds it is "
    "too narrow."
)

IQM_NOTE = (
    "Tasks differ in their number of seeds. IQM is taken over runs, so tasks with more seeds weigh "
    "more in it; in all other columns tasks weigh the same."
)


def list_suite_grids(summary: Summary, names: ShortNames) -> list[Grid]:
    """Return the tables of the 2x2, then those of every suite."""
    grids = []
    if summary.factorial.tasks:
        grids.append(_effect_grid(summary.factorial, names))
    if summary.factorial.suite:
        grids.append(_suite_effect_grid(summary.factorial, names))
    profiles: list[Any] = []  # shown: along another factor the same runs have the same
    for factor in dict.fromkeys(suite.factor for suite in summary.suites):
        suites = [suite for suite in summary.suites if suite.factor == factor]
        grids.append(_level_grid(suites, names))
        if (found := _list_profiles(suites)) not in profiles:
            grids.append(_profile_grid(suites, names))
            profiles.append(found)
    return grids


def _effect_grid(found: Factorial, names: ShortNames) -> Grid:
    tasks, rows = found.tasks, []
    for task in tasks:
        shared = [*name_levels(task.group, names), " + ".join(task.kinds)]
        if task.problem:
            rows.append((*shared, task.problem, *["-"] * 5))
        rows += [
            (
                *shared,
                effect.name,
                str(min(len(cell.returns) for cell in task.cells)),
                f"{effect.estimate:+z.1f}",
                format_range(effect.low, effect.high),
                format_p(effect.p),
                format_p(effect.p_holm),
            )
            for effect in task.effects
        ]
    numbers = ("n", "points", f"{CONFIDENCE:.0%} interval", "p", "p Holm")
    headers = (*tasks[0].group, "with", "effect", *numbers)
    corrected = _describe_holm([effect.p for task in tasks for effect in task.effects])
    notes = (*_describe_effects(tasks, names), *corrected, *found.notes)
    return Grid("The 2x2: effects by task", headers, rows, notes)


def _describe_effects(tasks: Sequence[TaskEffects], names: ShortNames) -> tuple[str, ...]:
    notes = [EFFECTS_NOTE]
    notes += [
        f"{'Not comparable' if task.problem else 'Given despite differences'}, "
        f"{name_group(task.group, names)}: {'; '.join(map(str, task.differences))}."
        for task in tasks
        if task.differences
    ]
    return tuple(notes)


def _describe_holm(ps: Sequence[float | None]) -> list[str]:
    """Return a note on what a table's p values are corrected for."""
    number, level = sum(p is not None for p in ps), 1.0 - CONFIDENCE
    if number < 2:
        return []
    return [
        f"p is for one test alone: without any true effect, about {number * level:.1f} of {number} "
        f"would lie below {format_p(level)}. p Holm is corrected for all {number} of this table."
    ]


def _suite_effect_grid(found: Factorial, names: ShortNames) -> Grid:
    effects = found.suite
    rows = [
        (
            *name_levels(effect.group, names),
            " + ".join(effect.kinds),
            effect.name,
            str(effect.num_tasks),
            str(effect.num_blocks),
            f"{effect.interval.estimate:+z.1f}",
            format_range(effect.interval.low, effect.interval.high),
            format_range(effect.over_blocks.low, effect.over_blocks.high),
            format_p(effect.over_blocks.p),
            format_p(effect.over_blocks.p_holm),
        )
        for effect in effects
    ]
    numbers = ("points", f"{CONFIDENCE:.0%} bootstrap", f"{CONFIDENCE:.0%} t", "p", "p Holm")
    headers = (*effects[0].group, "with", "effect", "tasks", "blocks", *numbers)
    note = (
        "Paired by seed. The bootstrap draws seeds within these tasks and is too narrow with few "
        "seeds. t and p treat all task x seed blocks as independent, so that differences between "
        "tasks widen the interval. Both are about these tasks: conclusions about others take more "
        "tasks, not more seeds."
        + say_left_out(
            [name_group(task.group, names) for task in found.tasks if not is_pooled(task)]
        )
    )
    title = mark_despite("The 2x2: effects over tasks", any(e.despite_differences for e in effects))
    corrected = _describe_holm([effect.over_blocks.p for effect in effects])
    return Grid(title, headers, rows, (note, *corrected, *found.notes))


def _level_grid(suites: Sequence[Suite], names: ShortNames) -> Grid:
    rows = [
        (
            *name_levels(suite.group, names),
            names.label(suite.factor, level.level),
            str(len(suite.tasks)),
            format_span(suite.num_seeds),
            f"{level.mean:z.0f}",
            _format_interval(level.interquartile),
            _format_interval(level.gap),
            "-" if level.improvement is None else _format_interval(level.improvement),
        )
        for suite in suites
        for level in suite.levels
    ]
    headers = (
        *(*suites[0].group, suites[0].factor, "tasks", "n"),
        *("mean return", "IQM", "gap", "improvement"),
    )
    left_out = dict.fromkeys(task for suite in suites for task in suite.left_out)
    floors = [find_task(task).floor for suite in suites for task in suite.tasks]
    notes = (
        SUITE_NOTE,
        f"Floors are not taken off: of themselves they score {mean(floors) / RETURN_MAX:.2f} here.",
        *([IQM_NOTE] if any(len(set(suite.num_seeds)) > 1 for suite in suites) else []),
        *(
            [f"Left out (undecided, with other levels, or with one seed): {', '.join(left_out)}."]
            if left_out
            else []
        ),
    )
    return Grid(_mark_title("Over the suite", suites), headers, rows, notes)


def _profile_grid(suites: Sequence[Suite], names: ShortNames) -> Grid:
    places = [THRESHOLDS.index(threshold) for threshold in SHOWN_THRESHOLDS]
    rows = [
        (
            *name_levels(suite.group, names),
            names.label(suite.factor, level.level),
            *(f"{level.profile[place].estimate:z.2f}" for place in places),
        )
        for suite in suites
        for level in suite.levels
    ]
    headers = (*suites[0].group, suites[0].factor, *(f"> {at}" for at in SHOWN_THRESHOLDS))
    title = _mark_title("Performance profile: share of runs above a return", suites)
    return Grid(title, headers, rows, ())


def _list_profiles(suites: Sequence[Suite]) -> set[Any]:
    """Return every level's tasks and profile, whatever the order of the factors."""
    return {
        (frozenset({**suite.group, suite.factor: level.level}.items()), suite.tasks, level.profile)
        for suite in suites
        for level in suite.levels
    }


def _mark_title(title: str, suites: Sequence[Suite]) -> str:
    is_despite = any(suite.despite_differences for suite in suites)
    return mark_despite(f"{title}, by {suites[0].factor}", is_despite)


def _format_interval(interval: Interval) -> str:
    return f"{interval.estimate:z.2f} {format_range(interval.low, interval.high, 2)}"
