"""Write runs from before this package as sweeps, never over runs of other sources."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from analysis.legacy import LegacyRun
from pwmray.files import replacing
from pwmray.registry.sweep_folders import IMPORTED, SWEEP_FILE, check_kind, read_sweep
from pwmray.results import CURVE, EVALUATIONS, PLANNER, POLICY, TRIALS, write_rows
from pwmray.variants import VARIANTS

PROTOCOL = "legacy: one mean return, episodes and their seeds unrecorded"
OWN_COLUMNS = [pa.field("origin", pa.string()), pa.field("config_name", pa.string())]


def check_replaced(folder: Path, sources: Sequence[Path]) -> None:
    """Raise ValueError if the folder's sweep has runs of other sources than `sources`."""
    sweep = read_sweep(folder)
    if not sweep:
        return
    if "sources" not in sweep:
        raise ValueError(
            f"{folder} does not say what was imported into it: move it away, or give another "
            "--results"
        )
    check_kind(folder / SWEEP_FILE, "sources", sweep["sources"], list)
    given = {source.resolve() for source in sources}
    for before in map(Path, sweep["sources"]):
        if given.isdisjoint([before, *(before.parents if before.is_dir() else [])]):
            raise ValueError(
                f"{folder} has runs of {before}, which would be lost: import it along with "
                f"{sources[0]}, or give another --results"
            )


def write_sweep(folder: Path, sources: Sequence[Path], runs: Sequence[LegacyRun]) -> None:
    """Write a sweep of some runs, and what they were imported from.

    Its sweep.json is written last, so that a half-written folder is no sweep.
    """
    rows = [_to_row(run) for run in runs]
    varies = _find_varied(rows)
    described = {
        "name": folder.name,
        "scale": IMPORTED,
        "compare": varies[0],
        "varies": [*varies, "task", "seed"],
        "axes": {"config_name": ["config_name", "variant"]} if "config_name" in varies else {},
        "trials": [row["trial"] for row in rows],
        "sources": [str(source.resolve()) for source in sources],
    }
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([*TRIALS, *OWN_COLUMNS])
    pairs = list(zip(rows, runs, strict=True))
    write_rows(folder / "trials.arrow", rows, schema)
    episodes = [row for pair in pairs for row in _list_episodes(*pair)]
    write_rows(folder / "evaluations.arrow", episodes, EVALUATIONS)
    points = [
        {"trial": row["trial"], "epoch": epoch, "return_mean": value}
        for row, run in pairs
        for epoch, value in run.curve
    ]
    write_rows(folder / "curves.arrow", points, CURVE)
    with replacing(folder / SWEEP_FILE) as draft:
        draft.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def _to_row(run: LegacyRun) -> dict[str, Any]:
    world_model, policy = VARIANTS.get(run.variant, (None, None))
    # A finished run reached what was asked for; what a failed one was asked for is not known.
    epochs = run.epochs or (None if run.failure else run.epochs_reached)
    return {
        "trial": run.identity,
        "status": "FAILED" if run.failure else "EVALUATED",
        "reason": run.failure or None,
        "task": run.task,
        "variant": run.variant,
        "world_model": world_model,
        "policy": policy,
        "epochs": epochs,
        "epochs_reached": run.epochs_reached or epochs,
        "seed": run.seed,
        "methodology": run.methodology,
        "fidelity": "published",
        "world_model_from": run.checkpoint,
        "return_mean": run.final_return,
        "plan_return_mean": run.plan_return,
        "evaluation_episodes": run.num_episodes,
        "evaluation_protocol": PROTOCOL,
        "train_seconds": run.train_seconds,
        "device": run.device,
        "slurm_job_id": run.job,
        "code_version": "legacy",
        "origin": run.origin,
        "config_name": run.config,
    }


def _find_varied(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the columns that vary; config names instead of variants if they are more."""
    columns = ("methodology", "epochs", "variant", "config_name")
    levels = {name: {row[name] for row in rows} for name in columns}
    is_told_by_variant = len(levels["config_name"]) == len(levels["variant"])
    del levels["config_name" if is_told_by_variant else "variant"]
    varied = [name for name, values in levels.items() if len(values - {None}) > 1]
    return varied or ["variant"]


def _list_episodes(row: dict[str, Any], run: LegacyRun) -> list[dict[str, Any]]:
    """Return one row an actor: the recorded mean stands for all of its episodes."""
    returns = {POLICY: run.final_return, PLANNER: run.plan_return}
    return [
        {"trial": row["trial"], "actor": actor, "episode": 0, "return": value}
        for actor, value in returns.items()
        if value is not None and not run.failure
    ]
