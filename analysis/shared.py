"""Say where training seeds share a pretrained world model or a collection of data.

Seeds that start from one checkpoint, or train on one collection, show how training on it varies,
but not how another one made with the same settings would have turned out.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from analysis.arms import Arm
from analysis.load import Trial
from pwmray.variants import SCRATCH


class Kind(NamedTuple):
    """Something made at random that several trials may share."""

    title: str
    one: str
    making: str  # what makes one
    find: Callable[[Trial], str | None]  # its id for a trial; None if it has none, or unknown


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
    """Return notes on what n counts where the arms of a group have different models or data.

    There is no note where the arms share theirs, or where every training seed has its own.
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
            f"{kind.making}s: another {kind.making} with the same settings may change a verdict."
        ]
    most = "" if {count.num_seeds for count in counts} == {worst.num_seeds} else "up to "
    return [
        f"{kind.title}: {worst.num} for {whose} compared, and {most}{worst.num_seeds} training "
        f"seeds. Seeds on one {kind.one} are not independent: intervals over seeds are too narrow "
        f"for conclusions about other {kind.making}s."
    ]


def _count(kind: Kind, arms: Sequence[Arm]) -> list[_Count]:
    """Return each arm's count; empty where all arms have the same ones."""
    found = [_find(kind, arm) for arm in arms]
    behind = [set().union(*by_seed.values()) for by_seed in found]
    if all(some == behind[0] for some in behind):
        return []
    return [
        _Count(len(some), len(by_seed), sum(map(len, by_seed.values())) > len(some))
        for some, by_seed in zip(behind, found, strict=True)
    ]


def _find(kind: Kind, arm: Arm) -> dict[int, set[str]]:
    """Return the ids behind the trials of each training seed."""
    by_seed: dict[int, set[str]] = {}
    for part in arm.parts or (arm,):
        for trial in part.counted:
            found = kind.find(trial)
            by_seed.setdefault(trial.seed, set()).update(() if found is None else (found,))
    return by_seed
