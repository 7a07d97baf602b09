"""The table of published returns beside ours, as text and as plain data; nothing is computed."""

from typing import Any

from analysis.arms import Arm
from analysis.formats.grid import Grid, format_number, format_return, name_levels
from analysis.load import Trial
from analysis.reference import ReferenceRow, ReferenceTable
from analysis.short_names import ShortNames
from analysis.stats import mean_and_sd


def draw_reference(table: ReferenceTable, names: ShortNames) -> Grid:
    """Return the table of one reference, with columns only for what the notes do not say once.

    A plan return has one where any arm has it; what differs, where that differs between arms.
    """
    has_plans = any(row.arm.plan_returns for row in table.rows)
    is_mixed = len({row.differs_in for row in table.rows}) > 1
    rows = [
        (
            *name_levels(row.arm.factors, names),
            str(len(row.arm.counted)),
            format_return(row.arm.mean, row.arm.sd),
            *([format_return(*mean_and_sd(row.arm.plan_returns))] if has_plans else []),
            format_return(row.published, row.published_sd),
            format_number(row.difference, "+z.1f"),
            *([", ".join(row.differs_in) or "-"] if is_mixed else []),
        )
        for row in table.rows
    ]
    plan = ("plan return",) if has_plans else ()
    differs = ("differs in",) if is_mixed else ()
    columns = ("n", "return", *plan, "published", "diff", *differs)
    return Grid(f"Beside {table.title}", (*table.rows[0].arm.factors, *columns), rows, table.notes)


def export_reference(table: ReferenceTable) -> dict[str, Any]:
    """Return the table as one object."""
    rows = [{**row.arm.factors, **_plain_row(row)} for row in table.rows]
    return {"name": table.name, "title": table.title, "rows": rows, "notes": list(table.notes)}


def export_row(table: ReferenceTable, arm: Arm) -> dict[str, Any]:
    """Return an arm's columns of a CSV file; empty where the arm has no trial."""
    plain = {name: None for name in ("return", "sd", "difference", "differs_in")}
    for row in table.rows:
        if row.arm is arm:
            plain = {**_plain_row(row), "differs_in": ", ".join(row.differs_in)}
    return {f"{table.name}_{name}": value for name, value in plain.items()}


def export_trial(table: ReferenceTable, trial: Trial) -> dict[str, Any]:
    """Return a trial's columns of a CSV file: the published return of its task."""
    published = {row.arm.factors["task"]: row.published for row in table.rows}
    return {f"{table.name}_return": published.get(trial.factors["task"])}


def _plain_row(row: ReferenceRow) -> dict[str, Any]:
    return {
        "return": row.published,
        "sd": row.published_sd,
        "difference": row.difference,
        "differs_in": list(row.differs_in),
    }
