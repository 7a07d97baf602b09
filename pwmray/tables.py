"""A sweep's folder: what was asked for, and its trials' records joined into three tables.

results/<sweep>/
    sweep.json         name, scale, what is compared, the fingerprints asked for so far
    trials.arrow, curves.arrow, evaluations.arrow
    runs.jsonl         one line a run of the driver: its wall time and cores
    trials/<label>     links to the trials' own folders, by readable names
"""

import contextlib
import datetime
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pwmray import registry, results
from pwmray.config import TrialConfig
from pwmray.files import replacing
from pwmray.registry import Record, Status
from pwmray.trial import CURVE_FILE, EVALUATIONS_FILE

_FROM_EVENTS = (
    "reason",
    "epochs_reached",
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
    "code_version",
    "git_commit",
    "python_version",
    "torch_version",
    "mujoco_version",
    "ray_version",
)


def check_scale(folder: Path, scale: str) -> None:
    """Raise ValueError if the sweep's folder already holds another scale."""
    found = _read_sweep(folder).get("scale", scale)
    if found != scale:
        raise ValueError(
            f"{folder} holds the scale {found!r}, not {scale!r}; give another folder with --results"
        )


def open_sweep(plan: Any, command: str) -> Path:
    """Create or grow the sweep's folder; return it. Earlier trials of the sweep stay in it."""
    sweep = plan.sweep
    folder = plan.results / sweep.name
    configs = [trial.config for trial in plan.trials]
    asked = [config.fingerprint for config in configs]
    before = _read_sweep(folder).get("trials", [])
    content = {
        "name": sweep.name,
        "scale": plan.scale,
        "compare": sweep.compare,
        "within": list(sweep.within),
        "varies": list(sweep.vary),
        "trials": [*asked, *(name for name in before if name not in asked)],
        "command": command,
    }
    with replacing(folder / "sweep.json") as draft:
        draft.write_text(json.dumps(content, indent=2) + "\n")
    for config in configs:
        _link(folder / "trials" / config.label, config.fingerprint)
    return folder


def log_run(folder: Path, **fields: Any) -> None:
    """Append one line about a run of the driver."""
    with open(folder / "runs.jsonl", "a") as file:
        file.write(json.dumps(fields) + "\n")


class Tables:
    """The three tables of a sweep; `write` joins what the trials have written so far."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._results = folder.parent
        self._final: dict[str, dict[str, pa.Table]] = {}  # of trials that no longer change

    def write(self) -> None:
        """Replace the tables; a trial that runs meanwhile appears as far as it has come."""
        rows = [self._trial_tables(name) for name in _read_sweep(self._folder)["trials"]]
        for name, schema in results.SCHEMAS.items():
            parts = [row[name] for row in rows]
            table = pa.concat_tables(parts) if parts else schema.empty_table()
            results.write_table(self._folder / f"{name}.arrow", table)

    def _trial_tables(self, fingerprint: str) -> dict[str, pa.Table]:
        if fingerprint in self._final:
            return self._final[fingerprint]
        folder = registry.trial_folder(self._results, fingerprint)
        record = registry.read(folder)
        curve = _optional(folder / CURVE_FILE, results.CURVE)
        evaluations = results.EVALUATIONS.empty_table()
        if record.status is Status.EVALUATED:
            evaluations = results.read_table(folder / EVALUATIONS_FILE, results.EVALUATIONS)
        row = _trial_row(fingerprint, record, curve, evaluations)
        tables = {
            "trials": pa.Table.from_pylist([row], schema=results.TRIALS),
            "curves": curve,
            "evaluations": evaluations,
        }
        tables = {name: table.replace_schema_metadata() for name, table in tables.items()}
        if record.status is Status.EVALUATED:
            self._final[fingerprint] = tables
        return tables


def _trial_row(
    fingerprint: str, record: Record, curve: pa.Table, evaluations: pa.Table
) -> dict[str, Any]:
    config = TrialConfig.from_dict(record.last("config"))
    status = record.status
    row = {name: record.last(name) for name in _FROM_EVENTS}
    if status not in (Status.FAILED, Status.CANCELLED):
        row["reason"] = None
    final = _returns(evaluations, results.POLICY)
    planned = _returns(evaluations, results.PLANNER)
    curve_returns = curve["return_mean"].drop_null().to_numpy()
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
        "best_return": float(curve_returns.max()) if len(curve_returns) else None,
        "evaluation_episodes": len(final),
        "evaluation_protocol": config.evaluation.protocol,
        "attempts": record.count(Status.RUNNING),
        "created_at": _time(record.events[0]["time"]),
        "started_at": record.time_of(Status.RUNNING),
        "ended_at": record.time_of(Status.EVALUATED, Status.FAILED, Status.CANCELLED),
        "config": json.dumps(config.to_dict()),
    }


def _returns(evaluations: pa.Table, actor: str) -> np.ndarray:
    rows = evaluations.to_pylist()
    return np.array([row["return"] for row in rows if (row["actor"] or results.POLICY) == actor])


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def _optional(path: Path, schema: pa.Schema) -> pa.Table:
    return results.read_table(path) if path.exists() else schema.empty_table()


def _read_sweep(folder: Path) -> dict[str, Any]:
    path = folder / "sweep.json"
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}; delete it to go on") from error


def _link(path: Path, fingerprint: str) -> None:
    """Point a readable name at a trial's folder; a file system without links goes without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        os.symlink(Path("..") / ".." / "trials" / fingerprint, path)
