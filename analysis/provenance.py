"""List where a summary's numbers come from (code, versions, machines), and what failed."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from analysis.conditions import VERSIONS
from analysis.formats.grid import Grid
from analysis.load import Trial
from analysis.report import Summary
from analysis.short_names import shorten_levels

COLUMNS = {
    **VERSIONS,
    "device": "device",
    "host": "host",
    "methodology": "methodology",
    "fidelity": "fidelity",
    "evaluation_protocol": "evaluation",
    "data_fingerprint": "data",
    "world_model_from": "world model from",
}
SHOWN = 4  # values of a column; more are counted


def list_provenance(summary: Summary) -> Grid:
    """Return a table of what the evaluated trials recorded, one row for each of COLUMNS."""
    trials = summary.sweep.usable
    times = [t.record["ended_at"] for t in trials if t.record["ended_at"] is not None]
    rows = [("sweep", summary.sweep.name), ("scale", summary.sweep.scale)]
    if times:
        rows.append(("trials ended", f"{min(times):%Y-%m-%d %H:%M} to {max(times):%Y-%m-%d %H:%M}"))
    rows += [(name, _list_values(column, trials)) for column, name in COLUMNS.items()]
    return Grid("Provenance", ("what", "value"), rows, ())


def list_failures(summary: Summary) -> Grid:
    """Return a table of every trial that is not evaluated, with its status and reason."""
    names = shorten_levels(summary.arms)
    rows = [
        (
            *(names.label(name, level) for name, level in trial.factors.items()),
            str(trial.seed),
            trial.record["status"],
            " ".join((trial.record["reason"] or "").split()) or "-",
        )
        for trial in summary.sweep.trials
        if not trial.is_usable
    ]
    headers = (*summary.arms[0].factors, "seed", "status", "reason")
    missing = summary.sweep.num_planned - len(summary.sweep.trials)
    notes = (f"{missing} more trials of the grid have no row yet.",) if missing else ()
    return Grid("Not evaluated", headers, rows, notes)


def _list_values(column: str, trials: Sequence[Trial]) -> str:
    """Return a column's values with the number of trials, the most frequent first."""
    counts: Counter[Any] = Counter(trial.record[column] for trial in trials)
    if set(counts) == {None}:
        return "not recorded"
    shown = [f"{value} ({count})" for value, count in counts.most_common(SHOWN)]
    more = [f"{len(counts) - SHOWN} more"] if len(counts) > SHOWN else []
    return ", ".join(shown + more)
