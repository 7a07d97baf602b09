"""Done trials of a sweep's settings that an earlier version of the learner trained.

They have another fingerprint (`config.FORMAT`), are kept, and do not count any more.
"""

import json

from pwmray.config import TrialConfig
from pwmray.plan import Plan
from pwmray.registry import Status
from pwmray.results import read_table


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


def find_outdated(plan: Plan) -> list[str]:
    """Return the fingerprints that such trials have, by the sweep's table of before."""
    asked = {trial.config.fingerprint for trial in plan.to_run}
    known = {trial.config.fingerprint for trial in plan.trials}
    path = plan.results / plan.sweep.name / "trials.arrow"
    try:
        rows = read_table(path, columns=["trial", "status", "config"]).to_pylist()
    except (ValueError, OSError):  # there is none, or one that the tables replace
        return []
    return [
        row["trial"]
        for row in rows
        if row["status"] == Status.EVALUATED
        and row["trial"] not in known
        and _fingerprint_now(row["config"]) in asked
    ]


def _fingerprint_now(config: str | None) -> str | None:
    """Return the fingerprint that a table's config has today; None for one of other settings."""
    try:
        return TrialConfig.from_dict(json.loads(config or "")).fingerprint
    except (ValueError, OSError):
        return None
