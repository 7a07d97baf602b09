"""Give each variant its colour, line and marker in every figure, and other factors' levels theirs.

Lines and markers tell in grey, and to colour-blind readers, what colours tell others.
"""

import itertools
from collections.abc import Iterable
from typing import Any

Style = dict[str, Any]  # as matplotlib draws it: color, linestyle and marker, or some of these

# Okabe and Ito's colour-blind safe set; those compared most have the lines least alike.
VARIANT_COLOURS = {
    "baseline": "#0072B2",
    "fullflow": "#D55E00",
    "flowpolicy": "#E69F00",
    "flowwm": "#009E73",
}
# From Tol's muted set, colour-blind safe; none is a variant's.
LEVEL_COLOURS = ("#332288", "#CC6677", "#88CCEE", "#999933", "#AA4499", "#882255", "#999999")
# For more levels: Tableau's twenty, not all distinguishable for colour-blind readers.
MANY_COLOURS = (
    "#1F77B4", "#FF7F0E", "#2CA02C", "#D62728", "#9467BD", "#8C564B", "#E377C2", "#7F7F7F",
    "#BCBD22", "#17BECF", "#AEC7E8", "#FFBB78", "#98DF8A", "#FF9896", "#C5B0D5", "#C49C94",
    "#F7B6D2", "#C7C7C7", "#DBDB8D", "#9EDAE5",
)  # fmt: skip

LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = "os^Dv*PXh8<>"
_FILLS = ("full", "none", "left", "top")  # the most unlike first


def choose_colours(factor: str, levels: Iterable[Any]) -> dict[Any, str]:
    """Return a colour for each level of a factor; beyond twenty levels they repeat."""
    levels = list(dict.fromkeys(levels))
    if factor == "variant":
        return {level: VARIANT_COLOURS.get(level, LEVEL_COLOURS[-1]) for level in levels}
    colours = LEVEL_COLOURS if len(levels) <= len(LEVEL_COLOURS) else MANY_COLOURS
    return {level: colours[place % len(colours)] for place, level in enumerate(levels)}


def choose_styles(factor: str, levels: Iterable[Any]) -> dict[Any, Style]:
    """Return a colour, a line and a marker for each level; beyond twelve lines and markers repeat.

    The four variants always have the same ones.
    """
    colours = choose_colours(factor, levels)
    return {
        level: {
            "color": colours[level],
            # One line on where colours begin anew.
            "linestyle": LINE_STYLES[(place + place // len(MANY_COLOURS)) % len(LINE_STYLES)],
            "marker": MARKERS[place % len(MARKERS)],
        }
        for level, place in find_places(factor, colours).items()
    }


def choose_fills(factor: str, levels: Iterable[Any]) -> dict[Any, str]:
    """Return the filling of each level's marks where their shapes tell another factor."""
    places = find_places(factor, levels)
    is_enough = max(places.values()) < len(_FILLS)
    return {level: _FILLS[place if is_enough else 0] for level, place in places.items()}


def find_places(factor: str, levels: Iterable[Any]) -> dict[Any, int]:
    """Return the place of each level among all lines and markers: a variant's own, else in turn.

    Variants of a user's own kinds take the first places that those beside them leave free.
    """
    known = list(VARIANT_COLOURS) if factor == "variant" else []
    levels = list(dict.fromkeys(levels))
    taken = {known.index(level) for level in levels if level in known}
    free = (place for place in itertools.count() if place not in taken)
    return {v: known.index(v) if v in known else next(free) for v in levels}
