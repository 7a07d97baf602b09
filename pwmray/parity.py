"""Whether what a sweep compares is of one size: else its summary gives no verdict."""

from collections.abc import Sequence
from typing import Any

from pwmray.build import count_parameters
from pwmray.config import TrialConfig
from pwmray.plan import Plan, PlannedTrial
from pwmray.variants import PARAMETER_TOLERANCE, SETS_VARIANT

Sizes = dict[Any, tuple[int, int]]  # by compared level: parameters trained, and frozen


def describe_unequal(plan: Plan) -> list[str]:
    """Return a line where kinds are compared that differ in their number of parameters."""
    keys = {plan.sweep.compare, *plan.sweep.axes[plan.sweep.compare]}
    if not keys & set(SETS_VARIANT) or "size" in keys:
        return []
    for sizes in _compared(plan.trials, plan.sweep.compare):
        first, *others = sizes.items()
        unlike = [other for other in others if any(map(_is_apart, first[1], other[1]))]
        if unlike:
            shown = ", ".join(f"{level} {sum(counts):,}" for level, counts in (first, *unlike))
            return [
                "note: the summary will not compare these, for their numbers of parameters are "
                f"more than {PARAMETER_TOLERANCE:.0%} apart: {shown}; by other widths they can be "
                "made alike, which pwmray models shows"
            ]
    return []


def _is_apart(one: int, other: int) -> bool:
    return max(one, other) - min(one, other) > PARAMETER_TOLERANCE * max(min(one, other), 1)


def _compared(trials: Sequence[PlannedTrial], compare: str) -> list[Sizes]:
    """Return the sizes of what is compared with one another, whatever the seed."""
    counted: dict[tuple, tuple[int, int]] = {}  # by shapes: a sweep of thousands of trials has few
    found: dict[tuple, Sizes] = {}
    for trial in trials:
        config = trial.config
        levels = {"variant": config.variant, **trial.levels}
        others = tuple((axis, str(v)) for axis, v in trial.levels.items() if axis != compare)
        shapes = (config.world_model, config.policy, config.critic, config.fidelity)
        shapes = (*shapes, config.trains_world_model)
        if shapes not in counted:
            counted[shapes] = _count(config)
        found.setdefault((config.epochs, *others), {})[levels.get(compare)] = counted[shapes]
    return list(found.values())


def _count(config: TrialConfig) -> tuple[int, int]:
    counts = count_parameters(config)
    frozen = 0 if config.trains_world_model else counts["world_model"]
    return sum(counts.values()) - frozen, frozen
