"""Write a Summary for programs, as CSV or JSON; nothing is computed here."""

import csv
import io
import json
import math
from typing import Any

from analysis.arms import Arm
from analysis.compare import Comparison, ComparisonTable
from analysis.cost import Cost
from analysis.factorial import Factorial
from analysis.formats.reference_grid import export_reference, export_row, export_trial
from analysis.load import count_statuses
from analysis.predictions import Predictions
from analysis.report import Summary, describe_aggregates
from analysis.scaling import Scaling
from analysis.short_names import ShortNames, shorten_levels
from analysis.stats import mean_and_sd
from analysis.suite import THRESHOLDS, Suite

COMPARED = (
    "against",
    "difference",
    "standard_error",
    "low",
    "high",
    "p",
    "p_holm",
    "verdict",
    "evidence",
    "averaged_over",
)


def render_csv(summary: Summary, per_seed: bool) -> str:
    """Return one table: a row an arm, or with `per_seed` a row a trial, whatever its status.

    An arm's verdicts are in columns named after the factor compared (`epochs_verdict`), which are
    empty for the baseline arm.
    """
    rows = _list_seeds(summary) if per_seed else [_arm_values(summary, arm) for arm in summary.arms]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def render_json(summary: Summary, per_seed: bool) -> str:
    """Return one object: sweep, scale, progress, counts, arms, comparisons, notes (and seeds)."""
    sweep, names = summary.sweep, shorten_levels(summary.arms)
    shown = {
        "sweep": sweep.name,
        "scale": sweep.scale,
        "progress": summary.progress,
        "counts": {"planned": sweep.num_planned, **count_statuses(sweep.trials)},
        "arms": [_plain_arm(arm) for arm in summary.arms],
        "comparisons": [_plain_comparisons(table, names) for table in summary.comparisons],
        "effects": _plain_factorial(summary.factorial),
        "suites": [_plain_suite(suite) for suite in summary.suites],
        "costs": [_plain_of_arm(cost) for cost in summary.costs],
        "scalings": [_plain_scaling(scaling) for scaling in summary.scalings],
        "predictions": [_plain_of_arm(found) for found in summary.predictions],
        "notes": [*names.legend.values(), *summary.notes],
    }
    if summary.reference is not None:
        shown["reference"] = export_reference(summary.reference)
    if per_seed:
        shown["seeds"] = _list_seeds(summary)
    return json.dumps(shown, indent=2) + "\n"


def _plain_arm(arm: Arm) -> dict[str, Any]:
    over = arm.over_floor
    where_planned, plan = mean_and_sd(arm.returns_where_planned), mean_and_sd(arm.plan_returns)
    return {
        **arm.factors,
        "floor": arm.task.floor,
        "floor_kind": arm.floor_kind,
        "n": len(arm.counted),
        "n_planned": arm.num_planned,
        "return_mean": arm.mean,
        "return_sd": arm.sd,
        "over_floor": over and over.difference,
        "over_floor_low": over and over.low,
        "over_floor_high": over and over.high,
        "over_floor_p": over and over.p,
        "return_where_planned_mean": where_planned[0],
        "return_where_planned_sd": where_planned[1],
        "plan_return_mean": plan[0],
        "plan_return_sd": plan[1],
        "train_seconds": arm.train_seconds,
        "return_per_hour": arm.return_per_hour,
    }


def _plain_comparison(row: Comparison) -> dict[str, Any]:
    found = row.verdict.welch
    return {
        "against": row.baseline.factors[row.factor],
        "difference": found and found.difference,
        "standard_error": found and found.standard_error,
        "low": found and found.low,
        "high": found and found.high,
        "p": found and found.p,
        "p_holm": row.p_holm,
        "verdict": row.verdict_name,
        "evidence": row.evidence,
        "seeds_needed": row.verdict.seeds_needed,
        "differences": [difference._asdict() for difference in row.differences],
    }


def _plain_comparisons(table: ComparisonTable, names: ShortNames) -> dict[str, Any]:
    return {
        "compare": table.factor,
        "averaged_over": list(table.averaged),
        "rows": [{**row.level.factors, **_plain_comparison(row)} for row in table.rows],
        "aggregates": [
            {**aggregate._asdict(), "interval": aggregate.interval._asdict()}
            for aggregate in table.aggregates
        ],
        "trends": [trend._asdict() for trend in table.trends],
        "notes": [*table.notes, *([describe_aggregates(table, names)] if table.aggregates else [])],
    }


def _plain_factorial(found: Factorial) -> dict[str, Any]:
    return {
        "tasks": [
            {
                **task.group,
                "with": list(task.kinds),
                "problem": task.problem,
                "differences": [difference._asdict() for difference in task.differences],
                "effects": [effect._asdict() for effect in task.effects],
            }
            for task in found.tasks
        ],
        "suite": [
            {
                **effect._asdict(),
                "interval": effect.interval._asdict(),
                "over_blocks": effect.over_blocks._asdict(),
            }
            for effect in found.suite
        ],
        "notes": list(found.notes),
    }


def _plain_suite(suite: Suite) -> dict[str, Any]:
    levels = [
        {
            **level._asdict(),
            "mean_return": level.mean,
            "interquartile": level.interquartile._asdict(),
            "gap": level.gap._asdict(),
            "profile": [interval._asdict() for interval in level.profile],
            "improvement": level.improvement and level.improvement._asdict(),
        }
        for level in suite.levels
    ]
    return {**suite._asdict(), "thresholds": THRESHOLDS, "levels": levels}


def _plain_of_arm(found: Cost | Predictions) -> dict[str, Any]:
    values = {name: value for name, value in found._asdict().items() if name != "arm"}
    return {**found.arm.factors, **values}


def _plain_scaling(scaling: Scaling) -> dict[str, Any]:
    """Return the scaling as plain data, with None for an unbounded end of a range."""
    fits = [
        {**fit._asdict(), "needed": [_finite(limit) for limit in fit.needed]}
        for fit in scaling.fits
    ]
    ends = {"low": _finite(scaling.low), "high": _finite(scaling.high)}
    return {**scaling._asdict(), "fits": fits, **ends, "is_known": scaling.is_known}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _arm_values(summary: Summary, arm: Arm) -> dict[str, Any]:
    values = _plain_arm(arm)
    for table in summary.comparisons:
        # Those whose level is the arm, or an average that includes it.
        parts = [(row, part) for row in table.rows for part in row.level.parts or (row.level,)]
        rows = [row for row, part in parts if part.factors == arm.factors]
        plain = _plain_comparison(rows[0]) if rows else {}
        # If not empty, the verdict is about means over these, not about the arm's own return.
        plain["averaged_over"] = ", ".join(table.averaged) if rows else None
        values |= {f"{table.factor}_{name}": plain.get(name) for name in COMPARED}
    return values | (export_row(summary.reference, arm) if summary.reference else {})


def _list_seeds(summary: Summary) -> list[dict[str, Any]]:
    return [
        {
            **trial.factors,
            "seed": trial.seed,
            "status": trial.record["status"],
            "reason": trial.record["reason"],
            "return": trial.final_return if trial.is_usable else None,
            "return_where_planned": trial.return_where_planned,
            "plan_return": trial.plan_return,
            "episodes": trial.num_episodes,
            "signs": ", ".join(summary.signs[trial.record["trial"]]),
            "trial": trial.record["trial"],
            "origin": trial.record.get("origin"),  # of an imported trial: file and line, or folder
            **(export_trial(summary.reference, trial) if summary.reference else {}),
        }
        for trial in summary.sweep.trials
    ]
