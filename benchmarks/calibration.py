"""Simulate how often the verdict is wrong, and how often it finds a true difference.

    python benchmarks/calibration.py [--repeats 100000] [--seed 0]

Draws final returns of two variants, with independent seeds, and applies the rule of
analysis/verdict.py to whole arrays of draws; a test compares the arrays with that rule. Prints
Markdown; docs/statistics.md has the latest.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from analysis.scaling import SHAPES as CURVES
from analysis.scaling import Shape, fit_curve, foretell
from analysis.verdict import (
    CONFIDENCE,
    CONFIRM_SEEDS,
    MIN_DIFFERENCE,
    MIN_STANDARD_ERRORS,
)
from pwmray.commands import CommandParser, run_command

SD = 60.0  # over training seeds
MEAN = 500.0  # of the baseline: neither low nor solved
SEEDS = (3, 5, 10)
DIFFERENCES = (50.0, 100.0, 150.0)
TASKS = 30
FEW_TASKS = 3  # of the tasks that a phase takes by default
DRAWS = 2_000  # of a bootstrap
BLOCK = 100  # data sets whose bootstraps are drawn at once
RELATIVE = 0.05, 700.0  # the share of "5 % better", and the mean that it is tried at
BUDGETS = (15_000, 50_000, 100_000, 150_000)  # epochs
TAUS = (0.15, 0.3)  # how slowly a curve rises, in units of the largest budget
FLOOR, GAIN = 50.0, 700.0  # of such a curve

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


class Outcome(NamedTuple):
    """The rule applied to many pairs of arms; arrays, one entry a pair."""

    difference: np.ndarray  # level minus baseline
    low: np.ndarray  # limits of the Welch interval
    high: np.ndarray
    p: np.ndarray
    is_win: np.ndarray  # of whichever arm
    is_tie: np.ndarray


def judge_many(baseline: np.ndarray, level: np.ndarray) -> Outcome:
    """Return the verdicts on arrays [pairs, seeds], of returns that are neither low nor equal."""
    n = baseline.shape[-1]
    a, b = (arm.var(axis=-1, ddof=1) / n for arm in (baseline, level))
    difference = level.mean(axis=-1) - baseline.mean(axis=-1)
    error = np.sqrt(a + b)
    degrees = (a + b) ** 2 * (n - 1) / (a**2 + b**2)
    half = stdtrit(degrees, 0.5 + CONFIDENCE / 2.0) * error
    distance = np.abs(difference)
    is_win = (distance >= MIN_DIFFERENCE) & (distance > MIN_STANDARD_ERRORS * error)
    is_tie = ~is_win & (distance + half <= MIN_DIFFERENCE)
    p = 2.0 * stdtr(degrees, -distance / error)
    return Outcome(difference, difference - half, difference + half, p, is_win, is_tie)


# What seeds may look like: mean 0, and sd SD unless stated.


def draw_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw what the t interval assumes: normal seeds."""
    return rng.normal(0.0, SD, shape)


def draw_skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw a long tail of bad seeds: a mirrored exponential."""
    return SD * (1.0 - rng.exponential(1.0, shape))


def draw_jumps(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw seeds of which half have jumped by 400 points and half have not; sd 201."""
    return 400.0 * (rng.random(shape) < 0.5) - 200.0 + rng.normal(0.0, 20.0, shape)


def scaled(draw: Draw, factor: float) -> Draw:
    """Return a draw with `factor` times the spread."""
    return lambda rng, shape: factor * draw(rng, shape)


# Spreads of 1 to 3 whose mean variance is SD squared.
NARROW, WIDE = scaled(draw_normal, 0.2**0.5), scaled(draw_normal, 1.8**0.5)
SHAPES: dict[str, tuple[Draw, Draw]] = {
    "normal": (draw_normal, draw_normal),
    "spreads 1 to 3": (NARROW, WIDE),
    "both skewed": (draw_skewed, draw_skewed),
    "one skewed": (draw_normal, draw_skewed),
    "late jumps": (draw_jumps, draw_jumps),
}


def simulate(
    shape: str, num_seeds: int, difference: float, repeats: int, rng: np.random.Generator
) -> Outcome:
    """Return the verdicts on `repeats` pairs of arms whose true means differ by `difference`."""
    baseline, level = SHAPES[shape]
    size = repeats, num_seeds
    return judge_many(MEAN + baseline(rng, size), MEAN + difference + level(rng, size))


def bootstrap_coverage(
    num_arms: int, num_seeds: int, repeats: int, rng: np.random.Generator
) -> float:
    """Return how often a percentile bootstrap of a mean, or a difference of two, covers it."""
    return coverage(
        lambda: draw_normal(rng, (BLOCK, num_arms, num_seeds)),
        lambda means: means[0] if num_arms == 1 else means[1] - means[0],
        repeats,
        rng,
    )


def suite_coverage(num_tasks: int, num_seeds: int, repeats: int, rng: np.random.Generator) -> float:
    """Return how often the bootstrap over task x seed blocks covers the mean difference."""
    return coverage(
        lambda: np.sqrt(2.0) * draw_normal(rng, (BLOCK, num_tasks, num_seeds)),
        lambda means: np.mean(means, axis=0),
        repeats,
        rng,
    )


def coverage(
    draw: Callable[[], np.ndarray],
    statistic: Callable[[list[np.ndarray]], np.ndarray],
    repeats: int,
    rng: np.random.Generator,
) -> float:
    """Return the share of percentile intervals that hold 0, the true value, of `repeats` data."""
    tail = (1.0 - CONFIDENCE) / 2.0
    covered = []
    for _ in range(math.ceil(repeats / BLOCK)):
        drawn = statistic(resample(draw(), rng))
        low, high = np.quantile(drawn, [tail, 1.0 - tail], axis=1)
        covered.append((low <= 0.0) & (high >= 0.0))
    return float(np.mean(covered))


def resample(groups: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the means of seeds drawn again within each group of [data, groups, seeds].

    One array a group, [data, DRAWS].
    """
    num_data, num_groups, n = groups.shape
    means = []
    for group in range(num_groups):
        chosen = rng.integers(0, n, (num_data, DRAWS * n))
        drawn = np.take_along_axis(groups[:, group, :], chosen, axis=1)
        means.append(drawn.reshape(num_data, DRAWS, n).mean(axis=-1))
    return means


def main_effect_power(num_seeds: int, repeats: int, rng: np.random.Generator) -> float:
    """Return how often a main effect of 50 points over FEW_TASKS is found at p < .05."""
    cells = draw_normal(rng, (repeats, 4, FEW_TASKS * num_seeds))
    blocks = 50.0 + (cells[:, 2] + cells[:, 3] - cells[:, 0] - cells[:, 1]) / 2.0
    n = blocks.shape[-1]
    t = blocks.mean(axis=-1) / (blocks.std(axis=-1, ddof=1) / np.sqrt(n))
    return float(np.mean(np.abs(t) > stdtrit(n - 1, 0.5 + CONFIDENCE / 2.0)))


def confirm(outcome: Outcome, num_seeds: int) -> np.ndarray:
    """Return how many winners are confirmed in each table of TASKS comparisons.

    A win counts that Holm leaves significant: its p, ordered, and all smaller ones pass.
    """
    p = outcome.p.reshape(-1, TASKS)
    order = np.argsort(p, axis=1)
    limits = (1.0 - CONFIDENCE) / np.arange(TASKS, 0, -1)
    passes = np.cumprod(np.take_along_axis(p, order, axis=1) < limits, axis=1).astype(bool)
    wins = np.take_along_axis(outcome.is_win.reshape(-1, TASKS), order, axis=1)
    return (passes & wins).sum(axis=1) * (num_seeds >= CONFIRM_SEEDS)


class Foretold(NamedTuple):
    """How the epochs needed were foretold in many draws of one true curve; shares of them."""

    needed: float  # the truth
    missed: float  # the range does not hold it, where one is given
    given: float  # a number of epochs was named
    wrong: float  # of these, its range does not hold the truth


def foretell_many(
    curve: Shape, tau: float, num_seeds: int, repeats: int, rng: np.random.Generator
) -> Foretold:
    """Ask `repeats` times how many epochs a curve of known shape needs."""
    scale = tau * max(BUDGETS)
    epochs = np.repeat(np.array(BUDGETS, float), num_seeds)
    means = FLOOR + GAIN * curve.rise(epochs / scale)
    needed, missed, wrong = scale * curve.needed, [], []
    for noise in draw_normal(rng, (repeats, len(epochs))):
        returns = means + noise
        fits = fit_curve(epochs, returns, FLOOR)
        low, high, answer = foretell(fits, BUDGETS, returns.reshape(len(BUDGETS), -1).tolist())
        if "F test" in answer:
            continue
        missed.append(not low <= needed <= high)
        if answer.startswith("needs about"):
            wrong.append(missed[-1])
    share_wrong = float(np.mean(wrong)) if wrong else 0.0
    return Foretold(needed, float(np.mean(missed)), len(wrong) / repeats, share_wrong)


def main() -> int:
    """Print the tables; return the exit status."""
    parser = CommandParser(description="Simulate the verdict's errors.")
    parser.add_argument("--repeats", type=int, default=100_000, help="pairs of arms a cell")
    parser.add_argument("--seed", type=int, default=0)
    return run_command(lambda: report(parser.parse_args()))


def report(options: argparse.Namespace) -> None:
    """Print every table; raise ValueError for too few repeats."""
    if options.repeats < 10 * TASKS:
        raise ValueError(f"--repeats {options.repeats}: must be {10 * TASKS} or more")
    rng, repeats = np.random.default_rng(options.seed), options.repeats
    print(f"{repeats:,} pairs of arms a cell, seed {options.seed}.\n")
    print_false_winners(repeats, rng)
    print_power(repeats, rng)
    print_tables_of_tasks(repeats, rng)
    print_coverage(repeats, rng)
    print_main_effects(repeats, rng)
    print_epochs_needed(max(repeats // 200, 30), rng)
    print_confirmed(repeats, rng)


def print_false_winners(repeats: int, rng: np.random.Generator) -> None:
    """Print how often equal arms get a winner, a tie, or neither."""
    rows = []
    for shape in SHAPES:
        found = [simulate(shape, n, 0.0, repeats, rng) for n in SEEDS]
        wins, ties = ([percent(claims) for claims in some] for some in (
            [one.is_win for one in found], [one.is_tie for one in found],
        ))  # fmt: skip
        rows.append([shape, *wins, *ties])
    relative = [percent(relative_wins(n, repeats, rng)) for n in SEEDS]
    rows.append(['normal, by "5 % better"', *relative, *["-"] * len(SEEDS)])
    heads = [f"{what}, n={n}" for what in ("winner", "tie") for n in SEEDS]
    print_table("No true difference", ["seeds", *heads], rows)


def relative_wins(num_seeds: int, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """Return where equal arms differ by more than a share of the baseline's mean."""
    share, mean = RELATIVE
    ours, theirs = mean + draw_normal(rng, (2, repeats, num_seeds))
    middle = ours.mean(axis=-1)
    return np.abs(theirs.mean(axis=-1) - middle) > share * middle


def print_power(repeats: int, rng: np.random.Generator) -> None:
    """Print how often the better arm wins; and the worse one."""
    rows = []
    for shape in SHAPES:
        for points in DIFFERENCES:
            found = [simulate(shape, n, points, repeats, rng) for n in SEEDS]
            right = [percent(one.is_win & (one.difference > 0)) for one in found]
            wrong = [percent(one.is_win & (one.difference < 0)) for one in found]
            rows.append([shape, f"{points:.0f}", *right, *wrong])
    heads = [f"{what}, n={n}" for what in ("right", "wrong") for n in SEEDS]
    title = "A true difference, and how often the right and the wrong arm wins"
    print_table(title, ["seeds", "points", *heads], rows)


def print_tables_of_tasks(repeats: int, rng: np.random.Generator) -> None:
    """Print the spurious winners of a table of TASKS comparisons, by their evidence."""
    rows = []
    for n in SEEDS:
        found = simulate("normal", n, 0.0, repeats // TASKS * TASKS, rng)
        supported = found.is_win & (found.p < 1.0 - CONFIDENCE)
        confirmed = confirm(found, n)
        counts = [TASKS * found.is_win.mean(), TASKS * supported.mean(), confirmed.mean()]
        rows.append([f"n={n}", *(f"{count:.2f}" for count in counts), percent(confirmed > 0)])
    heads = ["seeds", "winners", "supported", "confirmed", "tables with a confirmed one"]
    print_table(f"Spurious winners in a table of {TASKS} equal pairs", heads, rows)


def print_coverage(repeats: int, rng: np.random.Generator) -> None:
    """Print how often intervals cover the true value."""
    rows = []
    for shape in SHAPES:
        found = [simulate(shape, n, 0.0, repeats, rng) for n in SEEDS]
        rows.append([f"Welch t, {shape}", *(percent((x.low <= 0) & (x.high >= 0)) for x in found)])
    few = max(repeats // 50, 300)
    for num_arms, what in ((1, "a mean"), (2, "a difference")):
        cells = [bootstrap_coverage(num_arms, n, few, rng) for n in SEEDS]
        rows.append([f"percentile bootstrap of {what}, normal", *(f"{x:.1%}" for x in cells)])
    for num_tasks in (FEW_TASKS, TASKS):
        cells = [suite_coverage(num_tasks, n, max(few // num_tasks, 300), rng) for n in SEEDS]
        name = f"bootstrap over {num_tasks} tasks' blocks, normal"
        rows.append([name, *(f"{x:.1%}" for x in cells)])
    print_table("Coverage of 95 % intervals", ["interval", *(f"n={n}" for n in SEEDS)], rows)


def print_main_effects(repeats: int, rng: np.random.Generator) -> None:
    """Print the power of the 2x2's main effect."""
    rows = [["50 points", *(f"{main_effect_power(n, repeats // 4, rng):.2f}" for n in SEEDS)]]
    title = f"Power of the 2x2's main effect over {FEW_TASKS} tasks (t over task x seed blocks)"
    print_table(title, ["effect", *(f"n={n}" for n in SEEDS)], rows)


def print_epochs_needed(repeats: int, rng: np.random.Generator) -> None:
    """Print how often the range of the epochs that a curve needs does not hold them."""
    rows = []
    for curve in CURVES:
        for tau in TAUS:
            found = [foretell_many(curve, tau, n, repeats, rng) for n in SEEDS]
            row = [f"{curve.name}, {found[0].needed:,.0f}"]
            for shares in ("missed", "given", "wrong"):
                row += [f"{getattr(one, shares):.0%}" for one in found]
            rows.append(row)
    what = "the range misses them, a number is named, its range is wrong"
    title = f"Epochs needed: {what} ({repeats} draws)"
    heads = [f"{what}, n={n}" for what in ("missed", "named", "wrong") for n in SEEDS]
    print_table(title, ["truth", *heads], rows)


def print_confirmed(repeats: int, rng: np.random.Generator) -> None:
    """Print how many tables of equal pairs have a confirmed winner, by what seeds look like."""
    enough = [n for n in SEEDS if n >= CONFIRM_SEEDS]
    rows = []
    for shape in SHAPES:
        size = repeats // TASKS * TASKS
        found = [confirm(simulate(shape, n, 0.0, size, rng), n) for n in enough]
        rows.append([shape, *(percent(confirmed > 0) for confirmed in found)])
    title = f"Tables of {TASKS} equal pairs with a confirmed winner"
    print_table(title, ["seeds", *(f"n={n}" for n in enough)], rows)


def percent(claims: np.ndarray) -> str:
    """Return the share of true entries."""
    return f"{np.mean(claims):.1%}"


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a pipe table, words left and numbers right."""
    print(f"{title}:\n")
    print("| " + " | ".join(heads) + " |")
    print("| --- |" + " ---: |" * (len(heads) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


if __name__ == "__main__":
    sys.exit(main())
