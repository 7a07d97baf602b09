"""One colour for each variant in every figure, others for the levels of any other factor."""

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


def choose_colours(factor: str, levels: Iterable[Any]) -> dict[Any, str]:
    """Return a colour for each level of a factor; the last one where there are more."""
    levels = list(dict.fromkeys(levels))
    if factor == "variant":
        return {level: VARIANT_COLOURS.get(level, LEVEL_COLOURS[-1]) for level in levels}
    known = dict(zip(levels, LEVEL_COLOURS, strict=False))
    return {level: known.get(level, LEVEL_COLOURS[-1]) for level in levels}
