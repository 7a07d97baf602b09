"""The table of how well world models predict rewards; nothing is computed here."""

import math

from analysis.formats.grid import Grid, name_levels
from analysis.load import format_span
from analysis.predictions import Predictions
from analysis.report import Summary
from analysis.short_names import ShortNames
from analysis.stats import mean_and_sd
from pwmray.wording import number_of

_HOW = (
    "along the real actions from a real observation: root mean square as a share of the real "
    "rewards' sd (symlog rewards)"
)
ERROR_NOTE = f"error: of the reward as many steps ahead as were measured, {_HOW}."


def draw_predictions(summary: Summary, names: ShortNames) -> Grid:
    """Return the errors at the first step, half way and at the last step, an arm a row."""
    found = summary.predictions
    num_steps = max(len(model) for row in found for model in row.models)
    steps = sorted({1, math.ceil(num_steps / 2), num_steps})
    rows = [
        (
            *name_levels(row.arm.factors, names),
            str(len(row.models)),
            *(_format_share(row, step) for step in steps),
        )
        for row in found
    ]
    ahead = (number_of(step, "step") for step in steps)
    headers = (*found[0].arm.factors, "models", *ahead)
    num_trials = sum(len(arm.counted) for arm in summary.arms)
    missing = num_trials - sum(row.num_trials for row in found)
    notes = [
        f"Error of the reward so many steps ahead, {_HOW}; 1 is no better than knowing their mean. "
        "Mean +- sample sd over models.",
        "All models of a task predict the same: "
        f"{format_span([row.num_windows for row in found])} windows, equally many of each policy "
        f"({format_span([row.num_agents for row in found])}). No verdict rests on it.",
    ]
    if any("-" in row[-len(steps) :] for row in rows):  # a level may be "-", too
        notes.append("-: the rewards there are all alike, or nobody measured so far ahead.")
    if missing:
        notes.append(f"Not measured since they were evaluated: {number_of(missing, 'trial')}.")
    return Grid("How well the world models predict rewards", headers, rows, tuple(notes))


def format_last(row: Predictions) -> str:
    """Return the error at the last step."""
    return _format_share(row, max(map(len, row.models)))


def _format_share(row: Predictions, step: int) -> str:
    shares = [model[step - 1] for model in row.models if len(model) >= step]
    mean, sd = mean_and_sd([share for share in shares if share is not None])
    if mean is None:
        return "-"
    return f"{mean:.2f}" if sd is None else f"{mean:.2f} +- {sd:.2f}"
