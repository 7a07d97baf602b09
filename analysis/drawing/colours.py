"""Give each variant its colour in every figure, and the levels of other factors theirs."""

from collections.abc import Iterable
from typing import Any

# Okabe and Ito's colour-blind safe set.
VARIANT_COLOURS = {
    "baseline": "#0072B2",
    "flowpolicy": "#E69F00",
    "flowwm": "#009E73",
    "fullflow": "#D55E00",
}
# From Tol's muted set, colour-blind safe; none is a variant's.
LEVEL_COLOURS = ("#332288", "#CC6677", "#88CCEE", "#999933", "#AA4499", "#882255", "#999999")
# For more levels: Tableau's twenty, not all distinguishable for colour-blind readers.
MANY_COLOURS = (
    "#1F77B4", "#FF7F0E", "#2CA02C", "#D62728", "#9467BD", "#8C564B", "#E377C2", "#7F7F7F",
    "#BCBD22", "#17BECF", "#AEC7E8", "#FFBB78", "#98DF8A", "#FF9896", "#C5B0D5", "#C49C94",
    "#F7B6D2", "#C7C7C7", "#DBDB8D", "#9EDAE5",
)  # fmt: skip


def choose_colours(factor: str, levels: Iterable[Any]) -> dict[Any, str]:
    """Return a colour for each level of a factor; beyond twenty levels they repeat."""
    levels = list(dict.fromkeys(levels))
    if factor == "variant":
        return {level: VARIANT_COLOURS.get(level, LEVEL_COLOURS[-1]) for level in levels}
    colours = LEVEL_COLOURS if len(levels) <= len(LEVEL_COLOURS) else MANY_COLOURS
    return {level: colours[place % len(colours)] for place, level in enumerate(levels)}
