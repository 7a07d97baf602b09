"""Whether the arms that a sweep compares are of one size: if not, they get no verdict."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pwmray.pairing import find_bound, find_pairs, others
from pwmray.plan import Plan, PlannedTrial, count_all_parameters
from pwmray.variants import PARAMETER_TOLERANCE, SETS_VARIANT


class _Arm(NamedTuple):
    """What a sweep compares, whatever its task and seed."""

    factors: dict[str, Any]  # None where one does not apply
    sizes: tuple[int, int]  # parameters trained, and frozen


def describe_unequal(plan: Plan) -> list[str]:
    """Return a line if kinds that are compared differ in their number of parameters."""
    compare, keys = plan.sweep.compare, plan.sweep.axes[plan.sweep.compare]
    if not {compare, *keys} & set(SETS_VARIANT) or "size" in (compare, *keys):
        return []
    compared = find_bound(compare, keys)
    unlike: dict[tuple, list[_Arm]] = {}  # behind their baseline, by what they share
    for baseline, arm in find_pairs(_find_arms(plan.trials), compared):
        if any(map(_is_apart, baseline.sizes, arm.sizes)):
            shared = tuple(others(arm, compared).items())
            unlike.setdefault(shared, [baseline]).append(arm)
    if not unlike:
        return []
    first = next(iter(unlike.values()))
    shown = ", ".join(f"{arm.factors[compare]} {sum(arm.sizes):,}" for arm in first)
    return [
        "note: the summary will not compare these, whose numbers of parameters differ by more "
        f"than {PARAMETER_TOLERANCE:.0%}: {shown}; other widths can make them alike, see pwmray "
        "models"
    ]


def _is_apart(one: int, other: int) -> bool:
    return max(one, other) - min(one, other) > PARAMETER_TOLERANCE * max(min(one, other), 1)


def _find_arms(trials: Sequence[PlannedTrial]) -> list[_Arm]:
    found: dict[tuple, _Arm] = {}
    all_counts = count_all_parameters(trial.config for trial in trials)
    for trial, counts in zip(trials, all_counts, strict=True):
        config = trial.config
        frozen = 0 if config.trains_world_model else counts["world_model"]
        factors = {"variant": config.variant, "epochs": config.epochs, **trial.levels}
        found[tuple(factors.items())] = _Arm(factors, (sum(counts.values()) - frozen, frozen))
    return list(found.values())
