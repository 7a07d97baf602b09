"""A trial's checkpoint: all that it takes to go on, and what the file says of itself."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from pwmray import checkpoint_file
from pwmray.algorithm import replay
from pwmray.algorithm.pwm import Learner
from pwmray.models.world_model import INPUT_ORDER
from pwmray.seeding import restore as restore_stream

FORMAT = "pwmray-checkpoint-2"


def save(
    path: Path,
    about: dict[str, Any],
    learner: Learner,
    generators: dict[str, torch.Generator],
    progress: dict[str, Any],
) -> None:
    """Write the learner, its optimizers, the random states and `progress` (plain data).

    `about` is plain data too: the trial's config, from which the learner is built again, and the
    tasks that its world model was trained on.
    """
    state = {
        "metadata": {**about, "parameters": _count_parameters(learner)},
        "input_order": list(INPUT_ORDER),
        "learner": learner.state_dict(),
        "optimizers": {n: replay.portable_state(o) for n, o in learner.optimizers.items()},
        "generators": {name: g.get_state() for name, g in generators.items()},
        "progress": progress,
    }
    checkpoint_file.write(path, FORMAT, state)


class Saved(NamedTuple):
    """What a file held when it was read."""

    path: Path
    digest: str  # SHA-256 of the content
    state: dict[str, Any]

    @property
    def metadata(self) -> dict[str, Any]:
        """What the file says of itself. Keys: config; tasks; parameters by part; progress."""
        return self.state["metadata"] | {"progress": self.state["progress"]}


def read(path: Path, device: torch.device) -> Saved:
    """Read a checkpoint; raise ValueError naming one that is damaged or of another format."""
    state, digest = checkpoint_file.read_with_digest(path, FORMAT, device)
    return Saved(path, digest, state)


def load(
    path: Path, learner: Learner, generators: dict[str, torch.Generator], device: torch.device
) -> dict[str, Any]:
    """Restore everything that `save` wrote and return `progress`.

    Raises ValueError naming a file that is damaged, of another format or of another architecture.
    """
    return restore(read(path, device), learner, generators)


def restore(
    saved: Saved, learner: Learner, generators: dict[str, torch.Generator]
) -> dict[str, Any]:
    """Restore everything that was read and return `progress`.

    Raises ValueError (OtherCodeError) naming a file of another architecture.
    """
    state = saved.state
    with checkpoint_file.fitting(saved.path):
        learner.load_state_dict(state["learner"])
        for name, optimizer in learner.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
    for name, generator in generators.items():
        restore_stream(generator, state["generators"][name], name)
    return state["progress"]


def _count_parameters(learner: Learner) -> dict[str, int]:
    parts = {
        "world_model": learner.world_model,
        "policy": learner.policy,
        "critic": learner.critics,
    }
    return {
        name: sum(parameter.numel() for parameter in part.parameters())
        for name, part in parts.items()
    }
