"""A trial's pretrained world model: where it lies, whether it fits, and taking it up."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pwmray.config import PRETRAINED, SCRATCH, TrialConfig
from pwmray.data.sources import current_fingerprint, join_fingerprints
from pwmray.fidelity import Fidelity
from pwmray.files import named_path
from pwmray.levels import setting_of
from pwmray.models import WORLD_MODELS, WorldModel, WorldModelConfig
from pwmray.models.checkpoints import WorldModelCheckpoint, digest, fitting_state, load_world_model
from pwmray.pretraining.config import FREE, PretrainingConfig
from pwmray.pretraining.folder import BEST_FILE, LAST_FILE, is_done, read_about
from pwmray.results import TRAINED_AS, TRAINED_BY, TRAINED_WITH, UNKNOWN
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM, TASKS
from pwmray.wording import nearest, number_of

_SLACK = 0.05  # the sizes' kinds are within 2 % of each other


def check_pretrained(config: TrialConfig) -> None:
    """Raise ValueError unless the trial's checkpoint, if it has one, fits the trial."""
    if config.is_pretrained and not config.awaits_world_model:
        _fitting(config)


def check_unchanged(config: TrialConfig, fingerprint: str) -> None:
    """Raise ValueError where the trial's file holds another model than when it was planned."""
    path = _file_of(config)
    if config.fingerprint != fingerprint:
        raise ValueError(f"{path} changed since the sweep was planned: start it again")


def check_matched(configs: Sequence[TrialConfig]) -> None:
    """Raise ValueError where trials of several kinds of world model compare unlike training.

    Every file must have one of each other kind that was trained like it: iterations, data, tasks
    and, where it is told, all settings that both kinds have, and the code; the number of parameters
    for those of one size.
    """
    configs = [c for c in configs if c.is_pretrained and not c.awaits_world_model]
    files = {config.world_model_from: config for config in configs}
    by_kind: dict[str, list[_Training]] = {}
    for config in files.values():
        by_kind.setdefault(config.world_model.kind, []).append(_describe_training(config))
    first, *others = by_kind.values() or [[]]
    wrong = [line for some in others for line in _unmatched(first, some) or _unmatched(some, first)]
    if wrong:
        raise ValueError(
            f"the pretrained world models do not match: {'; '.join(wrong)}. Take others, or add "
            "--allow-unmatched"
        )


def place_pretrained(trial: TrialConfig) -> TrialConfig:
    """Return the trial with the whole path of its file; raise ValueError where there is none."""
    if not trial.is_pretrained or trial.awaits_world_model:
        return trial
    path = find_file(trial.world_model_from, "world_model_from")
    return dataclasses.replace(trial, world_model_from=str(path))


def kind_of(path: Path) -> str:
    """Return the kind of the world model in a file; raise ValueError for a file that has none."""
    return _look_at(path, digest(path)).config.kind


def misfit(config: TrialConfig) -> str:
    """Say why the trial's checkpoint does not fit it; empty where it does."""
    path = _file_of(config)
    wrong = _differences(config, _look_at(path, config.world_model_digest))
    return f"{path} does not fit {config.label}: {'; '.join(wrong)}" if wrong else ""


def load_pretrained(model: WorldModel, config: TrialConfig) -> None:
    """Give the model the weights and the observation scale of the trial's checkpoint."""
    _fitting(config)
    model.load_state_dict(fitting_state(_load(_file_of(config), config.world_model_digest)))


def world_model_id(config: TrialConfig) -> str:
    """Return "scratch" or what tells the trial's checkpoint from others, for the tables."""
    if not config.is_pretrained:
        return SCRATCH
    checkpoint = _fitting(config)
    return f"{checkpoint.config.kind}-{checkpoint.iterations}-{config.world_model_digest[:8]}"


def world_model_training(config: TrialConfig) -> str | None:
    """Return what world models that are compared must share, in words; None from scratch.

    Settings are there as a hash, where the file tells them, and the code, where its folder does.
    """
    if not config.is_pretrained:
        return None
    training = _describe_training(config)
    shared = {name: _shown(value) for name, value in training.shared.items()}
    number = len(known_tasks(config))
    tasks = number_of(number, "task")
    told = f"{shared['iterations']} iterations on data {shared['data']} of {tasks}"
    if not training.settings:
        return told
    text = json.dumps(training.settings, sort_keys=True)
    code = f"{TRAINED_BY}{training.code}" if training.code else ""
    code += f"{TRAINED_AS}{training.own_code}" if training.own_code else ""
    return f"{told}{TRAINED_WITH}{hashlib.sha256(text.encode()).hexdigest()[:8]}{code}"


def known_tasks(config: TrialConfig) -> tuple[str, ...]:
    """Return the tasks that the trial's world model was trained on, here or before."""
    return _fitting(config).tasks if config.is_pretrained else (config.task,)


def is_of_other_data(pretraining: PretrainingConfig, folder: Path, data_dir: Path) -> bool:
    """Tell whether a pretraining is done, on other data than is in `data_dir` now.

    Nothing is told by data that is not there, or a checkpoint that cannot be read.
    """
    if not is_done(folder):
        return False
    now = [current_fingerprint(task, pretraining.data, data_dir) for task in pretraining.tasks]
    known = [fingerprint for fingerprint in now if fingerprint is not None]
    if len(known) < len(now):
        return False
    path = folder / BEST_FILE
    try:
        trained_on = _look_at(path, digest(path)).data_fingerprint
    except (ValueError, OSError):
        return False
    return trained_on not in ("", join_fingerprints(known))


def find_file(value: str, what: str) -> Path:
    """Return the whole path of a file that `what` names; raise ValueError where there is none."""
    path = named_path(value)
    if path.is_file():
        return path
    beside = [p.name for p in path.parent.glob("*") if p.suffix in (".ckpt", ".pt")]
    is_setting = what == "world_model_from"
    words = [SCRATCH, PRETRAINED] if is_setting else []
    valid = f"a file, {SCRATCH!r}, or {PRETRAINED!r} in a sweep" if is_setting else "a file"
    hint = nearest(path.name, [*words, *beside])
    raise ValueError(f"{what} is {value!r}, but {path} is not a file{hint} valid: {valid}")


def _file_of(config: TrialConfig) -> Path:
    return find_file(config.world_model_from, "world_model_from")


def _fitting(config: TrialConfig) -> WorldModelCheckpoint:
    """Return what is known of the trial's checkpoint; raise ValueError where it does not fit."""
    if wrong := misfit(config):
        raise ValueError(wrong)
    return _look_at(_file_of(config), config.world_model_digest)


@functools.cache
def _look_at(path: Path, digest: str) -> WorldModelCheckpoint:
    """Return a checkpoint without its numbers, read once for all the trials of a sweep."""
    checkpoint = _load(path, digest)
    state = {name: tensor.to("meta") for name, tensor in checkpoint.state.items()}
    return dataclasses.replace(checkpoint, state=state)


@functools.lru_cache(maxsize=4)
def _load(path: Path, digest: str) -> WorldModelCheckpoint:
    """Read a checkpoint; refuse another content."""
    return load_world_model(path, digest)


class _Training(NamedTuple):
    """What world models that are compared must share, and the file that says it."""

    path: Path
    size: Any
    num_parameters: int
    shared: dict[str, Any]
    settings: Mapping[str, Any]  # empty where the file does not tell
    code: str | None  # its fingerprint, else the commit; None where nothing tells it
    own_code: str | None  # of its kind


def _describe_training(config: TrialConfig) -> _Training:
    path, checkpoint = _file_of(config), _fitting(config)
    number = sum(tensor.numel() for tensor in checkpoint.state.values())
    shared = {
        "iterations": _num_iterations(path, checkpoint),
        "data": checkpoint.data_fingerprint or None,
        "tasks": ", ".join(checkpoint.tasks),
    }
    about = read_about(path.parent) if path.name in (BEST_FILE, LAST_FILE) else {}
    code = about.get("code_fingerprint") or about.get("git_commit")
    told = checkpoint.training, code, about.get("world_model_code")
    return _Training(path, setting_of(config, "size"), number, shared, *told)


def _num_iterations(path: Path, checkpoint: WorldModelCheckpoint) -> int | None:
    """Return how long a model was trained; the best of a run is of an iteration before its end."""
    if checkpoint.run_iterations is not None:
        return checkpoint.run_iterations
    last = path.parent / LAST_FILE  # a file of an earlier version does not say it itself
    if path.name != BEST_FILE or not last.is_file():
        return checkpoint.iterations
    return _look_at(last, digest(last)).iterations


def _unmatched(ones: Sequence[_Training], others: Sequence[_Training]) -> list[str]:
    """Return what is unlike for each of `ones` that none of `others`, of another kind, matches."""
    wrong = []
    for one in ones:
        found = [_unlike(one, o) for o in [o for o in others if o.size == one.size] or others]
        wrong += found[0] if all(found) else []
    return wrong


def _unlike(one: _Training, other: _Training) -> list[str]:
    wrong = [
        f"{name} is {_shown(value)} in {one.path} and {_shown(other.shared[name])} in {other.path}"
        for name, value in one.shared.items()
        if value is None or value != other.shared[name]
    ]
    both = [name for name in one.settings if name in other.settings]
    odd = [name for name in both if one.settings[name] != other.settings[name]]
    wrong += [
        f"{name} is {one.settings[name]} in {one.path} and {other.settings[name]} in {other.path}"
        for name in odd[:1]
    ]
    if one.code and other.code and one.code != other.code:
        wrong.append(f"code is {one.code} in {one.path} and {other.code} in {other.path}")
    largest = max(one.num_parameters, other.num_parameters)
    if one.size == other.size and abs(one.num_parameters - other.num_parameters) > _SLACK * largest:
        wrong.append(
            f"{one.path} has {one.num_parameters} parameters and {other.path} "
            f"{other.num_parameters}"
        )
    return wrong


def _shown(value: Any) -> Any:
    return UNKNOWN if value is None else value


def _differences(config: TrialConfig, checkpoint: WorldModelCheckpoint) -> list[str]:
    if checkpoint.num_tasks != len(TASKS):
        return [f"it has {number_of(checkpoint.num_tasks, 'task')}, MT30 has {len(TASKS)}"]
    if checkpoint.obs_dim < MAX_OBS_DIM or checkpoint.action_dim != MAX_ACTION_DIM:
        return [
            f"it takes {checkpoint.obs_dim} observations and {checkpoint.action_dim} actions; ours "
            f"take {MAX_OBS_DIM} and {MAX_ACTION_DIM}"
        ]
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
    return wrong or _other_shapes(config, checkpoint)


def _other_shapes(config: TrialConfig, checkpoint: WorldModelCheckpoint) -> list[str]:
    """Say which of its tensors is first to differ from those of the kind as it is built now."""
    kind = WORLD_MODELS[config.world_model.kind]
    try:
        ours = _shapes_of(kind, config.world_model, config.fidelity)
    except Exception:  # a person's code: the check of what kinds promise tells what is wrong in it
        return []
    theirs = {name: list(tensor.shape) for name, tensor in fitting_state(checkpoint).items()}
    odd = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    return [f"its {n} is {theirs.get(n, 'missing')}, not {ours.get(n, 'there')}" for n in odd[:1]]


@functools.cache
def _shapes_of(
    kind: type[WorldModel], config: WorldModelConfig, fidelity: Fidelity
) -> dict[str, list[int]]:
    """Return the shapes of a world model's state, without its numbers."""
    with torch.device("meta"):
        model = kind(config, torch.Generator(), fidelity=fidelity)
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
