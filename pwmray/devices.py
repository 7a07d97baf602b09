"""The device that a command runs on, and torch on it."""

import torch

from pwmray import precision
from pwmray.commands import unknown


def set_up_torch(device: torch.device, num_threads: int, matmul: str = precision.FLOAT32) -> None:
    """Set what torch keeps for the whole process: threads, denormals, how products are computed.

    Raises ValueError for a `matmul` that the device lacks.
    """
    torch.set_num_threads(num_threads)
    # Adam's moments of parameters at rest decay into denormals, which cost time, not accuracy.
    torch.set_flush_denormal(True)
    precision.set_matmul(matmul, device)


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
