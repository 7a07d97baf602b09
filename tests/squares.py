"""Sweeps over the four variants with given returns: for tests of the 2x2 and of the suite."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pwmray.results import CURVE, EVALUATIONS, TRIALS, write_rows
from tests.made_sweeps import SEEDS, make_row

Returns = Mapping[str, Mapping[str, Sequence[float]]]  # by task, variant and seed


def write_square(folder: Path, returns: Returns, epochs: int = 100, **changes: Any) -> Path:
    """Write a sweep whose trials have exactly these `returns`; seeds count from 1."""
    rows = [
        make_row(task, variant, epochs, seed, return_mean=float(value))
        | {"trial": f"{folder.name}-{task}-{variant}-{epochs}-{seed}", **changes}
        for task, variants in returns.items()
        for variant, values in variants.items()
        for seed, value in enumerate(values, start=1)
    ]
    write_trials(folder, rows, ["variant", "task", "seed"], "variant")
    return folder


def write_trials(
    folder: Path, rows: Sequence[Mapping[str, Any]], varies: list[str], compare: str
) -> None:
    """Write a sweep from rows of `trials`, with two episodes around each final return."""
    folder.mkdir(parents=True)
    described = {"name": folder.name, "scale": "laptop", "compare": compare, "varies": varies}
    described["trials"] = [row["trial"] for row in rows]
    (folder / "sweep.json").write_text(json.dumps(described))
    done = [row for row in rows if row["status"] == "EVALUATED"]
    episodes = [
        {"trial": row["trial"], "episode": index, "seed": index, "return": row["return_mean"] + by}
        for row in done
        for index, by in enumerate((-5.0, 5.0))
    ]
    write_rows(folder / "trials.arrow", [dict(row) for row in rows], TRIALS)
    write_rows(folder / "evaluations.arrow", episodes, EVALUATIONS)
    curves = [
        {"trial": row["trial"], "epoch": epoch, "return_mean": row["return_mean"] * share}
        for row in done
        for epoch, share in ((row["epochs"] // 2, 0.5), (row["epochs"], 1.0))
    ]
    write_rows(folder / "curves.arrow", curves, CURVE)


def write_levels(folder: Path, levels: Sequence[str]) -> None:
    """Write a sweep over `policy.integrator`, of one task and one variant."""
    rows = [
        make_row(
            "reacher-easy",
            "fullflow",
            100,
            seed,
            trial=f"{place}-{seed}",
            return_mean=300.0 * (place + 1) + seed / 100.0,
            config=json.dumps({"policy": {"integrator": level}}),
        )
        for place, level in enumerate(levels)
        for seed in SEEDS
    ]
    write_trials(folder, rows, ["policy.integrator", "task", "seed"], "policy.integrator")
