"""A search's plan as a table for people and as JSON for machines."""

import json
from collections.abc import Mapping
from typing import Any

import optuna

from pwmray.learner_code import find_other_code
from pwmray.plan_text import duration_text
from pwmray.registry import Record
from pwmray.room import size_text
from pwmray.search import study
from pwmray.search.plan import SearchPlan
from pwmray.search.study import FINGERPRINT
from pwmray.wording import number_of

_NUM_SHOWN = 5  # of the best trials of each task


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
    lines += [*caution_lines(plan, studies), *other_lines(plan, journal), _tail(plan, studies)]
    return "\n".join(lines)


def as_summary(plan: SearchPlan) -> str:
    """Return the plan as two lines: what is searched at all, and what is left of it."""
    return f"{_head(plan)}\n{_tail(plan, plan.studies())}"


def other_lines(plan: SearchPlan, journal: study.Studies) -> list[str]:
    """Return a line for each task with trials in the journal that do not count in this search.

    Return a note, too, for each task with trials that count but were trained on other data than is
    there now, or by other code than this.
    """
    counts = {
        task: sum(len(study.outcomes(other)) for other in others)
        for task, others in journal.others.items()
    }
    lines = [
        f"{plan.folder / study.JOURNAL_FILE} has {number_of(number, 'trial')} of {task} from other "
        "settings of the search, not counted here"
        for task, number in counts.items()
        if number
    ]
    for task, records in plan.read_records(journal.by_task).items():
        counted = {
            "on data that has changed since": plan.count_on_other_data(task, records),
            "by other code of the learner": sum(map(_is_of_other_code, records)),
        }
        lines += [
            f"note: {number} of {task}'s trials were trained {how}; they count all the same"
            for how, number in counted.items()
            if number
        ]
    return lines


def _is_of_other_code(record: Record) -> bool:
    settings = record.last("config")  # None where the record cannot be read
    kinds = settings and {part: settings[part]["kind"] for part in ("world_model", "policy")}
    return bool(kinds and find_other_code(record, kinds))


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


def _head(plan: SearchPlan) -> str:
    number = number_of(plan.num_trials, "trial")
    return f"search {plan.search.name} at scale {plan.scale}, by task {number}"


def _tail(plan: SearchPlan, studies: Mapping[str, optuna.Study]) -> str:
    left = sum(plan.count_left(studies).values())
    device = plan.search.scales[plan.scale].get("device", "device")
    return (
        f"to run: {number_of(left, 'trial')}, about "
        f"{duration_text(left * plan.minutes / 60, device)} if none were stopped early, "
        f"disk {size_text(left * plan.trial_bytes)}"
    )


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
    states += ["begun" for name in begun if name and name not in ends]
    return {word: states.count(word) for word in (*words.values(), "begun") if word in states}


def _shown(values: Any) -> str:
    if isinstance(values, dict):
        scale = ", logarithmically" if values.get("log") else ""
        return f"{values['low']} to {values['high']}{scale}"
    return ", ".join(map(str, values))
