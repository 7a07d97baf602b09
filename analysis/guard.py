"""The comparability guard: find what differs between two arms besides what is compared.

A difference blocks the verdict. Oddities that are only mentioned beside a table are in flags.py.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from analysis.checked import read_config
from analysis.load import Trial, format_value
from pwmray.registry import flat_settings
from pwmray.results import ADDED, TRAINED_AS, TRAINED_BY, TRAINED_WITH, UNKNOWN
from pwmray.variants import PARAMETER_TOLERANCE, SCRATCH, SETS_VARIANT

CODE = "code_fingerprint"  # alike under commits that do not change what computes results
OWN_CODE = {"world_model_code": "world_model", "policy_code": "policy"}  # of the kind that is there
CODE_OF_EARLIER = ("code_version", "git_commit")  # which count where that is not recorded
CONTROLS = (
    "methodology",
    "fidelity",
    "evaluation_protocol",
    "evaluation_episodes",
    CODE,
    *OWN_CODE,
    *CODE_OF_EARLIER,
    "torch_version",
    "mujoco_version",
    "dm_control_version",
)
# The settings that determine a control: where one of them is compared, so is the control.
CAUSES = {
    "methodology": ("world_model_from", "finetune_wm"),
    "fidelity": ("fidelity",),
    "data_fingerprint": ("data",),
}
SEED_CONTROLS = ("data_fingerprint", "world_model_from")  # may differ from seed to seed
TRAINING = "world_model_training"
PARAMETERS = ("world_model_parameters", "policy_parameters", "critic_parameters")
# What trials must agree in to be able to start from one checkpoint.
CHECKPOINT_FIELDS = ("world_model", "world_model_parameters", "fidelity")
# Settings with a check of their own, and those of where and how fast a trial runs.
CHECKED_ELSEWHERE = ("world_model_from", "runtime")
DATA_SEED = "data.seed"  # may differ from seed to seed
ALSO_SETS = {  # settings beyond its own that a compared key changes
    "size": ("world_model", "policy", "critic"),
    "methodology": ("finetune_wm",),
}
SETS_KIND_OF = {  # the parts whose kind a compared key changes
    "variant": ("world_model", "policy"),
    "world_model.kind": ("world_model",),
    "policy.kind": ("policy",),
}
# Settings that follow from a kind, besides those that it alone has: its widths are chosen to match
# the other kind's number of parameters.
KIND_SETTINGS = ("kind", "units", "encoder_units")
NO_VALUE = object()  # stands for a setting that a config does not have
FROZEN = "policy_finetuning"  # the methodology that does not train its world model


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
    """Return what differs between two arms besides the factor `compare`.

    `keys` are the config keys that the factor sets, if it has a name of its own. A control in which
    an arm's own trials disagree counts as a difference. An arm without trials has none.
    """
    if not baseline or not level:
        return []
    varied = {compare, *keys}
    parts = varied | {key.partition(".")[0] for key in varied}
    compared = {compare} | {name for name, causes in CAUSES.items() if parts & set(causes)}
    if all(trial.record.get(CODE) for trial in (*baseline, *level)):
        compared |= set(CODE_OF_EARLIER)
    found = [_compare_identity(baseline, level)]
    found += [_compare_control(name, baseline, level) for name in CONTROLS if name not in compared]
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
        found.append(_compare_parameters("trained_parameters", _count_trained, baseline, level))
        found.append(_compare_parameters("world_model_parameters", _count_frozen, baseline, level))
    found += _compare_settings(varied, baseline, level)
    return [difference for difference in found if difference is not None]


def _compare_identity(baseline: Sequence[Trial], level: Sequence[Trial]) -> Difference | None:
    """Find the trials that both arms have, as two sweeps may; none is compared with itself."""
    theirs = {trial.record["trial"] for trial in level}
    shared = [trial.record["trial"] for trial in baseline if trial.record["trial"] in theirs]
    return Difference("trial", join_values(shared), "the same") if shared else None


def _compare_settings(
    varied: set[str], baseline: Sequence[Trial], level: Sequence[Trial]
) -> list[Difference]:
    """Compare whole configs: two sweeps, or an edited one, may hold different settings.

    The compared keys `varied` and the settings that follow from them are ignored, and so is the
    seed of the data if it follows from the training seed, alike in both arms.
    """
    plain = {re.sub(r"\[\w+\]", "", key) for key in varied}  # without the kind that a key is for
    of_kinds = {part for key in plain for part in SETS_KIND_OF.get(key, ())}
    also_set = {name for key in plain for name in ALSO_SETS.get(key, ())}
    ignored = {*CHECKED_ELSEWHERE, *plain, *also_set}
    ignored |= {f"{part}.{name}" for part in of_kinds for name in KIND_SETTINGS}
    # Trials with the same settings share one object.
    first, *others = {id(t.settings): t.settings for t in (*baseline, *level)}.values()
    found = {k: None for other in others for k in _find_differing(first, other, ignored, of_kinds)}
    if DATA_SEED in found and _is_by_seed(DATA_SEED, (*baseline, *level)):
        del found[DATA_SEED]
    if not found:
        return []
    ours, theirs = settings_of(baseline), settings_of(level)
    return [_differ(key, ours.get(key, ["-"]), theirs.get(key, ["-"])) for key in found]


def _is_by_seed(setting: str, trials: Sequence[Trial]) -> bool:
    """Tell whether all trials of one training seed have the same setting."""
    found: dict[int, set[Any]] = defaultdict(set)
    for trial in trials:
        found[trial.seed].add(dict(flat_settings(read_config(trial.record))).get(setting))
    return all(len(values) == 1 for values in found.values())


def _find_differing(
    one: dict[str, Any],
    other: dict[str, Any],
    ignored: Collection[str],
    of_kinds: Collection[str],
    prefix: str = "",
) -> Iterator[str]:
    """Yield the dotted keys in which two configs differ, except those in and below `ignored`.

    In the parts `of_kinds`, a setting that only one config has is no difference: it is of a kind
    that the other does not have.
    """
    for name in one | other:
        key, ours, theirs = f"{prefix}{name}", one.get(name, NO_VALUE), other.get(name, NO_VALUE)
        is_of_one = NO_VALUE in (ours, theirs)
        if ours == theirs or key in ignored or (is_of_one and prefix[:-1] in of_kinds):
            continue
        if all(value is NO_VALUE or isinstance(value, dict) for value in (ours, theirs)):
            sides = [value if isinstance(value, dict) else {} for value in (ours, theirs)]
            yield from _find_differing(sides[0], sides[1], ignored, of_kinds, f"{key}.")
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
    part = OWN_CODE.get(field)  # of whose kinds each may have a value of its own
    known = {(part and t.record[part], t.record.get(field)) for t in (*baseline, *level)}
    if field in ADDED:  # not recorded by an earlier version: that is no difference
        known = {(kind, value) for kind, value in known if value is not None}
    is_one = len(known) <= len({kind for kind, _ in known})
    if is_one and not (part and any(is_mixed(value) for _, value in known)):
        return None
    return _differ(field, _values(field, baseline), _values(field, level))


def _compare_by_seed(
    field: str, baseline: Sequence[Trial], level: Sequence[Trial], may_lack: bool
) -> Difference | None:
    """Compare `field` between the trials that share a seed.

    Arms that differ in CHECKPOINT_FIELDS cannot start from one checkpoint: for them only whether
    there is one is compared, and not even that if an arm `may_lack` it.
    """
    only_presence = field == "world_model_from" and any(
        _values(name, baseline) != _values(name, level) for name in CHECKPOINT_FIELDS
    )
    ours = {trial.seed: _read_source(trial, field, only_presence) for trial in baseline}
    theirs = {trial.seed: _read_source(trial, field, only_presence) for trial in level}
    differing = sorted(seed for seed in set(ours) & set(theirs) if ours[seed] != theirs[seed])
    if may_lack:
        differing = [seed for seed in differing if SCRATCH not in (ours[seed], theirs[seed])]
    values = [ours[s] for s in differing], [theirs[s] for s in differing]
    return _differ(field, *values) if differing else None


def _compare_training(baseline: Sequence[Trial], level: Sequence[Trial]) -> Difference | None:
    """Compare, by seed, how the checkpoints of two arms were trained, if they are not the same."""
    theirs = {trial.seed: trial for trial in level}
    pairs = [(trial, theirs[trial.seed]) for trial in baseline if trial.seed in theirs]
    trainings = [
        (ours.record.get(TRAINING), other.record.get(TRAINING))
        for ours, other in pairs
        if ours.record["world_model_from"] != other.record["world_model_from"]
    ]
    differing = [
        (one, other)
        for one, other in trainings
        if one and other and (not _is_alike(one, other) or UNKNOWN in one.split())
    ]
    differing = differing or _find_mixed(trainings)
    return _differ(TRAINING, *zip(*differing, strict=True)) if differing else None


def _find_mixed(trainings: Sequence[tuple[str | None, str | None]]) -> list[tuple[str, str]]:
    """Return the pairs of two kinds if the own code of either is not one."""
    pairs = [(one, other) for one, other in trainings if one and other and _are_of_two(one, other)]
    own = {text.partition(TRAINED_AS)[2] for pair in pairs for text in pair}
    is_one = len(own) <= len({text.partition(" ")[0] for text in own})
    return [] if is_one and not any(map(is_mixed, own)) else pairs


def _are_of_two(one: str, other: str) -> bool:
    """Tell whether two trainings record the code of two kinds of world model."""
    own = [text.partition(TRAINED_AS)[2] for text in (one, other)]
    return all(own) and len({text.partition(" ")[0] for text in own}) == 2


def is_mixed(code: str | None) -> bool:
    """Tell whether a trial or checkpoint was trained by one code and then by another."""
    return " and " in (code or "")


def _is_alike(one: str, other: str) -> bool:
    """Tell whether two trainings agree; code and settings count only if both record them.

    So does the code of their kinds, if these are one.
    """
    for mark in (TRAINED_AS, TRAINED_BY, TRAINED_WITH):  # from the end
        is_of_two = mark == TRAINED_AS and _are_of_two(one, other)
        if is_of_two or not all(text.partition(mark)[2] for text in (one, other)):
            one, other = one.partition(mark)[0], other.partition(mark)[0]
    return one == other


def _read_source(trial: Trial, field: str, only_presence: bool) -> Any:
    value = trial.record[field]
    return "a checkpoint" if only_presence and value != SCRATCH else value


def _compare_epochs(
    may_differ: bool, baseline: Sequence[Trial], level: Sequence[Trial]
) -> Difference | None:
    """Compare the epochs reached with those asked for and, unless they vary, between arms."""
    ours, theirs = _values("epochs_reached", baseline), _values("epochs_reached", level)
    is_any_short = any(is_short(trial) for trial in (*baseline, *level))
    if not is_any_short and (may_differ or len(set(ours) | set(theirs)) == 1):
        return None
    sides = (ours, _values("epochs", baseline)), (theirs, _values("epochs", level))
    said = [f"{join_values(reached)} of {join_values(asked)}" for reached, asked in sides]
    return Difference("epochs_reached", *said)


def _compare_seeds(baseline: Sequence[Trial], level: Sequence[Trial]) -> Difference | None:
    repeats = [Counter(trial.seed for trial in arm).most_common(1)[0] for arm in (baseline, level)]
    if all(times == 1 for _, times in repeats):
        return None
    said = [f"seed {seed} {times} times" if times > 1 else "once each" for seed, times in repeats]
    return Difference("seed", said[0], said[1])


def _compare_parameters(
    what: str,
    count: Callable[[Trial], int | None],
    baseline: Sequence[Trial],
    level: Sequence[Trial],
) -> Difference | None:
    """Compare numbers of parameters, if both arms record them."""
    ours, theirs = ([n for n in map(count, arm) if n is not None] for arm in (baseline, level))
    share = spread([*ours, *theirs]) if ours and theirs else 0.0
    if share <= PARAMETER_TOLERANCE:
        return None
    return Difference(what, join_values(ours), f"{join_values(theirs)} ({share:.1%} apart)")


def _count_trained(trial: Trial) -> int:
    """Return the parameters that a trial trains, a frozen world model left out."""
    is_frozen = trial.record["methodology"] == FROZEN
    counts = [trial.record[field] for field in PARAMETERS[1 if is_frozen else 0 :]]
    return sum(count for count in counts if count is not None)


def _count_frozen(trial: Trial) -> int | None:
    """Return the parameters of a frozen world model; None for a trained one."""
    is_frozen = trial.record["methodology"] == FROZEN
    return trial.record["world_model_parameters"] if is_frozen else None


def spread(counts: Sequence[int]) -> float:
    """Return how much the largest count exceeds the smallest, as a share of the smallest."""
    return (max(counts) - min(counts)) / max(min(counts), 1)


def _values(field: str, trials: Sequence[Trial]) -> list[Any]:
    """Return the values that occur in `trials`, each once, in order of appearance."""
    return list(dict.fromkeys([trial.record[field] for trial in trials]))


def _differ(field: str, ours: Iterable[Any], theirs: Iterable[Any]) -> Difference:
    return Difference(field, join_values(ours), join_values(theirs))


def join_values(values: Iterable[Any]) -> str:
    """Return values as printed, each once."""
    return " and ".join(format_value(value) for value in dict.fromkeys(values))


def is_short(trial: Trial) -> bool:
    """Tell whether a trial stopped before the epochs asked for."""
    return trial.record["epochs_reached"] != trial.record["epochs"]
