"""Which arms a sweep compares with which: a plan looks ahead to what its summary will judge."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from pwmray.variants import SETS_VARIANT

BASELINE = "baseline"
ARM_FACTORS = ("task", "variant", "epochs")  # name an arm even where a sweep holds them


class Arm(Protocol):
    """Trials that differ in their seeds alone."""

    @property
    def factors(self) -> Mapping[str, Any]:
        """The level of each factor, None where it does not apply."""
        ...


A = TypeVar("A", bound=Arm)


def find_bound(factor: str, keys: Sequence[str]) -> tuple[str, ...]:
    """Return a factor and those that change along with it, where its levels set the `keys`.

    An axis with a name of its own may set the variant, or epochs, beside other settings.
    """
    bound = [name for name in keys if name in ARM_FACTORS and name != factor]
    if factor != "variant" and "variant" not in bound and set(keys) & set(SETS_VARIANT):
        bound.append("variant")
    return (factor, *bound)


def find_pairs(arms: Sequence[A], compared: Sequence[str]) -> list[tuple[A, A]]:
    """Return (baseline, arm) for each arm that has one: the two differ in factors `compared` alone.

    The first of `compared` tells levels apart, the others change along with it.
    """
    exempt = [arm for arm in arms if None in others(arm, compared).values()]
    return [
        (baseline, arm)
        for group in _group_arms(arms, compared)
        for baseline in [_find_baseline(group, _find_exempt(group[0], exempt, compared), compared)]
        for arm in group
        if arm.factors[compared[0]] != baseline.factors[compared[0]]
    ]


def others(arm: Arm, compared: Sequence[str]) -> dict[str, Any]:
    """Return an arm's levels of all factors but those `compared`."""
    return {name: level for name, level in arm.factors.items() if name not in compared}


def _group_arms(arms: Sequence[A], compared: Sequence[str]) -> list[list[A]]:
    """Return the arms that share all but the factors `compared`, in the order given."""
    groups: dict[tuple, list[A]] = {}
    for arm in arms:
        groups.setdefault(tuple(others(arm, compared).items()), []).append(arm)
    return list(groups.values())


def _find_exempt(arm: A, arms: Sequence[A], compared: Sequence[str]) -> list[A]:
    """Return those of `arms` that differ from an arm's group only in factors that do not apply.

    Without a flow there are no substeps: one baseline stands beside each number of them.
    """
    group = others(arm, compared)
    return [
        other
        for other in arms
        for theirs in [others(other, compared)]
        if theirs != group and all(theirs[name] in (level, None) for name, level in group.items())
    ]


def _find_baseline(group: Sequence[A], exempt: Sequence[A], compared: Sequence[str]) -> A:
    """Return the arm with the level or variant "baseline", else the first in the order given.

    It is one of the group; an `exempt` one where the group has none, or has nothing to compare.
    """
    arms = [*group, *exempt]
    named = [arm for name in compared for arm in arms if arm.factors[name] == BASELINE]
    if named:
        # At the level of a variant that stands outside the group, this may have one of another.
        level = named[0].factors[compared[0]]
        inside = [arm for arm in group if arm.factors[compared[0]] == level]
        is_own = not inside or any(arm is named[0] for arm in inside)
        return named[0] if is_own else inside[0]
    return exempt[0] if exempt and len(group) == 1 else group[0]
