"""Checkpoints: tensors and plain data only, written whole, loadable without trusting them.

A file is one line, the format and the SHA-256 of what follows, and then torch's own format.
"""

import hashlib
import io
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
        "input_order": list(INPUT_ORDER),
        "learner": learner.state_dict(),
        "optimizers": {name: o.state_dict() for name, o in learner.optimizers.items()},
        "generators": {name: g.get_state() for name, g in generators.items()},
        "progress": progress,
    }
    content = io.BytesIO()
    torch.save(state, content)
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    with replacing(path) as draft, open(draft, "wb") as file:
        file.write(f"{FORMAT} {digest}\n".encode())
        file.write(content.getbuffer())


def load(
    path: Path, learner: Learner, generators: dict[str, torch.Generator], device: torch.device
) -> dict[str, Any]:
    """Restore everything that `save` wrote and return `progress`.

    Raises ValueError naming a file that is damaged, of another format or of another architecture.
    """
    state = _read(path, device)
    try:
        learner.load_state_dict(state["learner"])
    except RuntimeError as error:  # torch lists every key and shape that differs
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not fit this learner: {reason}") from error
    for name, optimizer in learner.optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    for name, generator in generators.items():
        generator.set_state(state["generators"][name].cpu())
    return state["progress"]


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    """Return the state in `path` after checking its format and its digest."""
    with open(path, "rb") as file:
        found, _, digest = file.readline().decode(errors="replace").strip().partition(" ")
        content = file.read()
    if found != FORMAT:
        raise ValueError(
            f"{path} is not a readable checkpoint: its format is {found[:40]!r}, not {FORMAT!r}"
        )
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{path} is not a readable checkpoint: its content is damaged")
    return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
