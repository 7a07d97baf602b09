"""A trial's pretrained world model: where it lies, whether it fits, and taking it up."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pwmray.commands import nearest
from pwmray.config import PRETRAINED, SCRATCH, TrialConfig
from pwmray.models import WorldModel
from pwmray.models.checkpoints import (
    WorldModelCheckpoint,
    digest,
    fitting_state,
    load_world_model,
)
from pwmray.pretraining import BEST_FILE, is_done
from pwmray.pretraining_config import FREE, PretrainingConfig
from pwmray.tasks import TASKS


def check_pretrained(config: TrialConfig) -> None:
    """Raise ValueError unless the trial's checkpoint, if it has one, fits the trial."""
    if config.is_pretrained:
        _fitting(config)


def resolve_pretrained(
    trial: TrialConfig, scale: Mapping[str, Any], results_dir: Path, make_with: str
) -> TrialConfig:
    """Return the trial with the file of its pretrained world model.

    Raises ValueError with the command that makes the file where it is missing.
    """
    pretraining = PretrainingConfig.behind(trial, scale)
    path = pretraining.folder(results_dir) / BEST_FILE
    if not is_done(path.parent):
        raise ValueError(f"no pretrained {pretraining.label} at {path}; make it with: {make_with}")
    return dataclasses.replace(trial, world_model_from=str(path))


def place_pretrained(trial: TrialConfig) -> TrialConfig:
    """Return the trial with the whole path of its file; raise ValueError where there is none."""
    return dataclasses.replace(trial, world_model_from=str(_find_file(trial.world_model_from)))


def load_pretrained(model: WorldModel, config: TrialConfig) -> None:
    """Give the model the weights and the observation scale of the trial's checkpoint."""
    model.load_state_dict(fitting_state(_fitting(config)))


def world_model_id(config: TrialConfig) -> str:
    """Return "scratch" or what tells the trial's checkpoint from others, for the tables."""
    if not config.is_pretrained:
        return SCRATCH
    checkpoint = _fitting(config)
    content = digest(_find_file(config.world_model_from))[:8]
    return f"{checkpoint.config.kind}-{checkpoint.iterations}-{content}"


def known_tasks(config: TrialConfig) -> tuple[str, ...]:
    """Return the tasks that the trial's world model was trained on, here or before."""
    return _fitting(config).tasks if config.is_pretrained else (config.task,)


def _fitting(config: TrialConfig) -> WorldModelCheckpoint:
    path = _find_file(config.world_model_from)
    checkpoint = _load(path, digest(path))
    wrong = _differences(config, checkpoint)
    if wrong:
        raise ValueError(f"{path} does not fit {config.label}: {'; '.join(wrong)}")
    return checkpoint


def _find_file(value: str) -> Path:
    """Return the whole path of the file that `world_model_from` names; ValueError without one."""
    path = Path(value).expanduser().resolve()
    if path.is_file():
        return path
    beside = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
    hint = nearest(path.name, [SCRATCH, PRETRAINED, *beside])
    raise ValueError(
        f"world_model_from is {value!r}, but {path} is not a file{hint}; valid: a file, "
        f"{SCRATCH!r}, or {PRETRAINED!r} in a sweep"
    )


@functools.lru_cache(maxsize=4)
def _load(path: Path, digest: str) -> WorldModelCheckpoint:
    """Read a checkpoint once for all the trials of a sweep; another content is read anew."""
    return load_world_model(path)


def _differences(config: TrialConfig, checkpoint: WorldModelCheckpoint) -> list[str]:
    if checkpoint.num_tasks != len(TASKS):
        return [f"it has {checkpoint.num_tasks} tasks, MT30 has {len(TASKS)}"]
    ours, theirs = map(dataclasses.asdict, (config.world_model, checkpoint.config))
    wrong = [
        f"world_model.{name} is {theirs.get(name)!r} there and {value!r} here"
        for name, value in ours.items()
        if name not in FREE and theirs.get(name) != value
    ]
    if config.task not in checkpoint.tasks:
        wrong.append(f"it was trained on {', '.join(checkpoint.tasks) or 'unknown tasks'}")
    is_tangent = checkpoint.has_tangent_velocity
    if config.world_model.kind == "flow" and is_tangent != config.fidelity.tangent_velocity:
        wrong.append(f"fidelity.tangent_velocity is {is_tangent} there and {not is_tangent} here")
    return wrong
