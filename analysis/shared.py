"""What training seeds share: pretrained world models and collections of data behind a verdict.

The seeds of an arm that start from one checkpoint, or train on one collection, tell how training
on it varies, and nothing of how another one made with the same settings would have come out.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from analysis.arms import Arm
from analysis.load import Trial
from pwmray.variants import SCRATCH


class Kind(NamedTuple):
    """Something that is made at random, once for several trials."""

    title: str
    one: str
    makings: str  # of several of it with the same settings
    find: Callable[[Trial], str | None]  # the one behind a trial; None without, or unknown


def _find_model(trial: Trial) -> str | None:
    found = trial.record["world_model_from"]
    return None if found == SCRATCH else found


KINDS = (
    Kind("Pretrained world models", "model", "pretraining", _find_model),
    Kind("Collections of data", "collection", "collection", lambda t: t.record["data_fingerprint"]),
)


class _Count(NamedTuple):
    """How many of a kind stand behind an arm, and behind how many training seeds."""

    num: int
    num_seeds: int
    is_shared: bool  # some seeds have one in common


def describe_shared(groups: Iterable[Sequence[Arm]]) -> list[str]:
    """Say what n counts, where the arms of a group are judged on unlike models or unlike data.

    Nothing is said where they have theirs in common, and where every training seed has its own.
    """
    groups = list(groups)
    return [note for kind in KINDS for note in _describe(kind, groups)]


def _describe(kind: Kind, groups: Sequence[Sequence[Arm]]) -> list[str]:
    counts = [count for arms in groups for count in _count(kind, arms)]
    scarce = [count for count in counts if count.num == 1 or count.is_shared]
    if not scarce:
        return []
    worst = min(scarce, key=lambda count: (count.num, -count.num_seeds))
    whose = "each arm" if {count.num for count in counts} == {worst.num} else "some of the arms"
    if worst.num == 1:
        return [
            f"{kind.title}: one for {whose} compared. n counts training seeds on it, not "
            f"{kind.makings}s: another {kind.makings} of the same settings may turn a verdict."
        ]
    most = "" if {count.num_seeds for count in counts} == {worst.num_seeds} else "up to "
    return [
        f"{kind.title}: {worst.num} for {whose} compared, and {most}{worst.num_seeds} training "
        f"seeds. Seeds on one {kind.one} share it: intervals over seeds are too narrow to speak of "
        f"other {kind.makings}s."
    ]


def _count(kind: Kind, arms: Sequence[Arm]) -> list[_Count]:
    """Return the count of each arm; none where the arms have the same ones."""
    found = [_find(kind, arm) for arm in arms]
    behind = [set().union(*by_seed.values()) for by_seed in found]
    if all(some == behind[0] for some in behind):
        return []
    return [
        _Count(len(some), len(by_seed), sum(map(len, by_seed.values())) > len(some))
        for some, by_seed in zip(behind, found, strict=True)
    ]


def _find(kind: Kind, arm: Arm) -> dict[int, set[str]]:
    """Return what stands behind the trials of each training seed."""
    by_seed: dict[int, set[str]] = {}
    for part in arm.parts or (arm,):
        for trial in part.counted:
            found = kind.find(trial)
            by_seed.setdefault(trial.seed, set()).update(() if found is None else (found,))
    return by_seed
