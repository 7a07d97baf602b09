"""Whether what a sweep compares is of one size: else its summary gives no verdict."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from pwmray.build import count_parameters
from pwmray.config import TrialConfig
from pwmray.plan import Plan, PlannedTrial
from pwmray.variants import PARAMETER_TOLERANCE, SETS_VARIANT

BASELINE = "baseline"


class _Arm(NamedTuple):
    """What a sweep compares, whatever its task and seed."""

    level: Any  # of what is compared
    variant: str
    others: dict[str, Any]  # the levels of the other axes, None where one does not apply
    sizes: tuple[int, int]  # parameters trained, and frozen


def describe_unequal(plan: Plan) -> list[str]:
    """Return a line where kinds are compared that differ in their number of parameters."""
    keys = {plan.sweep.compare, *plan.sweep.axes[plan.sweep.compare]}
    if not keys & set(SETS_VARIANT) or "size" in keys:
        return []
    arms = _find_arms(plan.trials, plan.sweep.compare, keys)
    partial = [arm for arm in arms if None in arm.others.values()]
    for group in _group(arms):
        baseline = _find_baseline(group, _find_exempt(group[0], partial))
        unlike = [
            arm
            for arm in group
            if arm.level != baseline.level and any(map(_is_apart, baseline.sizes, arm.sizes))
        ]
        if unlike:
            shown = ", ".join(f"{arm.level} {sum(arm.sizes):,}" for arm in (baseline, *unlike))
            return [
                "note: the summary will not compare these, for their numbers of parameters are "
                f"more than {PARAMETER_TOLERANCE:.0%} apart: {shown}; by other widths they can be "
                "made alike, which pwmray models shows"
            ]
    return []


def _is_apart(one: int, other: int) -> bool:
    return max(one, other) - min(one, other) > PARAMETER_TOLERANCE * max(min(one, other), 1)


def _find_arms(trials: Sequence[PlannedTrial], compare: str, keys: Collection[str]) -> list[_Arm]:
    """Return the arms, whose `compare` axis sets the keys."""
    counted: dict[tuple, tuple[int, int]] = {}  # by shapes: a sweep of thousands of trials has few
    found: dict[tuple, _Arm] = {}
    for trial in trials:
        config = trial.config
        levels = {"variant": config.variant, **trial.levels}
        others = {"epochs": config.epochs, **trial.levels}
        others = {axis: level for axis, level in others.items() if axis not in keys}
        shapes = (config.world_model, config.policy, config.critic, config.fidelity)
        shapes = (*shapes, config.trains_world_model)
        if shapes not in counted:
            counted[shapes] = _count(config)
        arm = _Arm(levels.get(compare), config.variant, others, counted[shapes])
        found[(arm.level, *others.items())] = arm
    return list(found.values())


# As the summary does it (analysis/compare.py):


def _group(arms: Sequence[_Arm]) -> list[list[_Arm]]:
    """Return the arms that are compared with one another."""
    groups: dict[tuple, list[_Arm]] = {}
    for arm in arms:
        groups.setdefault(tuple(arm.others.items()), []).append(arm)
    return list(groups.values())


def _find_exempt(one: _Arm, arms: Sequence[_Arm]) -> list[_Arm]:
    """Return the arms to which axes of an arm's group do not apply, alike in the others."""
    return [
        arm
        for arm in arms
        if arm.others != one.others
        and all(arm.others[axis] in (level, None) for axis, level in one.others.items())
    ]


def _find_baseline(group: Sequence[_Arm], exempt: Sequence[_Arm]) -> _Arm:
    """Return the level or variant "baseline", else the first.

    An exempt one where the group has none, or has nothing to compare.
    """
    arms = [*group, *exempt]
    named = [arm for arm in arms if arm.level == BASELINE]
    named += [arm for arm in arms if arm.variant == BASELINE]
    if named:
        # At the level of a variant that stands outside the group, this may have one of another.
        inside = [arm for arm in group if arm.level == named[0].level]
        return inside[0] if inside and named[0] not in group else named[0]
    return exempt[0] if exempt and len(group) == 1 else group[0]


def _count(config: TrialConfig) -> tuple[int, int]:
    counts = count_parameters(config)
    frozen = 0 if config.trains_world_model else counts["world_model"]
    return sum(counts.values()) - frozen, frozen
