"""Choose which factors a sweep's figures show by colour, along x, or in the legend."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from analysis.arms import Arm, is_numeric, rank_levels
from analysis.drawing.colours import LEVEL_COLOURS
from analysis.short_names import ShortNames, shorten_levels

Factors = Mapping[str, Any]
Ranks = Mapping[tuple[str, Any], int]  # the place of each factor's level among the others


class Tick(NamedTuple):
    """A place along x, or a column of panels: the last factor's level, grouped by the others'."""

    name: str
    group: str = ""


class Layout(NamedTuple):
    """Which factors a figure shows where; every task has a panel of its own."""

    colour: str  # the factor whose levels have a colour each
    axis: tuple[str, ...]  # the factors along x, the last one varying fastest
    others: tuple[str, ...]  # the remaining factors that vary, named in the legend
    by: tuple[str, ...]  # what final returns are drawn by: `axis`, or `colour` where that is all
    is_joined: bool  # x holds several numbers, so that a line between them makes sense
    ticks: tuple[Tick, ...]  # of the evaluated arms, in order
    names: ShortNames
    ranks: Ranks

    @property
    def categories(self) -> tuple[str, ...]:
        """Return every varied factor that is not shown by colour, except epochs."""
        return tuple(factor for factor in (*self.axis, *self.others) if factor != "epochs")

    def find_tick(self, factors: Factors) -> int:
        """Return the place along x of an arm with these factors."""
        return self.ticks.index(make_tick(factors, self.axis, self.names))


def lay_out(arms: Sequence[Arm], compare: str) -> Layout:
    """Choose the layout of `arms`; `compare` is the factor compared.

    Epochs take the x axis if they vary; otherwise all factors without colours share it. If a single
    factor varies and has more levels than there are colours, it takes the x axis as well.
    """
    varied = list_varied(arms)
    colour = choose_coloured(arms, compare)
    if varied == [colour] and len({arm.factors[colour] for arm in arms}) > len(LEVEL_COLOURS):
        colour = "variant"
    free = [name for name in varied if name != colour]
    by = tuple(sorted(free, key=lambda name: name == compare))  # compared levels side by side
    by = ("epochs",) if "epochs" in free else by
    axis = by or ("epochs",)
    names, ranks = shorten_levels(arms), rank_levels(arms)
    ticks = order_ticks(ranks, axis, names, [arm.factors for arm in arms if arm.trials])
    is_joined = len(axis) == 1 < len(ticks) and is_numeric([a.factors[axis[0]] for a in arms])
    others = tuple(name for name in free if name not in axis)
    return Layout(colour, axis, others, by or (colour,), is_joined, ticks, names, ranks)


def choose_coloured(arms: Sequence[Arm], compare: str) -> str:
    """Return the factor shown by colour: the variant, or if that does not vary the compared one.

    Epochs are never shown by colour. Where they take the x axis, another factor that varies is.
    """
    others = [name for name in list_varied(arms) if name != "epochs"]
    if "variant" in others or not others:
        return "variant"
    if compare in others:
        return compare
    return others[0] if is_varied(arms, "epochs") else "variant"


def list_varied(arms: Sequence[Arm]) -> list[str]:
    """Return the factors besides the task in which arms differ."""
    return [name for name in arms[0].factors if name != "task" and is_varied(arms, name)]


def is_varied(arms: Sequence[Arm], factor: str) -> bool:
    """Tell whether arms differ in `factor`."""
    return len({arm.factors[factor] for arm in arms}) > 1


def order_ticks(
    ranks: Ranks,
    axis: Sequence[str],
    names: ShortNames,
    shown: Sequence[Factors],
    is_title: bool = False,
) -> tuple[Tick, ...]:
    """Return the ticks of the arms `shown`, each factor's levels in order of rank."""
    ordered = sorted(shown, key=lambda factors: [ranks[(name, factors[name])] for name in axis])
    return tuple(dict.fromkeys(make_tick(factors, axis, names, is_title) for factors in ordered))


def make_tick(
    factors: Factors, axis: Sequence[str], names: ShortNames, is_title: bool = False
) -> Tick:
    """Return the tick of `factors` along `axis`.

    In a title, numbers are given with their factor's name, since no axis names it.
    """
    tell = names.named if is_title else names.tick
    *group, name = (tell(factor, factors[factor]) for factor in axis)
    return Tick(name, " / ".join(group))


def name_series(factors: Factors, layout: Layout, others: Sequence[str]) -> str:
    """Return a legend's entry: the colour's level, and the levels of `others`."""
    level = layout.names.tick(layout.colour, factors[layout.colour])
    label = level if layout.colour == "variant" else f"{layout.colour} {level}"
    told = [f"{name} {layout.names.tick(name, factors[name])}" for name in others]
    return ", ".join([label, *told])


def explain_names(layout: Layout) -> str:
    """Say what the shortened names stand for; empty where no factor shown has one."""
    return layout.names.explain(*dict.fromkeys((layout.colour, *layout.categories)))
