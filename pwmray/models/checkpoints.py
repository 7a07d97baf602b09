"""A pretrained world model in a file of its own: the weights, and all that is known of them.

The file says which tasks the model knows, how it was trained, and under which fidelity it means
something, so that a trial can be refused before it starts.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pwmray import checkpoint_file
from pwmray.models import WORLD_MODELS, WorldModel, WorldModelConfig
from pwmray.models.world_model import INPUT_ORDER
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM

FORMAT = "pwmray-world-model-1"


class Source(NamedTuple):
    """The published file that a world model was imported from."""

    file: str  # its name
    sha256: str  # of the whole file
    format: str
    input_order: dict[str, tuple[str, ...]]  # of the columns in that file, by part
    ignored: tuple[str, ...]  # what that file holds beside a world model


@dataclass(frozen=True)
class WorldModelCheckpoint:
    """A world model's weights under our names, its architecture, and where it comes from."""

    config: WorldModelConfig
    state: dict[str, Tensor]
    num_tasks: int  # rows of the task embedding
    obs_dim: int
    action_dim: int
    fidelity: str  # the name of the one it was trained under
    task_set: str = ""  # mt30, mt80; empty where unknown
    tasks: tuple[str, ...] = ()  # names of the embedding's first rows, as far as they are known
    iterations: int | None = None  # of training; None where unknown
    data_fingerprint: str = ""  # of the data it was trained on; empty where unknown
    run_iterations: int | None = None  # of the whole run, of which this may be the best state
    # How it was trained, as far as world models of all kinds can share it; empty where unknown.
    training: Mapping[str, Any] = field(default_factory=dict)
    source: Source | None = None

    @property
    def has_tangent_velocity(self) -> bool:
        """Whether a flow's velocity is the corrected one; True for a model that is no flow."""
        return not any(name.startswith("published_velocity.") for name in self.state)


_PLAIN = tuple(
    field.name
    for field in dataclasses.fields(WorldModelCheckpoint)
    if field.name not in ("config", "source")
)
_LATER = ("run_iterations", "training")  # files of earlier versions lack them


def describe_world_model(
    world_model: WorldModel,
    fidelity: str,
    task_set: str,
    tasks: tuple[str, ...],
    iterations: int,
    data_fingerprint: str,
    run_iterations: int | None = None,
    training: Mapping[str, Any] | None = None,
) -> WorldModelCheckpoint:
    """Return a copy of a model's weights, on the CPU, with what is known of its training."""
    state = {
        name: tensor.detach().cpu().clone() for name, tensor in world_model.state_dict().items()
    }
    return WorldModelCheckpoint(
        config=world_model.config,
        state=state,
        num_tasks=world_model.task_embedding.num_embeddings,
        obs_dim=MAX_OBS_DIM,
        action_dim=MAX_ACTION_DIM,
        fidelity=fidelity,
        task_set=task_set,
        tasks=tasks,
        iterations=iterations,
        data_fingerprint=data_fingerprint,
        run_iterations=run_iterations,
        training=dict(training or {}),
    )


def save_world_model(path: Path, checkpoint: WorldModelCheckpoint) -> None:
    """Write a world model whole or not at all."""
    content: dict[str, Any] = {name: getattr(checkpoint, name) for name in _PLAIN}
    content["config"] = dataclasses.asdict(checkpoint.config)
    content["source"] = checkpoint.source and checkpoint.source._asdict()
    content["input_order"] = INPUT_ORDER
    checkpoint_file.write(path, FORMAT, content)


def load_world_model(path: Path, expected: str | None = None) -> WorldModelCheckpoint:
    """Read a world model, on the CPU, its digest checked.

    Raises ValueError naming the file and what is wrong with it: damaged, of another format, of a
    newer version, of another digest than the `expected` one, of an architecture that is not known
    here, or with a number that is not finite.
    """
    _check_is_ours(path, checkpoint_file.read_header(path))
    content = checkpoint_file.read(path, FORMAT, torch.device("cpu"), expected)
    missing = {*_PLAIN, "config", "source", "input_order"} - {*content, *_LATER}
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}")
    if content["input_order"] != INPUT_ORDER:
        raise ValueError(
            f"{path} takes its inputs in the order {content['input_order']}, not {INPUT_ORDER}"
        )
    try:
        check_finite(content["state"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return WorldModelCheckpoint(
        config=_read_config(path, content["config"]),
        source=content["source"] and Source(**content["source"]),
        **{name: content[name] for name in _PLAIN if name in content},
    )


def check_finite(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError for the first tensor with a number that is not finite."""
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise ValueError(f"its tensor {name!r} has numbers that are not finite")


def digest(path: Path) -> str:
    """Return the SHA-256 that names a world model's content, read from the first line alone."""
    header = checkpoint_file.read_header(path)
    _check_is_ours(path, header)
    return header.digest


def fitting_state(checkpoint: WorldModelCheckpoint) -> dict[str, Tensor]:
    """Return the weights without the observation entries beyond ours (mt80 has 39).

    The tasks of MT30 are 0 there.
    """
    state = dict(checkpoint.state)
    if checkpoint.obs_dim == MAX_OBS_DIM:  # also of a kind whose encoder is another
        return state
    ours = slice(0, MAX_OBS_DIM)
    first = state["encoder.0.weight"]
    task_columns = first[:, checkpoint.obs_dim :]
    state["encoder.0.weight"] = torch.cat([first[:, ours], task_columns], dim=1)
    state["obs_mean"], state["obs_std"] = state["obs_mean"][ours], state["obs_std"][ours]
    return state


def _check_is_ours(path: Path, header: checkpoint_file.Header) -> None:
    if not checkpoint_file.is_of(header, FORMAT):
        raise ValueError(
            f"{path} is not a world model of ours; `pwmray checkpoint info` tells what it is and "
            "`pwmray checkpoint import` converts published files"
        )
    checkpoint_file.check_format(path, header.format, FORMAT)


def _read_config(path: Path, settings: dict[str, Any]) -> WorldModelConfig:
    kind = settings.get("kind")
    if kind not in WORLD_MODELS:
        raise ValueError(
            f"{path} holds a world model of kind {kind!r}; valid: {', '.join(WORLD_MODELS)}"
        )
    config_type = WORLD_MODELS[kind].Config
    unknown = settings.keys() - {field.name for field in dataclasses.fields(config_type)}
    if unknown:
        raise ValueError(f"{path} has unknown settings: {', '.join(sorted(unknown))}")
    return config_type(**settings)
