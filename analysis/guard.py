"""The comparability guard: what differs between two arms that must not, and what looks odd.

A difference blocks the verdict; a flag is only said beside the table.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from analysis.checked import read_config, read_settings
from analysis.load import SETS_VARIANT, Sweep, Trial, format_value
from analysis.verdict import RETURN_MAX
from pwmray.registry import flat_settings
from pwmray.results import TRAINED_WITH, UNKNOWN
from pwmray.tasks import find_task

CONTROLS = (
    "methodology",
    "fidelity",
    "evaluation_protocol",
    "evaluation_episodes",
    "code_version",
    "git_commit",
    "torch_version",
    "mujoco_version",
)
# The settings that a control follows from: comparing them, the control is what is compared.
FOLLOWS = {
    "methodology": ("world_model_from", "finetune_wm"),
    "fidelity": ("fidelity",),
    "data_fingerprint": ("data",),
}
SEED_CONTROLS = ("data_fingerprint", "world_model_from")  # may differ from seed to seed
TRAINING = "world_model_training"
PARAMETERS = ("world_model_parameters", "policy_parameters", "critic_parameters")
SHARED = ("world_model", "world_model_parameters", "fidelity")  # of two users of a checkpoint
# Settings that have a check of their own, and those of where and how fast a trial runs.
APART = ("world_model_from", "runtime")
DATA_SEED = "data.seed"  # may differ from seed to seed
SETS = {  # settings beyond its own that a compared key changes
    "variant": ("world_model", "policy"),
    "world_model.kind": ("world_model",),
    "policy.kind": ("policy",),
    "size": ("world_model", "policy", "critic"),
    "methodology": ("finetune_wm",),
}
SCRATCH = "scratch"  # in place of a checkpoint
NO_VALUE = object()  # in place of a setting that a config does not have
FROZEN = "policy_finetuning"  # the methodology that does not train its world model
PARAMETER_TOLERANCE = 0.02
FULL_EPISODES = 50  # evaluation episodes a final return should rest on
EXPLOITED = 5.0  # discounted symlog reward imagined in excess of the real one, at the least
SAME_RETURN = 0.01  # recorded and recomputed final returns closer than this agree


class Difference(NamedTuple):
    """One control that differs between two arms."""

    field: str
    baseline: str
    level: str

    def __str__(self) -> str:
        """Return the difference as printed."""
        return f"{self.field}: {self.baseline} against {self.level}"


def find_differences(
    compare: str, baseline: Sequence[Trial], level: Sequence[Trial], keys: Sequence[str] = ()
) -> list[Difference]:
    """Return the controls that differ between two arms that differ in the factor `compare`.

    `keys` are the config keys that the factor sets, where it has a name of its own.
    An arm whose own trials disagree differs too. An arm without trials differs in nothing.
    """
    if not baseline or not level:
        return []
    varied = {compare, *keys}
    parts = varied | {key.partition(".")[0] for key in varied}
    compared = {compare} | {name for name, causes in FOLLOWS.items() if parts & set(causes)}
    found = [_compare_control(name, baseline, level) for name in CONTROLS if name not in compared]
    found += [
        _compare_by_seed(name, baseline, level, "methodology" in compared)
        for name in SEED_CONTROLS
        if name not in compared and set(keys) != {name}
    ]
    if "world_model_from" not in varied:
        found.append(_compare_training(baseline, level))
    found.append(_compare_epochs("epochs" in varied, baseline, level))
    found.append(_compare_seeds(baseline, level))
    if varied & set(SETS_VARIANT) and "size" not in varied:  # two kinds must match in size
        found.append(_compare_parameters(baseline, level))
    found += _compare_settings(varied, baseline, level)
    return [difference for difference in found if difference is not None]


def find_flags(sweep: Sweep) -> list[str]:
    """Return what a reader should know about the sweep's evaluated trials, one line each."""
    usable = sweep.usable
    checks: tuple[tuple[str, Callable[[Trial], bool]], ...] = (
        ("whose recorded final return is not the mean of its episodes", _is_misrecorded),
        ("whose number of episodes is not the recorded one", _is_miscounted),
    )
    flags = [_list_trials(text, [t for t in usable if is_odd(t)]) for text, is_odd in checks]
    flags.append(_find_repeated(usable))
    flags.append(_list_trials("evaluated without usable episodes", _find_unusable(sweep)))
    flags.append(_find_several_data(usable))
    flags.append(_find_few_episodes(usable))
    flags += [_find_unmatched(field, usable) for field in PARAMETERS]
    return [flag for flag in flags if flag]


def _compare_settings(
    varied: set[str], baseline: Sequence[Trial], level: Sequence[Trial]
) -> list[Difference]:
    """Compare the whole config: two sweeps may hold different settings, or one that was edited.

    Left out is what is compared, the keys `varied`, and what follows from it, and the seed of the
    data where each training seed has one of its own, the same in both arms.
    """
    plain = {re.sub(r"\[\w+\]", "", key) for key in varied}  # without the kind that a key is for
    apart = (*APART, *plain, *(name for key in plain for name in SETS.get(key, ())))
    odd = {
        key: None
        for first in [read_settings(baseline[0].record)]
        for trial in (*baseline[1:], *level)
        for key in _find_odd(first, read_settings(trial.record), apart)
    }
    if DATA_SEED in odd and _is_by_seed(DATA_SEED, (*baseline, *level)):
        del odd[DATA_SEED]
    if not odd:
        return []
    ours, theirs = settings_of(baseline), settings_of(level)
    return [
        Difference(key, _join(list(ours.get(key, ["-"]))), _join(list(theirs.get(key, ["-"]))))
        for key in odd
    ]


def _is_by_seed(setting: str, trials: Sequence[Trial]) -> bool:
    """Tell whether all trials of one training seed have the same setting."""
    found: dict[int, set[Any]] = defaultdict(set)
    for trial in trials:
        found[trial.seed].add(dict(flat_settings(read_config(trial.record))).get(setting))
    return all(len(values) == 1 for values in found.values())


def _find_odd(
    one: dict[str, Any], other: dict[str, Any], apart: Sequence[str], prefix: str = ""
) -> Iterator[str]:
    """Yield the dotted keys in which two configs differ, but for those in and below `apart`."""
    if one is other:
        return
    for name in one | other:
        key, ours, theirs = f"{prefix}{name}", one.get(name, NO_VALUE), other.get(name, NO_VALUE)
        if ours == theirs or key in apart:
            continue
        if all(value is NO_VALUE or isinstance(value, dict) for value in (ours, theirs)):
            sides = [value if isinstance(value, dict) else {} for value in (ours, theirs)]
            yield from _find_odd(sides[0], sides[1], apart, f"{key}.")
        else:
            yield key


def settings_of(trials: Sequence[Trial]) -> dict[str, dict[str, None]]:
    """Return the values, as text and in order, of every (dotted) setting of some trials."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for trial in trials:
        for key, value in flat_settings(read_config(trial.record)):
            found[key][str(value)] = None
    return found


def _compare_control(
    field: str, baseline: Sequence[Trial], level: Sequence[Trial]
) -> Difference | None:
    ours, theirs = _values(field, baseline), _values(field, level)
    if len(set(ours) | set(theirs)) == 1:
        return None
    return Difference(field, _join(ours), _join(theirs))


def _compare_by_seed(
    field: str, baseline: Sequence[Trial], level: Sequence[Trial], may_lack: bool
) -> Difference | None:
    """Compare `field` between the trials that share a seed.

    Two kinds or sizes of world model, or a published and a corrected one, cannot share a
    checkpoint: there only its presence is compared, and not that where one arm `may_lack` it.
    """
    can_share = all(_values(name, baseline) == _values(name, level) for name in SHARED)
    only_presence = field == "world_model_from" and not can_share
    ours = {trial.seed: _read_source(trial, field, only_presence) for trial in baseline}
    theirs = {trial.seed: _read_source(trial, field, only_presence) for trial in level}
    odd = sorted(seed for seed in set(ours) & set(theirs) if ours[seed] != theirs[seed])
    if may_lack:
        odd = [seed for seed in odd if SCRATCH not in (ours[seed], theirs[seed])]
    if not odd:
        return None
    return Difference(field, _join([ours[s] for s in odd]), _join([theirs[s] for s in odd]))


def _compare_training(baseline: Sequence[Trial], level: Sequence[Trial]) -> Difference | None:
    """Compare how unlike checkpoints of two arms were trained, by seed, where both have one."""
    theirs = {trial.seed: trial for trial in level}
    pairs = [(trial, theirs[trial.seed]) for trial in baseline if trial.seed in theirs]
    trainings = [
        tuple(trial.record.get(TRAINING) for trial in pair)
        for pair in pairs
        if pair[0].record["world_model_from"] != pair[1].record["world_model_from"]
    ]
    odd = [
        (one, other)
        for one, other in trainings
        if one and other and (not _is_alike(one, other) or UNKNOWN in one.split())
    ]
    if not odd:
        return None
    return Difference(TRAINING, _join([one for one, _ in odd]), _join([two for _, two in odd]))


def _is_alike(one: str, other: str) -> bool:
    """Compare two trainings; the settings only where both tell them."""
    if TRAINED_WITH in one and TRAINED_WITH in other:
        return one == other
    return one.partition(TRAINED_WITH)[0] == other.partition(TRAINED_WITH)[0]


def _read_source(trial: Trial, field: str, only_presence: bool) -> Any:
    value = trial.record[field]
    return "a checkpoint" if only_presence and value != SCRATCH else value


def _compare_epochs(
    may_differ: bool, baseline: Sequence[Trial], level: Sequence[Trial]
) -> Difference | None:
    """Compare the epochs reached, with those asked for and, unless compared, between arms."""
    ours, theirs = _values("epochs_reached", baseline), _values("epochs_reached", level)
    is_any_short = any(is_short(trial) for trial in (*baseline, *level))
    if not is_any_short and (may_differ or len(set(ours) | set(theirs)) == 1):
        return None
    asked = _join(_values("epochs", baseline)), _join(_values("epochs", level))
    return Difference(
        "epochs_reached", f"{_join(ours)} of {asked[0]}", f"{_join(theirs)} of {asked[1]}"
    )


def _compare_seeds(baseline: Sequence[Trial], level: Sequence[Trial]) -> Difference | None:
    repeats = [Counter(trial.seed for trial in arm).most_common(1)[0] for arm in (baseline, level)]
    if all(times == 1 for _, times in repeats):
        return None
    said = [f"seed {seed} {times} times" if times > 1 else "once each" for seed, times in repeats]
    return Difference("seed", said[0], said[1])


def _compare_parameters(baseline: Sequence[Trial], level: Sequence[Trial]) -> Difference | None:
    """Compare the parameters that a trial trains; a frozen world model does not dilute them."""
    ours = [_count_trained(trial) for trial in baseline]
    theirs = [_count_trained(trial) for trial in level]
    share = _spread([*ours, *theirs])
    if share <= PARAMETER_TOLERANCE:
        return None
    return Difference("trained_parameters", _join(ours), f"{_join(theirs)} ({share:.1%} apart)")


def _count_trained(trial: Trial) -> int:
    is_frozen = trial.record["methodology"] == FROZEN
    counts = [trial.record[field] for field in PARAMETERS[1 if is_frozen else 0 :]]
    return sum(count for count in counts if count is not None)


def _spread(counts: Sequence[int]) -> float:
    """Return how much the largest count exceeds the smallest, as a share of the smallest."""
    return (max(counts) - min(counts)) / max(min(counts), 1)


def _find_unmatched(field: str, trials: Sequence[Trial]) -> str:
    """Say where variants give one part unlike sizes, though the sum may be within tolerance."""
    sizes = {t.factors["variant"]: t.record[field] for t in trials if t.record[field] is not None}
    if len(sizes) < 2 or _spread(list(sizes.values())) <= PARAMETER_TOLERANCE:
        return ""
    listed = "; ".join(f"{variant} {format_value(size)}" for variant, size in sizes.items())
    return f"{field} differ by {_spread(list(sizes.values())):.1%} between variants: {listed}"


def _values(field: str, trials: Sequence[Trial]) -> list[Any]:
    """Return the values that occur in `trials`, each once, in order of appearance."""
    return list(dict.fromkeys(trial.record[field] for trial in trials))


def _join(values: Sequence[Any]) -> str:
    return " and ".join(format_value(value) for value in dict.fromkeys(values))


def is_short(trial: Trial) -> bool:
    """Tell whether a trial stopped before the epochs asked for."""
    return trial.record["epochs_reached"] != trial.record["epochs"]


def is_at_floor(trial: Trial) -> bool:
    """Tell whether an evaluated trial is no better than doing nothing or acting at random."""
    return trial.final_return <= find_task(trial.record["task"]).floor


def is_exploiting(trial: Trial) -> bool:
    """Tell whether a trial imagines over twice what it gets."""
    imagined = trial.record["imagined_start_value"]
    real = trial.record["real_start_value"]
    if imagined is None or real is None:
        return False
    return imagined > 2 * real and imagined - real > EXPLOITED


def _is_misrecorded(trial: Trial) -> bool:
    recorded = trial.record["return_mean"]
    return recorded is None or not math.isclose(
        recorded, trial.final_return, rel_tol=0.0, abs_tol=SAME_RETURN
    )


def _is_miscounted(trial: Trial) -> bool:
    return trial.record["evaluation_episodes"] != trial.num_episodes


def _find_unusable(sweep: Sweep) -> list[Trial]:
    return [t for t in sweep.trials if t.record["status"] == "EVALUATED" and not t.is_usable]


def find_identical(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials of one task that end on the same episodes as another: one run twice?

    A task on which every episode returns the same number, 0 or 1,000, cannot tell.
    """
    same: dict[tuple, dict[str, Trial]] = defaultdict(dict)
    for trial in trials:
        same[(trial.record["task"], trial.returns.tobytes())][trial.record["trial"]] = trial
    return [
        trial
        for group in same.values()
        if len(group) > 1
        for trial in group.values()
        if not ((trial.returns == 0.0).all() or (trial.returns == RETURN_MAX).all())
    ]


def _find_repeated(trials: Sequence[Trial]) -> str:
    """Name what was trained twice, under settings that the sweep held at different times."""
    counts = Counter(str(trial) for trial in trials)
    names = [f"{name} ({count} trials)" for name, count in counts.items() if count > 1]
    said = "one seed of an arm, several trials, the last of which counts"
    return f"{said}: {_list_first(names)}" if names else ""


def _find_several_data(trials: Sequence[Trial]) -> str:
    """Name the arms of which trials with the same settings of data had several data."""
    arms: dict[tuple, dict[Any, Trial]] = defaultdict(dict)  # the first trial of each data
    for trial in trials:
        arm = tuple(map(format_value, trial.factors.values()))
        arms[arm].setdefault(trial.record["data_fingerprint"], trial)
    names = []
    for arm, firsts in arms.items():
        found = {name: trial for name, trial in firsts.items() if name is not None}
        settings = {str(read_settings(trial.record).get("data")) for trial in found.values()}
        if len(settings) < len(found):
            names.append(f"{' '.join(arm)} ({_join(list(found))})")
    said = f"{len(names)} {'arm' if len(names) == 1 else 'arms'} trained on several data"
    return f"{said}: {_list_first(names)}" if names else ""


def _find_few_episodes(trials: Sequence[Trial]) -> str:
    counts = [trial.num_episodes for trial in trials]
    fewest = min((count for count in counts if count is not None), default=FULL_EPISODES)
    if fewest >= FULL_EPISODES:
        return ""
    return f"a final return rests on {fewest} evaluation episodes; {FULL_EPISODES} or more are due"


def describe_trials(names: Sequence[str], text: str = "") -> str:
    """Count some trials, say what of them, and name the first few."""
    counted = f"{len(names)} {'trial' if len(names) == 1 else 'trials'}"
    return f"{counted}{text and f' {text}'}: {_list_first(names)}"


def _list_first(names: Sequence[str], shown: int = 3) -> str:
    more = f"; and {len(names) - shown} more" if len(names) > shown else ""
    return "; ".join(names[:shown]) + more


def _list_trials(text: str, trials: Sequence[Trial]) -> str:
    return describe_trials([str(trial) for trial in trials], text) if trials else ""
