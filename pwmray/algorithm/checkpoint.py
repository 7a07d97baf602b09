"""Checkpoints: tensors and plain data only, written whole, loadable without trusting them."""

from pathlib import Path
from typing import Any

import torch

from pwmray.algorithm.pwm import Learner
from pwmray.files import replacing
from pwmray.models.world_model import INPUT_ORDER

FORMAT = "pwmray-checkpoint-1"


def save(
    path: Path,
    learner: Learner,
    generators: dict[str, torch.Generator],
    progress: dict[str, Any],
) -> None:
    """Write the learner, its optimizers, the random states and `progress` (plain data)."""
    state = {
        "format": FORMAT,
        "input_order": list(INPUT_ORDER),
        "learner": learner.state_dict(),
        "optimizers": {name: o.state_dict() for name, o in learner.optimizers.items()},
        "generators": {name: g.get_state() for name, g in generators.items()},
        "progress": progress,
    }
    with replacing(path) as draft:
        torch.save(state, draft)


def load(
    path: Path, learner: Learner, generators: dict[str, torch.Generator], device: torch.device
) -> dict[str, Any]:
    """Restore everything that `save` wrote and return `progress`.

    Raises ValueError naming a file that is damaged or of another format.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        found = state["format"]
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ValueError(f"{path} is not a readable checkpoint ({error})") from error
    if found != FORMAT:
        raise ValueError(f"{path} has format {found!r}; this version reads {FORMAT!r}")
    learner.load_state_dict(state["learner"])
    for name, optimizer in learner.optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    for name, generator in generators.items():
        generator.set_state(state["generators"][name].cpu())
    return state["progress"]
