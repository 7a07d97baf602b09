"""Read the run folders that Hydra left: `<task>_results.csv` beside `.hydra/config.yaml`."""

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from analysis.legacy import Contradiction, LegacyRun
from pwmray.tasks import find_task

CONFIG = Path(".hydra") / "config.yaml"


def find_run_folders(folder: Path) -> list[Path]:
    """Return every folder at or under `folder` that Hydra made a run's, in order."""
    return sorted(path.parents[1] for path in folder.rglob(str(CONFIG)))


def read_run(folder: Path, root: Path) -> tuple[LegacyRun, list[Contradiction]]:
    """Return the run in a folder, and where its config contradicts itself or its results.

    The config's `general.seed` is the seed that trained; a `seed` elsewhere did nothing. Raises
    ValueError naming the file and the key that is missing or broken.
    """
    config = _read_config(folder / CONFIG)
    task = _look_up(config, "task", folder)
    find_task(task)
    seed = int(_look_up(config, "general.seed", folder))
    run = LegacyRun(
        origin=str(folder.relative_to(root)) if folder != root else folder.name,
        group="runs",
        config=_read_name(folder, config),
        task=task,
        seed=seed,
        final_return=None,
        epochs=int(_look_up(config, "epochs", folder)),
        methodology=_methodology(config),
        checkpoint=config.get("general", {}).get("checkpoint") or "scratch",
        num_episodes=config.get("general", {}).get("eval_runs"),
        failure="no results file",
    )
    results = sorted(folder.rglob(f"{task}_results.csv"))
    if results:
        run = _add_results(run, results[0])
    return run, list(_find_contradictions(run, config))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no settings")
    return config


def _look_up(config: Mapping[str, Any], key: str, folder: Path) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None:
        raise ValueError(f"{folder / CONFIG} lacks {key}")
    return value


def _read_name(folder: Path, config: Mapping[str, Any]) -> str:
    """Return the algorithm's name: what was chosen on the command line, or its own."""
    chosen = folder / ".hydra" / "hydra.yaml"
    if chosen.is_file():
        choices = _read_config(chosen).get("hydra", {}).get("runtime", {}).get("choices", {})
        if choices.get("alg"):
            return str(choices["alg"])
    algorithm = config.get("alg") or {}
    return str(algorithm.get("name") or algorithm.get("_target_", "unknown").rpartition(".")[2])


def _methodology(config: Mapping[str, Any]) -> str:
    if not config.get("general", {}).get("checkpoint"):
        return "joint_from_scratch"
    return "policy_and_wm_finetuning" if config.get("finetune_wm") else "policy_finetuning"


def _add_results(run: LegacyRun, path: Path) -> LegacyRun:
    """Add the curve and, where the final evaluation ran, the result: it is the last row."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or "iteration" not in rows[0]:
        raise ValueError(f"{path} has no rows with an iteration")
    numbers = [{name: _to_number(text) for name, text in row.items() if name} for row in rows]
    last = numbers[-1]
    plan = last.get("episode_reward_planning", math.nan)
    is_final = math.isfinite(plan)  # planning ran after the final evaluation, in the same row
    curve = tuple(
        (int(row["iteration"]) + 1, row["episode_reward"])
        for row in numbers
        if math.isfinite(row.get("episode_reward", math.nan))
    )
    return run._replace(
        final_return=last["episode_reward"] if is_final else None,
        plan_return=plan if is_final else None,
        epochs_reached=int(last["iteration"]) + 1,
        train_seconds=last.get("total_time"),
        failure="" if is_final else f"ended at iteration {last['iteration']:.0f}, not evaluated",
        curve=curve,
    )


def _to_number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _find_contradictions(run: LegacyRun, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    other = config.get("seed")
    if other is not None and other != run.seed:
        said = f"seed {other} was set, but trained nothing ({run.origin})"
        yield Contradiction("seed", str(run), f"general.seed {run.seed} ({run.origin})", said)
    if run.epochs_reached is not None and run.epochs_reached != run.epochs:
        yield Contradiction(
            "epochs reached",
            str(run),
            f"{run.epochs:,} asked for ({run.origin})",
            f"{run.epochs_reached:,} reached",
        )
