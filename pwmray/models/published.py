"""Read the world models of published files: PWM's, its flow fork's and TD-MPC2's.

Three layouts, told apart by their keys: the agent that PWM saves, TD-MPC2's multitask file, and
the file of the fork's pretraining script. All hold the same networks under almost the same names.
The architecture follows from the shapes; what does not fit is named.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pwmray.models import WORLD_MODELS, WorldModelConfig
from pwmray.models.architecture import Sizes, check_shapes, infer_sizes
from pwmray.models.checkpoints import Source, WorldModelCheckpoint, check_finite
from pwmray.pickles import load_pickled
from pwmray.tasks import TASK_SETS, TASKS
from pwmray.wording import number_of

# A part's name in the file, and ours. "state" is TD-MPC2's encoder of state observations.
_NAMES = {
    "_task_emb": "task_embedding",
    "_encoder.state": "encoder",
    "_encoder": "encoder",
    "_dynamics": "dynamics",
    "_velocity": "published_velocity",
    "_reward": "reward_head",
}
_OTHER_PARTS = (  # of TD-MPC2's agent, in one version or another
    "_pi",
    "_Qs",
    "_target_Qs",
    "_target_Qs_params",
    "_detach_Qs",
    "_detach_Qs_params",
    "_action_masks",
    "_terminated",
    "_termination",
    "log_std_min",
    "log_std_dif",
)
# How a kind's first layers order their columns in the file. The fork put the action before the
# task in its flow models alone; ours take the order of the baseline, the time last.
_INPUT_ORDERS = {
    "mlp": {"dynamics": ("z", "task", "action"), "reward_head": ("z", "task", "action")},
    "flow": {
        "published_velocity": ("z", "action", "tau", "task"),
        "reward_head": ("z", "action", "task"),
    },
}
_OUR_ORDER = ("z", "task", "action", "tau")
# The fork's flow models end in SimNorm, which no straight line between latents can match, so
# that they work under the learner that trained them alone. The MLP is the same in both.
_FIDELITIES = {"mlp": "corrected", "flow": "published"}

_PRETRAINING_KEYS = ("world_model", "iter", "obs_dim", "act_dim", "horizon", "task_set")
_FILE_NAME = re.compile(r"mt\d+[-_]\d+M[-_](?P<iterations>\d+)\.pt")  # mt30_48M_4900000.pt


class _Found(NamedTuple):
    """A file's world model under its own names, and what the file says of it."""

    format: str
    weights: Mapping[str, Any]
    ignored: list[str]
    task_set: str = ""
    iterations: int | None = None
    dims: tuple[int, int] | None = None  # observation and action


def read_published(path: Path, task_set: str = "", trust: bool = False) -> WorldModelCheckpoint:
    """Read the world model of a published file, converted to our names and column order.

    `task_set` says which tasks the model knows where the file does not; `trust` allows pickles
    that run code. Raises ValueError naming the file and what is wrong with it.
    """
    found = _detect(path, load_pickled(path, trust))
    try:
        state, others = _rename(found.weights)
        sizes = infer_sizes(state)
        check_shapes(state, sizes)
        check_finite(state)
        config = _config(sizes)
        _check_dims(found, sizes)
        name = _task_set(found, task_set, sizes.num_tasks)
    except ValueError as error:
        raise ValueError(f"{path} ({found.format}): {error}") from error
    _reorder_inputs(state, sizes)
    state |= {"obs_mean": torch.zeros(sizes.obs_dim), "obs_std": torch.ones(sizes.obs_dim)}
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    ignored = tuple(found.ignored + others)
    return WorldModelCheckpoint(
        config=config,
        state=state,
        num_tasks=sizes.num_tasks,
        obs_dim=sizes.obs_dim,
        action_dim=sizes.action_dim,
        fidelity=_FIDELITIES[sizes.kind],
        task_set=name,
        tasks=tuple(TASKS) if name in TASK_SETS else (),
        iterations=found.iterations,
        source=Source(path.name, sha256, found.format, _INPUT_ORDERS[sizes.kind], ignored),
    )


def _detect(path: Path, content: Any) -> _Found:
    """Tell the three layouts apart by their keys."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    keys = {str(key) for key in content}
    if isinstance(content.get("model"), Mapping):
        named = _FILE_NAME.fullmatch(path.name)
        iterations = int(named["iterations"]) if named else None
        rest = sorted(keys - {"model"})
        return _Found("TD-MPC2 multitask", content["model"], rest, iterations=iterations)
    if not isinstance(content.get("world_model"), Mapping):
        shown = ", ".join(sorted(keys)[:8]) or "none"
        raise ValueError(f"{path} holds no world model that is known here; its keys: {shown}")
    if "actor" in content:
        rest = sorted(keys - {"world_model", "iter_count"})
        count = content.get("iter_count")  # the fork's
        iterations = count if _is_count(count) else None
        return _Found("PWM agent", content["world_model"], rest, iterations=iterations)
    return _pretraining(path, content)


def _pretraining(path: Path, content: Mapping[str, Any]) -> _Found:
    missing = [key for key in _PRETRAINING_KEYS if key not in content]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}, which PWM's pretraining writes")
    numbers = {key: content[key] for key in ("iter", "obs_dim", "act_dim")}
    for key, value in numbers.items():
        if not _is_count(value):
            raise ValueError(
                f"{path}: its {key} is {value!r}; it must be a whole number of at least 0"
            )
    return _Found(
        "PWM pretraining",
        content["world_model"],
        sorted(set(map(str, content)) - set(_PRETRAINING_KEYS)),
        task_set=str(content["task_set"]),
        iterations=numbers["iter"],
        dims=(numbers["obs_dim"], numbers["act_dim"]),
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _rename(weights: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the world model's tensors under our names, and the parts left out."""
    state: dict[str, Tensor] = {}
    others: dict[str, None] = {}
    for name, tensor in zip(map(str, weights), weights.values(), strict=True):
        part = next((part for part in _NAMES if name.startswith(f"{part}.")), None)
        first = name.partition(".")[0]
        if first in _OTHER_PARTS:
            others[first] = None
        elif part is None or not isinstance(tensor, Tensor):
            raise ValueError(f"{name!r} is no tensor of a world model that is known here")
        elif tensor.is_meta:
            raise ValueError(f"{name!r} is a tensor without data")
        elif tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            raise ValueError(
                f"{name!r} is a {tensor.layout} tensor of {tensor.dtype}; it must be a dense one "
                "of real numbers"
            )
        else:
            # A copy of its own: a view would be saved with all of what it views.
            state[_NAMES[part] + name.removeprefix(part)] = tensor.detach().float().clone()
    return state, list(others)


def _config(sizes: Sizes) -> WorldModelConfig:
    config = WORLD_MODELS[sizes.kind].Config(
        latent_dim=sizes.encoder[-1],
        encoder_units=tuple(sizes.encoder[:-1]),
        units=tuple(sizes.units),
        task_dim=sizes.task_dim,
        num_bins=sizes.num_bins,
    )
    config.check()
    return config


def _check_dims(found: _Found, sizes: Sizes) -> None:
    inferred = (sizes.obs_dim, sizes.action_dim)
    if min(inferred) < 1:
        raise ValueError(f"its first layers leave {inferred} columns for observation and action")
    if found.dims not in (None, inferred):
        raise ValueError(f"it says obs_dim, act_dim = {found.dims}, its tensors say {inferred}")


def _task_set(found: _Found, asked: str, num_tasks: int) -> str:
    """Return the task set that the file or the user says, else the one of that many tasks."""
    if asked and found.task_set not in ("", asked):
        raise ValueError(f"it is of the task set {found.task_set!r}, not {asked!r}")
    by_number = {number: name for name, number in TASK_SETS.items()}
    name = found.task_set or asked or by_number.get(num_tasks, "")
    if TASK_SETS.get(name, num_tasks) != num_tasks:
        raise ValueError(f"it has {number_of(num_tasks, 'task')}; {name} has {TASK_SETS[name]}")
    return name


def _reorder_inputs(state: dict[str, Tensor], sizes: Sizes) -> None:
    """Put the columns of the first layers into our order, in place."""
    blocks = {"z": sizes.encoder[-1], "task": sizes.task_dim, "action": sizes.action_dim, "tau": 1}
    for part, order in _INPUT_ORDERS[sizes.kind].items():
        weight = state[f"{part}.0.weight"]
        columns = dict(zip(order, weight.split([blocks[name] for name in order], 1), strict=True))
        ours = [columns[name] for name in _OUR_ORDER if name in columns]
        state[f"{part}.0.weight"] = torch.cat(ours, dim=1)
