"""What one trial adds to the tables of a sweep: its row of `trials`, its curve, its episodes."""

import datetime
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pwmray import registry, results
from pwmray.config import TrialConfig
from pwmray.files import ask_anew
from pwmray.registry import CURVE_FILE, EVALUATIONS_FILE, EVENTS_FILE, Record, Status

_FROM_EVENTS = (
    "reason",
    "epochs_reached",
    "world_model_training",
    "world_model_parameters",
    "policy_parameters",
    "critic_parameters",
    "velocity_calls",
    "data_fingerprint",
    "imagined_start_value",
    "real_start_value",
    "train_seconds",
    "evaluation_seconds",
    "host",
    "pid",
    "device",
    "slurm_job_id",
    "ray_version",
)
# Of each process that trained: a trial may be resumed under other code, or on another machine.
_PER_PROCESS = (
    "kernels",
    "cuda_graph",
    "code_version",
    "git_commit",
    "code_fingerprint",
    "world_model_code",
    "policy_code",
    "python_version",
    "torch_version",
    "mujoco_version",
    "dm_control_version",
)
_ENDS = (*registry.ENDS, Status.CANCELLED)  # unless it has run again since
_AGAIN = "delete the folder to run the trial again"


class TrialParts(NamedTuple):
    """A trial's part of each table, as far as the trial has come."""

    row: dict[str, Any]  # of results.TRIALS
    curve: pa.Table
    evaluations: pa.Table  # no rows before the trial is EVALUATED
    curveless: str  # why the curve of a finished trial is missing; empty if it is not

    @property
    def is_final(self) -> bool:
        """Whether the trial no longer changes."""
        return self.row["status"] is Status.EVALUATED


def read_parts(folder: Path) -> TrialParts | None:
    """Return the parts of the trial in `folder`, None before its driver wrote the first event.

    Raises ValueError or OSError if a file cannot be read, or is missing that must be there.
    """
    record = registry.read(folder)
    if record.status is None:
        return None
    if record.status is Status.EVALUATED:
        ask_anew(folder)  # where there was no curve a moment ago
    path, curve = folder / CURVE_FILE, results.empty(results.CURVE)
    if path.exists():
        curve = results.read_table(path, results.CURVE)
    evaluations = results.empty(results.EVALUATIONS)
    curveless = ""
    if record.status is Status.EVALUATED:
        evaluations = _evaluations(folder / EVALUATIONS_FILE)
        if record.last("train_seconds") and not path.exists():
            curveless = f"{folder}: EVALUATED without {CURVE_FILE}; {_AGAIN}"
    row = _trial_row(folder.name, record, curve, evaluations)
    curve, evaluations = curve.replace_schema_metadata(), evaluations.replace_schema_metadata()
    return TrialParts(row, curve, evaluations, curveless)


def _trial_row(
    fingerprint: str, record: Record, curve: pa.Table, evaluations: pa.Table
) -> dict[str, Any]:
    settings = record.last("config")
    if not isinstance(settings, dict):
        raise ValueError(f"its {EVENTS_FILE} has no config")
    config = TrialConfig.from_dict(settings)
    status = record.status
    row = {name: record.last(name) for name in _FROM_EVENTS}
    row |= {name: _joined(values) for name, values in _trained_by(record).items()}
    if status not in (Status.FAILED, Status.CANCELLED):
        row["reason"] = None
    final = _returns(evaluations, results.POLICY)
    planned = _returns(evaluations, results.PLANNER)
    curve_returns = [value for value in curve["return_mean"].to_pylist() if value is not None]
    return row | {
        "trial": fingerprint,
        "status": status,
        "task": config.task,
        "variant": config.variant,
        "world_model": config.world_model.kind,
        "policy": config.policy.kind,
        "epochs": config.epochs,
        "seed": config.seed,
        "methodology": config.methodology,
        "fidelity": config.fidelity.name,
        "world_model_from": record.last("world_model_id"),
        "return_mean": float(final.mean()) if len(final) else None,
        "return_sd": float(final.std(ddof=1)) if len(final) > 1 else None,
        "plan_return_mean": float(planned.mean()) if len(planned) else None,
        "best_return": max(curve_returns, default=None),
        "evaluation_episodes": len(final),
        "evaluation_protocol": config.evaluation.protocol,
        "attempts": record.count(Status.RUNNING),
        "created_at": datetime.datetime.fromisoformat(record.events[0]["time"]),
        "started_at": record.time_of(Status.RUNNING),
        "ended_at": record.time_of(*_ENDS) if status in _ENDS else None,
        "config": json.dumps(config.to_dict()),
    }


def _trained_by(record: Record) -> dict[str, list[str]]:
    """Return what the trial trained under, in each process since it last began at epoch 0."""
    begun = [event for event in record.events if event.get("status") == Status.RUNNING]
    first = max((i for i, event in enumerate(begun) if not event.get("epoch")), default=0)
    found = {name: [event.get(name) for event in begun[first:]] for name in _PER_PROCESS}
    if not all(found["code_fingerprint"]):  # begun by an earlier version: the commits tell more
        del found["code_fingerprint"]
    return {name: [value for value in values if value] for name, values in found.items()}


def _joined(values: list[str]) -> str | None:
    return " and ".join(dict.fromkeys(values)) or None


def _returns(evaluations: pa.Table, actor: str) -> np.ndarray:
    # Not by to_numpy, which imports pandas.
    pairs = zip(evaluations["actor"].to_pylist(), evaluations["return"].to_pylist(), strict=True)
    return np.array([value for name, value in pairs if (name or results.POLICY) == actor])


def _evaluations(path: Path) -> pa.Table:
    if not path.exists():
        raise ValueError(f"EVALUATED without {path.name}; {_AGAIN}")
    return results.read_table(path, results.EVALUATIONS)
