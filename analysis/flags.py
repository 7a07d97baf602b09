"""Find what looks odd about a sweep's trials: it is noted, but blocks no verdict."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from analysis.arms import leave_out_replaced
from analysis.guard import (
    CODE,
    OWN_CODE,
    PARAMETER_TOLERANCE,
    PARAMETERS,
    is_mixed,
    join_values,
    spread,
)
from analysis.load import EVALUATED, Sweep, Trial, format_value
from analysis.short_names import ShortNames
from pwmray.wording import number_of

FULL_EPISODES = 50  # evaluation episodes that a final return should rest on
SAME_RETURN = 0.01  # recorded and recomputed final returns closer than this agree


def find_flags(sweep: Sweep, names: ShortNames) -> list[str]:
    """Return what a reader should know about the trials that count, one line each."""
    counting = leave_out_replaced(sweep)
    usable = counting.usable
    misrecorded = [t for t in usable if _is_misrecorded(t)]
    miscounted = [t for t in usable if t.record["evaluation_episodes"] != t.num_episodes]
    mixed = [t for t in usable if _is_mixed(t)]
    unusable = [t for t in counting.trials if t.record["status"] == EVALUATED and not t.is_usable]
    flags = [
        _list_trials(
            misrecorded, "whose recorded final return is not the mean of its episodes", names
        ),
        _list_trials(mixed, "trained by more than one version of the code", names),
        _list_trials(miscounted, "whose number of episodes is not the recorded one", names),
        _find_repeated(sweep.usable, names),
        _list_trials(unusable, "evaluated without usable episodes", names),
        _find_several_data(usable, names),
        _find_few_episodes(usable),
        *(_find_unmatched(field, usable) for field in PARAMETERS),
    ]
    return [flag for flag in flags if flag]


def _find_unmatched(field: str, trials: Sequence[Trial]) -> str:
    """Say where variants give one part unlike sizes, even if the sum is within tolerance."""
    sizes = {t.factors["variant"]: t.record[field] for t in trials if t.record[field] is not None}
    share = spread(list(sizes.values())) if sizes else 0.0
    if share <= PARAMETER_TOLERANCE:
        return ""
    listed = "; ".join(f"{variant} {format_value(size)}" for variant, size in sizes.items())
    return f"{field} differ by {share:.1%} between variants: {listed}"


def _is_mixed(trial: Trial) -> bool:
    names = (CODE, *OWN_CODE) if trial.record[CODE] else ("git_commit",)
    return any(is_mixed(trial.record[name]) for name in names)


def _is_misrecorded(trial: Trial) -> bool:
    recorded = trial.record["return_mean"]
    return recorded is None or not math.isclose(
        recorded, trial.final_return, rel_tol=0.0, abs_tol=SAME_RETURN
    )


def _find_repeated(trials: Sequence[Trial], names: ShortNames) -> str:
    """Name what was trained more than once, as the sweep's held settings changed."""
    found: dict[tuple, list[Trial]] = defaultdict(list)
    for trial in trials:
        found[(*trial.factors.items(), trial.seed)].append(trial)
    repeated = [
        f"{names.name_trial(some[0])} ({len(some)} trials)"
        for some in found.values()
        if len(some) > 1
    ]
    said = "several trials of one seed of an arm, of which the latest counts"
    return f"{said}: {list_first(repeated)}" if repeated else ""


def _find_several_data(trials: Sequence[Trial], names: ShortNames) -> str:
    """Name the arms whose trials had the same settings of data, but not the same data."""
    arms: dict[tuple, dict[Any, Trial]] = defaultdict(dict)  # the first trial of each data
    for trial in trials:
        arm = tuple(trial.factors.items())
        arms[arm].setdefault(trial.record["data_fingerprint"], trial)
    several = []
    for arm, firsts in arms.items():
        found = {name: trial for name, trial in firsts.items() if name is not None}
        settings = {str(trial.settings.get("data")) for trial in found.values()}
        if len(settings) < len(found):
            several.append(f"{' '.join(names.list_apart(dict(arm)))} ({join_values(list(found))})")
    said = f"{number_of(len(several), 'arm')} trained on several datasets"
    return f"{said}: {list_first(several)}" if several else ""


def _find_few_episodes(trials: Sequence[Trial]) -> str:
    counts = [trial.num_episodes for trial in trials]
    fewest = min((count for count in counts if count is not None), default=FULL_EPISODES)
    if fewest >= FULL_EPISODES:
        return ""
    few = number_of(fewest, "evaluation episode")
    return f"a final return rests on only {few}, fewer than {FULL_EPISODES}"


def describe_trials(names: Sequence[str], text: str = "") -> str:
    """Return a count of some trials, `text` about them, and the first few names."""
    number = number_of(len(names), "trial")
    return f"{number}{text and f' {text}'}: {list_first(names)}"


def list_first(names: Sequence[str], shown: int = 3) -> str:
    """Return the first few names, and how many there are more."""
    more = f"; and {len(names) - shown} more" if len(names) > shown else ""
    return "; ".join(names[:shown]) + more


def _list_trials(trials: Sequence[Trial], text: str, names: ShortNames) -> str:
    return describe_trials([*map(names.name_trial, trials)], text) if trials else ""
