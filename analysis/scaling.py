"""Fit saturating curves of return against epochs, and say how many epochs are needed.

Both shapes start at the task's floor and have two parameters, the gain A and the scale tau:
floor + A (1 - exp(-E / tau)), and floor + A E / (E + tau), which approaches its plateau as a power
of E. Intervals are profiles of the residual sum of squares (F with 1 and N - 2 degrees of freedom,
each trial a point), so few seeds make them wide. The range given covers every shape that the data
do not distinguish from the best one.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import fdtrc, fdtri

from analysis.arms import Arm
from analysis.compare import mark_despite
from analysis.guard import Difference
from analysis.pool import compare_controls
from analysis.stats import sample_variance
from analysis.verdict import CONFIDENCE, RETURN_MAX, low_threshold
from pwmray.wording import number_of

SHARE = 0.9  # of the way from floor to plateau: what "needs" means
MIN_BUDGETS = 3
MAX_RATIO = 4.0  # of the range's ends: in a wider range no number is named
REACH = 2.0  # times the largest budget: there is no prediction beyond it
# Difference in Akaike's criterion below which shapes are not distinguished. With the customary 2
# the range misses the truth in one case of eight (benchmarks/calibration.py).
SAME_FIT = 6.0
GRID = np.geomspace(0.02, 100.0, 400)  # tau in units of the largest budget


class Shape(NamedTuple):
    """How a curve rises from 0 to 1, in units of tau."""

    name: str
    rise: Callable[[np.ndarray], np.ndarray]
    needed: float  # epochs for SHARE, in units of tau


class Fit(NamedTuple):
    """One shape fitted to the final returns of one arm at several budgets."""

    shape: str
    tau: float
    gain: float  # A; plateau = floor + gain
    residual: float  # sum of squares
    plateau: tuple[float, float]  # interval
    needed: tuple[float, float]  # interval of the epochs for SHARE; infinite where unbounded


class Scaling(NamedTuple):
    """What is known about one group's curve: the fits, and the answer in words."""

    group: dict[str, Any]  # the factors besides epochs
    floor: float
    budgets: tuple[int, ...]
    returns: tuple[tuple[float, ...], ...]  # by budget and seed
    fits: tuple[Fit, ...]  # those not distinguished from the best, best first; empty without a fit
    low: float | None  # the range of the epochs needed; None if nothing is fitted
    high: float | None
    answer: str  # "needs about N epochs ...", or "cannot tell: why"

    @property
    def is_known(self) -> bool:
        """Tell whether the answer is a number of epochs."""
        return not self.answer.startswith("cannot tell")


SHAPES = (
    Shape("exponential", lambda x: 1.0 - np.exp(-x), float(-np.log(1.0 - SHARE))),
    Shape("power", lambda x: x / (x + 1.0), SHARE / (1.0 - SHARE)),
)


def scale_epochs(
    arms: Sequence[Arm], budgets: Sequence[str] = (), despite_differences: bool = False
) -> list[Scaling]:
    """Return the scaling of every group of two arms or more that differ in epochs alone.

    `budgets` are factors whose levels set the epochs and nothing else. No curve is fitted to arms
    that lack seeds, nor, without `despite_differences`, to arms that the guard rejects.
    """
    groups: dict[tuple, list[Arm]] = {}
    for arm in arms:
        key = tuple(item for item in arm.factors.items() if item[0] not in ("epochs", *budgets))
        groups.setdefault(key, []).append(arm)
    return [
        _scale(dict(key), some, despite_differences)
        for key, some in groups.items()
        if len(some) > 1
    ]


def fit_shape(shape: Shape, epochs: np.ndarray, returns: np.ndarray, floor: float) -> Fit:
    """Fit one shape to final returns, [trials], by least squares over a grid of tau.

    `epochs` is [trials] too. The plateau is kept between the floor and RETURN_MAX.
    """
    taus = GRID * epochs.max()
    rise = shape.rise(epochs[None, :] / taus[:, None])  # [taus, trials]
    above = returns - floor
    weight = (rise**2).sum(axis=1)
    free = (rise @ above) / weight
    gains = np.clip(free, 0.0, RETURN_MAX - floor)
    residuals = ((above - gains[:, None] * rise) ** 2).sum(axis=1)
    best = int(np.argmin(residuals))
    degrees = len(returns) - 2
    limit = residuals[best] * (1.0 + fdtri(1, degrees, CONFIDENCE) / degrees)
    inside = np.flatnonzero(residuals <= limit + 1e-9)
    first, last = inside[0], inside[-1]
    low = 0.0 if first == 0 else taus[first] * shape.needed
    high = np.inf if last == len(taus) - 1 else taus[last] * shape.needed
    # The gain is uncertain at each tau, too: its sum of squares is a parabola around `free`.
    slack = np.maximum(limit - residuals + weight * (gains - free) ** 2, 0.0)
    half = np.sqrt(slack / weight)[inside]
    ends = np.clip([free[inside] - half, free[inside] + half], 0.0, RETURN_MAX - floor)
    return Fit(
        shape.name,
        float(taus[best]),
        float(gains[best]),
        float(residuals[best]),
        (floor + float(ends.min()), floor + float(ends.max())),
        (float(low), float(high)),
    )


def fit_curve(epochs: np.ndarray, returns: np.ndarray, floor: float) -> list[Fit]:
    """Return the best fit, then those not distinguished from it; arrays are [trials]."""
    fits = [fit_shape(shape, epochs, returns, floor) for shape in SHAPES]
    fits.sort(key=lambda fit: fit.residual)
    limit = fits[0].residual * float(np.exp(SAME_FIT / len(returns)))
    return [fit for fit in fits if fit.residual <= limit]


def foretell(
    fits: Sequence[Fit], budgets: Sequence[int], returns: Sequence[Sequence[float]]
) -> tuple[float, float, str]:
    """Return the range of the epochs needed, and the answer; `returns` are by budget and seed."""
    low = min(fit.needed[0] for fit in fits)
    high = max(fit.needed[1] for fit in fits)
    if lack_of_fit(returns, fits[0].residual) < 1.0 - CONFIDENCE:
        return low, high, "cannot tell: the curve does not saturate smoothly (F test)"
    return low, high, _answer(low, high, budgets)


def lack_of_fit(returns: Sequence[Sequence[float]], residual: float) -> float:
    """Return the p of the F test of a two-parameter fit against each budget's own mean.

    It is 1 if seeds show no spread, or if the budgets leave no degree of freedom.
    """
    pure = sum(sample_variance(some) * (len(some) - 1) for some in returns)
    free = sum(len(some) - 1 for some in returns)
    extra = len(returns) - 2
    if pure <= 0.0 or extra == 0:
        return 1.0
    ratio = max(residual - pure, 0.0) / extra / (pure / free)
    return float(fdtrc(extra, free, ratio))


def _scale(group: dict[str, Any], arms: Sequence[Arm], despite_differences: bool) -> Scaling:
    ran = [arm for arm in arms if arm.returns]
    floor = arms[0].task.floor
    budgets = tuple(arm.factors["epochs"] for arm in ran)
    returns = tuple(tuple(arm.returns.values()) for arm in ran)
    found = [one for arm in ran[1:] for one in compare_controls("epochs", ran[0], arm)]
    problem = _find_problem(arms, returns, () if despite_differences else found)
    if problem:
        return Scaling(group, floor, budgets, returns, (), None, None, f"cannot tell: {problem}")
    epochs = np.repeat(np.array(budgets, float), [len(some) for some in returns])
    fits = fit_curve(epochs, np.concatenate(returns), floor)
    low, high, answer = foretell(fits, budgets, returns)
    answer = mark_despite(answer, bool(found))
    return Scaling(group, floor, budgets, returns, tuple(fits), low, high, answer)


def _find_problem(
    arms: Sequence[Arm], returns: Sequence[Sequence[float]], differences: Sequence[Difference]
) -> str:
    """Return why no curve is fitted to some arms, empty where one is."""
    if differences:
        fields = ", ".join(dict.fromkeys(difference.field for difference in differences))
        return f"budgets are not comparable ({fields})"
    missing = [f"{arm.factors['epochs']:,}" for arm in arms if not arm.is_complete]
    if missing:
        return f"seeds are missing at {', '.join(missing)} epochs"
    if len(returns) < MIN_BUDGETS:
        return f"{number_of(len(returns), 'budget')}; it takes {MIN_BUDGETS}"
    if max(float(np.mean(some)) for some in returns) < low_threshold(arms[0].task.floor):
        return "not learned at any budget"
    if sum(map(len, returns)) < MIN_BUDGETS + 1:
        return "one seed a budget shows no spread"
    return ""


def _answer(low: float, high: float, budgets: Sequence[int]) -> str:
    """Say what a range of the epochs needed means, given the budgets tried."""
    smallest, largest = min(budgets), max(budgets)
    if high <= smallest:
        return f"needs at most {smallest:,} epochs"
    if low > largest:
        return f"needs more than {largest:,} epochs"
    if high > REACH * largest:
        return f"cannot tell: {_from(low, smallest)} or many more"
    if high > MAX_RATIO * max(low, smallest / MAX_RATIO):
        return f"cannot tell: {_from(low, smallest)} or up to {_round(high):,}"
    middle = _round(float(np.sqrt(max(low, 1.0) * high)))
    return f"needs about {middle:,} epochs ({_round(low):,} to {_round(high):,})"


def _from(low: float, smallest: int) -> str:
    return f"under {smallest:,} epochs" if low < smallest else f"{_round(low):,} epochs"


def _round(epochs: float) -> int:
    """Round to two significant digits: more would be false precision."""
    return int(float(f"{epochs:.1e}"))
