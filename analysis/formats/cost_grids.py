"""The tables of cost and of the epochs needed, as text; nothing is computed here."""

from collections.abc import Sequence

from analysis.conditions import describe_pretraining
from analysis.formats.grid import Grid, format_number, format_rate, format_time, name_levels
from analysis.report import Summary
from analysis.scaling import SHARE, Scaling
from analysis.short_names import ShortNames
from analysis.verdict import CONFIDENCE

COST_NOTE = (
    "time: of training and evaluation on the device, all seeds together; calls: network calls of "
    "one model step plus one action; return/h (in the first table): the mean return over the mean "
    "hours of training; gain/h: what of it is above the floor."
)
SCALING_NOTE = (
    f"Epochs to {SHARE:.0%} of the way from floor to plateau. Two saturating shapes, exponential "
    f"and power, are fitted to the final returns, a trial a point; range: {CONFIDENCE:.0%} profile "
    "of the shapes that fit equally well. No fit sees a late jump beyond the budgets tried."
)


def list_cost_grids(summary: Summary, names: ShortNames) -> list[Grid]:
    """Return the table of cost, and that of the epochs needed where several were tried."""
    grids = [_cost_grid(summary, names)] if summary.costs else []
    return grids + ([_scaling_grid(summary.scalings, names)] if summary.scalings else [])


def _cost_grid(summary: Summary, names: ShortNames) -> Grid:
    costs = summary.costs
    rows = [
        (
            *name_levels(cost.arm.factors, names),
            " and ".join(cost.devices),
            format_time(cost.seconds),
            format_number(cost.epochs_per_second, "z,.1f"),
            " or ".join(str(calls) for calls in cost.velocity_calls) or "-",
            format_rate(cost.gain_per_hour),
        )
        for cost in costs
    ]
    columns = ("device", "time", "epochs/s", "calls", "gain/h")
    notes = tuple(note for note in (COST_NOTE, describe_pretraining(summary.sweep)) if note)
    return Grid("Cost", (*costs[0].arm.factors, *columns), rows, notes)


def _scaling_grid(scalings: Sequence[Scaling], names: ShortNames) -> Grid:
    rows = [
        (
            *name_levels(scaling.group, names),
            " ".join(f"{budget:,}" for budget in scaling.budgets),
            _describe_plateau(scaling),
            scaling.answer,
        )
        for scaling in scalings
    ]
    headers = (*scalings[0].group, "budgets", "plateau", "epochs needed")
    return Grid("How many epochs are needed", headers, rows, (SCALING_NOTE,))


def _describe_plateau(scaling: Scaling) -> str:
    if not scaling.fits:
        return "-"
    best = scaling.fits[0]
    low = min(fit.plateau[0] for fit in scaling.fits)
    high = max(fit.plateau[1] for fit in scaling.fits)
    return f"{scaling.floor + best.gain:z.0f} [{low:z.0f}, {high:z.0f}]"
