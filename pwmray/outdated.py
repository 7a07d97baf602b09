"""Trials of a sweep's settings that another version of the learner trained.

Where it gives settings another meaning, they have another fingerprint (`config.FORMAT`), are kept,
and do not count any more. Others count, and a summary does not compare them with those of today.
"""

import json
from collections.abc import Sequence
from typing import Any

from pwmray.config import TrialConfig
from pwmray.learner_code import LEARNER, kinds_of, name_code
from pwmray.plan import Plan, PlannedTrial
from pwmray.registry import Status
from pwmray.results import read_table

_CELL = ("task", "variant", "epochs", "seed")  # columns that tell most trials apart


def describe_outdated(plan: Plan) -> list[str]:
    """Return a line about the trials to run that an earlier version of the learner has done."""
    outdated = find_outdated(plan)
    if not outdated:
        return []
    are = "trials to run are" if len(outdated) > 1 else "trial to run is"
    return [
        f"note: {len(outdated)} {are} done by an earlier version of the learner, whose results do "
        f"not count here: {outdated[0]}{' and others' if outdated[1:] else ''}"
    ]


def describe_other_code(plan: Plan) -> list[str]:
    """Return a line about the trials that go on by other code than began them, one about done ones.

    Done ones are told where others of that code are still to run, which makes them two versions.
    """
    other = [trial for trial in plan.trials if trial.other_code]
    mixed = [trial for trial in other if trial.is_to_run and trial.epochs_done]
    asked = {name for trial in plan.to_run for name in name_code(kinds_of(trial.config)).values()}
    done = [trial for trial in other if trial.state == "done" and asked & {*trial.other_code}]
    lines = []
    if mixed:
        go = "trials go on that were" if len(mixed) > 1 else "trial goes on that was"
        lines.append(
            f"note: {len(mixed)} {go} begun by other code of {_name_code(mixed)}; to begin again, "
            f"delete from {plan.results}/trials: {_name_first(mixed)}"
        )
    if done:
        were = "trials were" if len(done) > 1 else "trial was"
        lines.append(
            f"note: {len(done)} done {were} trained by other code of {_name_code(done)} than those "
            f"to run will be, which no summary compares with them: {_name_first(done)}"
        )
    return lines


def _name_code(trials: Sequence[PlannedTrial]) -> str:
    names = dict.fromkeys(name for trial in trials for name in trial.other_code)
    return LEARNER if LEARNER in names else " and ".join(names)


def _name_first(trials: Sequence[PlannedTrial]) -> str:
    return f"{trials[0].config.fingerprint}{' and others' if trials[1:] else ''}"


def find_outdated(plan: Plan) -> list[str]:
    """Return the fingerprints that such trials have, by the sweep's table of before."""
    asked = {trial.config.fingerprint: _cell(trial.config) for trial in plan.to_run}
    if not asked:
        return []
    cells, known = set(asked.values()), {trial.config.fingerprint for trial in plan.trials}
    path = plan.results / plan.sweep.name / "trials.arrow"
    columns = ["trial", "status", "world_model_from", "config", *_CELL]
    try:
        rows = read_table(path, columns=columns).to_pylist()
    except (ValueError, OSError):  # there is none, or one that the tables replace
        return []
    return [
        row["trial"]
        for row in rows
        if row["status"] == Status.EVALUATED
        and row["trial"] not in known
        and tuple(row[name] for name in _CELL) in cells  # of the others no config is parsed
        and _fingerprint_now(row) in asked
    ]


def _cell(config: TrialConfig) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in _CELL)


def _fingerprint_now(row: dict[str, Any]) -> str | None:
    """Return the fingerprint that a trial's config has today, None where that cannot be told.

    Nor where its world model's file holds another one now: then not the learner is another.
    """
    try:
        config = TrialConfig.from_dict(json.loads(row["config"] or ""))
        if config.is_pretrained:
            model = row["world_model_from"] or ""  # its id, which ends in the file's digest
            if not model.endswith(config.world_model_digest[:8]):
                return None
        return config.fingerprint
    except (ValueError, OSError):
        return None
