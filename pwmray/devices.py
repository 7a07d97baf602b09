"""The device that a command runs on."""

import torch

from pwmray.commands import unknown


def choose_device(name: str | None) -> torch.device:
    """Return the device called `name`, without a name the GPU where there is one.

    Raises ValueError for a name other than cpu and cuda, and for cuda where there is none.
    """
    has_gpu = torch.cuda.is_available()
    name = name or ("cuda" if has_gpu else "cpu")
    if name not in ("cpu", "cuda"):
        raise ValueError(unknown("device", name, ("cpu", "cuda")))
    if name == "cuda" and not has_gpu:
        raise ValueError("--device is cuda, and torch finds no GPU here; valid: cpu")
    return torch.device(name)
