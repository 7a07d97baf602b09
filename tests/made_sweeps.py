"""Sweeps' tables written by hand, for the tests of the analysis."""

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pwmray.results import CURVE, EVALUATIONS, TRIALS, read_table, write_rows

SEEDS = (42, 123, 456)
EPISODES = (-10.0, 0.0, 10.0)  # around a trial's final return
KINDS = {
    "baseline": ("mlp", "gaussian"),
    "flowpolicy": ("mlp", "flow"),
    "flowwm": ("flow", "gaussian"),
    "fullflow": ("flow", "flow"),
}
CONTROLS = {
    "status": "EVALUATED",
    "methodology": "joint_from_scratch",
    "fidelity": "corrected",
    "world_model_from": "scratch",
    "world_model_parameters": 18_980_000,
    "policy_parameters": 410_000,
    "critic_parameters": 1_168_000,
    "velocity_calls": 1,
    "data_fingerprint": "d1",
    "evaluation_episodes": 3,
    "evaluation_protocol": "seeds 1-3, action repeat 2, deterministic",
    "train_seconds": 1800.0,
    "code_version": "0.1.0",
    "git_commit": "c1",
    "torch_version": "2.13.0",
    "mujoco_version": "3.17.0",
    "dm_control_version": "1.0.45",
    "config": json.dumps({"evaluation": {"num_episodes": 10}, "policy": {"num_substeps": 2}}),
}
TASKS = ("reacher-easy", "walker-stand")
FLOOR = 45.1  # of reacher-easy
BUDGETS = (50, 100, 200, 400)
NOISE = (-8.0, 3.0, 5.0)  # of three seeds
Rows = list[dict[str, Any]]
Change = Callable[[dict[str, Any]], dict[str, Any]]


def no_change(row: dict[str, Any]) -> dict[str, Any]:
    return {}


def make_row(task: str, variant: str, epochs: int, seed: int, **values: Any) -> dict[str, Any]:
    """Return a trial's row; its return grows with the epochs, and the baseline's is the higher.

    `values` replace any of it.
    """
    world_model, policy = KINDS[variant]
    final = 300.0 + epochs + 110.0 * (variant == "baseline") + seed / 100.0
    made = {
        "trial": f"{task}-{variant}-{epochs}-{seed}",
        "task": task,
        "variant": variant,
        "world_model": world_model,
        "policy": policy,
        "epochs": epochs,
        "epochs_reached": epochs,
        "seed": seed,
        "return_mean": final,
    }
    return CONTROLS | made | values


def make_sweep(folder: Path, change: Change = no_change, tasks=TASKS):
    """Write a sweep of 2 variants x 3 budgets x tasks x 3 seeds; `change` edits each row."""
    rows = [
        make_row(task, variant, epochs, seed)
        for variant in ("baseline", "fullflow")
        for epochs in (100, 200, 400)
        for task in tasks
        for seed in SEEDS
    ]
    rows = [row | change(row) for row in rows]
    done = [row for row in rows if row["status"] == "EVALUATED"]
    write_description(folder, [row["trial"] for row in rows])
    write_rows(folder / "trials.arrow", rows, TRIALS)
    write_rows(
        folder / "evaluations.arrow", [e for row in done for e in episodes(row)], EVALUATIONS
    )
    write_rows(folder / "curves.arrow", [p for row in done for p in curve(row)], CURVE)
    return folder


def write_description(folder: Path, trials: list[str]) -> None:
    folder.mkdir(parents=True)
    described = {
        "name": folder.name,
        "scale": "laptop",
        "compare": "epochs",
        "varies": ["variant", "epochs", "task", "seed"],
        "trials": trials,
    }
    (folder / "sweep.json").write_text(json.dumps(described))


@contextlib.contextmanager
def changed_description(folder: Path) -> Iterator[dict[str, Any]]:
    """Give a sweep's description to be changed."""
    described = json.loads((folder / "sweep.json").read_text())
    yield described
    (folder / "sweep.json").write_text(json.dumps(described))


@contextlib.contextmanager
def changed_trials(folder: Path, *columns: str) -> Iterator[Rows]:
    """Give a sweep's trials to be changed, which may have more columns of text then."""
    rows = read_table(folder / "trials.arrow").to_pylist()
    yield rows
    schema = pa.schema([*TRIALS, *(pa.field(column, pa.string()) for column in columns)])
    write_rows(folder / "trials.arrow", rows, schema)


def episodes(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a trial's evaluation, around its return."""
    base = make_row(row["task"], row["variant"], row["epochs"], row["seed"])["return_mean"]
    return [
        {"trial": row["trial"], "episode": index, "seed": index, "return": base + shift}
        for index, shift in enumerate(EPISODES)
    ]


def curve(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"trial": row["trial"], "epoch": epoch, "return_mean": 2.0 * epoch}
        for epoch in (0, row["epochs"] // 2, row["epochs"])
    ]


def fail_one(row: dict[str, Any]) -> dict[str, Any]:
    is_chosen = (row["task"], row["variant"], row["epochs"], row["seed"]) == (
        "walker-stand", "fullflow", 400, 456,
    )  # fmt: skip
    return {"status": "FAILED", "reason": "out of memory"} if is_chosen else {}


def fail_all(row: dict[str, Any]) -> dict[str, Any]:
    return {"status": "PENDING"} if row["seed"] == 42 else {"status": "FAILED", "reason": "disk"}


def change_fullflow(**values: Any) -> Change:
    return lambda row: values if row["variant"] == "fullflow" else {}


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def make_flows(world_model: int, policy: int, integrator: str) -> dict[str, dict[str, Any]]:
    return {
        "world_model": {"num_substeps": world_model, "integrator": integrator},
        "policy": {"num_substeps": policy, "integrator": integrator},
    }


def exponential(epochs: float, gain: float = 600.0, tau: float = 80.0) -> float:
    """Return what a task's return rises to by some epochs."""
    return FLOOR + gain * (1.0 - np.exp(-epochs / tau))
