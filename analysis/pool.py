"""Average arms, seed by seed, over factors that are not kept apart.

The training seed stays the unit: an arm's return at a seed becomes the mean over the levels of the
factors left out, so that three collections of data do not turn three seeds into nine.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import TypeVar

from analysis.arms import Arm, order_arms
from analysis.guard import Difference, find_differences
from analysis.load import format_value

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


def pool_arms(
    arms: Sequence[Arm], compared: Sequence[str], within: Sequence[str] | None
) -> list[Arm]:
    """Return one arm for each task, level of `compared` and combination of the factors `within`.

    `compared` has the factor compared first, then those that its levels set. If nothing is left to
    average over, the arms are returned as they are. Raises ValueError for a name in `within` that
    is no factor of the arms.
    """
    factors = list(arms[0].factors)
    for name in within or ():
        if name not in factors:
            valid = ", ".join(factor for factor in factors if factor not in compared)
            raise ValueError(f"--within: {name!r} does not vary here; valid: {valid}")
    if within is None or not find_left_out(arms, compared, within):
        return list(arms)
    kept = ("task", compared[0], *within)
    groups: dict[tuple, list[Arm]] = {}
    for arm in arms:
        key = tuple(level for name, level in arm.factors.items() if name in kept)
        groups.setdefault(key, []).append(arm)
    named = [name for name in factors if name in (*kept, *compared)]
    # Averages need ordering anew: an arm to which the compared factor does not apply may be first.
    return order_arms([_pool(parts, named) for parts in groups.values()])


def find_left_out(
    arms: Sequence[Arm], compared: Sequence[str], within: Sequence[str] | None
) -> list[str]:
    """Return the factors that pooling averages over: those that vary and are not kept apart."""
    if within is None:
        return []
    kept = ("task", *compared, *within)
    return [
        name
        for name in arms[0].factors
        if name not in kept and len({arm.factors[name] for arm in arms}) > 1
    ]


def group_rows(
    rows: Iterable[T], key_of: Callable[[T], K], is_in: Callable[[T], bool]
) -> dict[K, list[T]]:
    """Return the rows that are in, by key, in the order of all: the first of a key may be out."""
    groups: dict[K, list[T]] = {}
    for row in rows:
        group = groups.setdefault(key_of(row), [])
        if is_in(row):
            group.append(row)
    return {key: group for key, group in groups.items() if group}


def describe_averaging(averaged: Sequence[str], pooled: Arm) -> list[str]:
    """Say over what an arm is an average, if it is one."""
    if not averaged:
        return []
    return [
        f"Each seed's return is the mean over {' and '.join(averaged)} ({len(pooled.parts)} "
        "trials), so that n stays the number of training seeds."
    ]


def compare_controls(
    compare: str, baseline: Arm, level: Arm, keys: Sequence[str] = ()
) -> list[Difference]:
    """Return the controls that differ between two arms; pooled arms are compared part by part.

    Parts are paired by their levels of the factors averaged over. Unpaired parts are a difference,
    with two exceptions: a single part on either side is paired whatever its levels; and where a
    factor does not apply to one side, each of its parts is paired with all matching parts of the
    other, if these are equally many for each.
    """
    if not baseline.parts:
        return find_differences(compare, baseline.compared, level.compared, keys)
    ours, theirs = _by_left_out(baseline), _by_left_out(level)
    pairs = [(ours[key], theirs[key]) for key in ours if key in theirs]
    if len(ours) == len(theirs) == 1:
        pairs = list(itertools.product(ours.values(), theirs.values()))
    elif wider := _spread_over(ours, theirs):
        pairs = [(ours[own], theirs[key]) for key, own in wider.items()]
    elif wider := _spread_over(theirs, ours):
        pairs = [(ours[key], theirs[own]) for key, own in wider.items()]
    elif set(ours) != set(theirs):
        return [Difference("averaged over", _say(ours, theirs), _say(theirs, ours))]
    found = [find_differences(compare, a.compared, b.compared, keys) for a, b in pairs]
    return list(dict.fromkeys(difference for some in found for difference in some))


def _spread_over(parts: Collection[tuple], others: Collection[tuple]) -> dict[tuple, tuple]:
    """Return, for each of `others`, the one of `parts` that agrees where its factors apply.

    Empty if some have none or several, or if not every one of `parts` gets equally many: they
    would then weigh differently in the averages.
    """
    found = {
        key: [own for own in parts if all(dict(own).get(n) in (level, None) for n, level in key)]
        for key in others
    }
    counts = Counter(own for owns in found.values() for own in owns)
    is_even = len(counts) == len(parts) and len(set(counts.values())) == 1
    if not is_even or any(len(owns) != 1 for owns in found.values()):
        return {}
    return {key: own for key, (own,) in found.items()}


def _by_left_out(arm: Arm) -> dict[tuple, Arm]:
    return {
        tuple(item for item in part.factors.items() if item[0] not in arm.factors): part
        for part in arm.parts
    }


def _say(parts: dict[tuple, Arm], others: dict[tuple, Arm]) -> str:
    """Name the parts by their levels, of the factors in which any of all parts differ."""
    seen = [item for key in (*parts, *others) for item in key]
    varied = {name for name, level in seen if any(n == name and v != level for n, v in seen)}
    listed = [
        ", ".join(f"{name} {format_value(level)}" for name, level in key if name in varied)
        for key in parts
    ]
    return "; ".join(listed)


def _pool(parts: Sequence[Arm], names: Sequence[str]) -> Arm:
    """Return the average of some arms; differing levels of one factor are joined as text."""
    found = {name: list(dict.fromkeys(part.factors[name] for part in parts)) for name in names}
    kinds = {part.kinds for part in parts}
    return Arm(
        factors={
            name: levels[0] if len(levels) == 1 else " and ".join(map(format_value, levels))
            for name, levels in found.items()
        },
        trials=(),
        planned=frozenset().union(*(part.planned for part in parts)),
        kinds=kinds.pop() if len(kinds) == 1 else ("", ""),
        diverged=frozenset().union(*(part.diverged for part in parts)),
        parts=tuple(parts),
    )
