"""What W&B is told of a trial or a pretraining: a run, made from the files in its folder.

The truth is in those files. A run is a function of them, so any process can make it at any time,
and again when the files have grown.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from pwmray import registry, results
from pwmray.fidelity import Fidelity
from pwmray.pretraining import folder as pretraining_folder
from pwmray.registry import CURVE_FILE, EVENTS_FILE, Status
from pwmray.registry.sweep_folders import list_sweeps, names_in, read_sweep
from pwmray.tracking import wandb_state
from pwmray.variants import methodology_of, variant_of

PROJECT, PRETRAIN_PROJECT = "MT30-Detailed", "WM-Pretrain"
_MAX_TAG, _MAX_NAME = 64, 128  # characters that W&B takes; a search's names have more
_FINAL = {"return_mean": "final_return", "plan_return_mean": "final_plan_return"}


class Run(NamedTuple):
    """A run as W&B sees it. Its `rows` hold plain numbers, and increase in the column `axis`."""

    id: str  # the fingerprint
    project: str
    group: str  # the phase
    name: str
    tags: list[str]
    config: dict[str, Any]
    axis: str
    rows: list[dict[str, float]]
    summary: dict[str, Any]  # beyond each column's last value
    begun: float  # seconds since 1970
    exit_code: int  # 0 if it is finished, else 1

    @property
    def digest(self) -> str:
        """16 hex digits over all of the run: another digest tells that it has changed."""
        return hashlib.sha256(json.dumps(self, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def row_digests(self) -> dict[int, str]:
        """Digests of the rows by epoch or iteration, which tell which rows have changed."""
        return wandb_state.row_digests(self.rows, self.axis)


def all_folders(results_dir: Path) -> list[Path]:
    """Return the folders of all trials and pretrainings of a results folder."""
    pretrained = sorted((results_dir / pretraining_folder.PRETRAINED_FOLDER).glob("*"))
    return [*trial_folders(results_dir, None), *(path for path in pretrained if path.is_dir())]


def trial_folders(results_dir: Path, sweep: str | None) -> list[Path]:
    """Return the folders of a sweep's trials, or of all trials."""
    if sweep is None:
        return sorted(path.parent for path in results_dir.glob(f"trials/*/{EVENTS_FILE}"))
    asked = read_sweep(results_dir / sweep).get("trials", [])
    return [registry.trial_folder(results_dir, fingerprint) for fingerprint in asked]


def is_running(folder: Path) -> bool:
    """Tell whether a live process runs it; one that has finished it may still hold its claim."""
    if _is_pretraining(folder):
        return pretraining_folder.state_of(folder) == "running"
    is_claimed = registry.running_elsewhere(folder) is not None
    return is_claimed and registry.read(folder).status is not Status.EVALUATED


class RunReader:
    """Reads runs; their group is `sweep`, or the first sweep that asked for the trial."""

    def __init__(self, results_dir: Path, sweep: str | None):
        self._results = results_dir
        self._sweep = sweep
        self._names: dict[str, tuple[str, str]] = {}  # by fingerprint: the sweep and the name there

    def read(self, folder: Path) -> Run | None:
        """Return a folder's run, None if it has no curve yet or does not say what it is."""
        if not (folder / CURVE_FILE).exists():
            return None
        return self._pretraining(folder) if _is_pretraining(folder) else self._trial(folder)

    def _trial(self, folder: Path) -> Run | None:
        record = registry.read(folder)
        begun, config = record.first_time_of(Status.RUNNING), record.last("config")
        if begun is None or config is None:
            return None
        group, name = self._named(folder)
        is_done = record.status is Status.EVALUATED
        final = {new: record.last(old) for old, new in _FINAL.items()} if is_done else {}
        return Run(
            id=folder.name,
            project=PROJECT,
            group=group,
            name=name[:_MAX_NAME],
            tags=_tags(config),
            config=config,
            axis="epoch",
            rows=_numbers(results.read_table(folder / CURVE_FILE).to_pylist()),
            summary={
                "status": str(record.status),
                **{key: value for key, value in final.items() if value is not None},
            },
            begun=begun.timestamp(),
            exit_code=0 if is_done else 1,
        )

    def _pretraining(self, folder: Path) -> Run | None:
        about = pretraining_folder.read_about(folder)
        if not about:
            return None
        table = results.read_table(folder / CURVE_FILE)
        rows = pretraining_folder.by_iteration(table.to_pylist())
        is_done = pretraining_folder.is_done(folder)
        return Run(
            id=folder.name,
            project=PRETRAIN_PROJECT,
            group=about["phase"],
            name=f"{about['label']} {folder.name[:8]}",
            tags=["wm_pretraining", *about["label"].split(" world model, ")],
            config=about["config"],
            axis="iteration",
            rows=_numbers(rows),
            summary={"status": "done" if is_done else "stopped"},
            begun=pretraining_folder.begun_at(about),
            exit_code=0 if is_done else 1,
        )

    def _named(self, folder: Path) -> tuple[str, str]:
        """Return a trial's sweep and its name there, as they were when its run was first made."""
        kept = wandb_state.read_state(folder)
        if "group" in kept:
            return kept["group"], kept["name"]
        if folder.name not in self._names:
            sweeps = [self._sweep] if self._sweep else list_sweeps(self._results)
            for sweep in reversed(sweeps):  # so that the first one wins
                names = names_in(self._results / sweep)
                asked = read_sweep(self._results / sweep).get("trials", [])
                self._names |= {trial: (sweep, names.get(trial, trial)) for trial in asked}
        return self._names.get(folder.name, ("", folder.name))


def _is_pretraining(folder: Path) -> bool:
    return folder.parent.name == pretraining_folder.PRETRAINED_FOLDER


def _tags(config: dict[str, Any]) -> list[str]:
    """Return variant, task, methodology and fidelity."""
    tags = [
        variant_of(config["world_model"]["kind"], config["policy"]["kind"]),
        config["task"],
        methodology_of(config["world_model_from"], config["finetune_wm"]),
        Fidelity(**config["fidelity"]).name,
    ]
    return [tag[:_MAX_TAG] for tag in tags]


def _numbers(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if isinstance(v, int | float)} for row in rows]
