"""Read the run folders that Hydra left: `<task>_results.csv` beside `.hydra/config.yaml`."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from analysis.legacy import (
    Contradiction,
    LegacyRun,
    read_duration,
    read_return,
    read_rows,
    read_text,
    read_whole,
)
from pwmray.tasks import find_task
from pwmray.variants import SCRATCH, methodology_of

CONFIG = Path(".hydra") / "config.yaml"
CHOICES = Path(".hydra") / "hydra.yaml"  # what was chosen on the command line


def find_run_folders(folder: Path) -> list[Path]:
    """Return every run folder of Hydra at or under `folder`, sorted."""
    return sorted(path.parents[1] for path in folder.rglob(str(CONFIG)))


def read_run(folder: Path, root: Path, label: Path) -> tuple[LegacyRun, list[Contradiction]]:
    """Return the run in a folder, and where its config contradicts itself or its results.

    `label` stands for the source `root` in the run's origin; it is empty for the only source. The
    seed that trained is `general.seed`; a `seed` elsewhere had no effect. Raises ValueError naming
    the file and the key that is missing or broken.
    """
    config = _Config(folder / CONFIG)
    checkpoint = config.text("general.checkpoint") or SCRATCH
    episodes = config.find("general.eval_runs")
    place = label / folder.relative_to(root)
    run = LegacyRun(
        source=str(folder.resolve()),
        origin=str(place) if place.parts else folder.resolve().name,
        group="runs",
        config=_read_name(folder, config),
        task=config.task,
        seed=config.whole("general.seed"),
        final_return=None,
        epochs=config.whole("epochs", least=1),
        methodology=methodology_of(checkpoint, bool(config.find("finetune_wm"))),
        checkpoint=checkpoint,
        num_episodes=None if episodes is None else config.whole("general.eval_runs", least=1),
        failure="no results file",
    )
    results = sorted(folder.rglob(f"{run.task}_results.csv"))
    if results:
        run = _add_results(run, results[0])
    return run, list(_find_contradictions(run, config.find("seed")))


class _Config:
    """A YAML file of Hydra, whose settings are read by dotted key.

    Each method raises ValueError naming the file and the key.
    """

    def __init__(self, path: Path):
        self._path = path
        text = read_text(path)
        try:
            self._settings = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
            raise ValueError(f"{path} is not valid YAML ({error})") from error
        if not isinstance(self._settings, dict):
            raise ValueError(f"{path} holds no settings")

    def find(self, key: str) -> Any:
        """Return a setting; None if it, or a group above it, is missing."""
        value: Any = self._settings
        parts = key.split(".")
        for place, part in enumerate(parts):
            if not isinstance(value, dict):
                group = ".".join(parts[:place])
                raise ValueError(f"{self._path}: {group} is {value!r:.60}, not settings by name")
            if part not in value:
                return None
            value = value[part]
        return value

    def text(self, key: str) -> str:
        """Return a text; empty if it is missing."""
        value = self.find(key) or ""
        if not isinstance(value, str):
            raise ValueError(f"{self._path}: {key} is {value!r:.60}, not text")
        return value

    def whole(self, key: str, least: int = 0) -> int:
        """Return a whole number from `least` on, which must not be missing."""
        value = self.find(key)
        if value is None:
            raise ValueError(f"{self._path} lacks {key}")
        return read_whole(f"{self._path}: {key}", value, least)

    @property
    def task(self) -> str:
        """The name of one of our tasks."""
        name = self.text("task")
        if not name:
            raise ValueError(f"{self._path} lacks task")
        try:
            return find_task(name).name
        except ValueError as error:
            raise ValueError(f"{self._path}: {error}") from error


def _read_name(folder: Path, config: _Config) -> str:
    """Return the algorithm's name, preferably as chosen on the command line."""
    if (folder / CHOICES).is_file():
        chosen = _Config(folder / CHOICES).text("hydra.runtime.choices.alg")
        if chosen:
            return chosen
    if config.find("alg") is None:
        return "unknown"
    target = config.text("alg._target_") or "unknown"
    return config.text("alg.name") or target.rpartition(".")[2]


def _add_results(run: LegacyRun, path: Path) -> LegacyRun:
    """Add the curve and, if the final evaluation ran, its result, which is in the last row."""
    rows = read_rows(path)
    missing = [name for name in ("iteration", "episode_reward") if name not in rows[0][1]]
    if missing:
        raise ValueError(f"{path} lacks the column {missing[0]}")
    # Iterations count from 0.
    epochs = [read_whole(f"{path}, line {n}: iteration", row["iteration"]) + 1 for n, row in rows]
    returns = [_read_cell(path, place, "episode_reward", read_return) for place in rows]
    final, plan = returns[-1], _read_cell(path, rows[-1], "episode_reward_planning", read_return)
    # Planning ran after the final evaluation, in the same row.
    is_final = final is not None and plan is not None
    pairs = zip(epochs, returns, strict=True)
    return run._replace(
        final_return=final if is_final else None,
        plan_return=plan if is_final else None,
        epochs_reached=epochs[-1],
        train_seconds=_read_cell(path, rows[-1], "total_time", read_duration),
        failure="" if is_final else f"ended at iteration {epochs[-1] - 1}, not evaluated",
        curve=tuple((epoch, value) for epoch, value in pairs if value is not None),
    )


def _read_cell(
    path: Path,
    place: tuple[int, Mapping[str, str]],
    name: str,
    read: Callable[[Mapping[str, str], str], float | None],
) -> float | None:
    """Return a number of a line and its row; None where it is missing or NaN."""
    line, row = place
    if row.get(name, "nan").strip().lower() == "nan":  # as runs wrote what they had not measured
        return None
    try:
        return read(row, name)
    except ValueError as error:
        raise ValueError(f"{path}, line {line}: {error}") from error


def _find_contradictions(run: LegacyRun, other: Any) -> Iterator[Contradiction]:
    """Yield contradictions: a second seed in the config, other epochs than asked for."""
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
