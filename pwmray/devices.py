"""The device that a command runs on, and torch on it."""

import ctypes
import gc

import torch

from pwmray import precision
from pwmray.wording import one_line, unknown

# mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = (2**30, 2**25)  # the latter is the most that glibc before 2.35 takes


def set_up_torch(device: torch.device, num_threads: int, matmul: str = precision.FLOAT32) -> None:
    """Set what torch keeps for the whole process: threads, denormals, how products are computed.

    GPU memory that earlier trials of the process took no longer counts. Raises ValueError for a GPU
    that torch cannot use, and for a `matmul` that the device lacks.
    """
    if device.type == "cuda":
        check_gpu()
    torch.set_num_threads(num_threads)
    # Adam's moments of parameters at rest decay into denormals, which cost time, not accuracy.
    torch.set_flush_denormal(True)
    precision.set_matmul(matmul, device)
    if device.type == "cpu":
        _keep_freed_memory()
    elif torch.cuda.is_initialized():
        _start_memory(device)


def check_gpu() -> None:
    """Raise ValueError where torch cannot use the GPU that Ray found here."""
    if torch.cuda.is_available():
        return
    try:
        torch.cuda.init()
        reason = "it finds none"
    except (RuntimeError, AssertionError) as error:  # a driver too old or hidden, torch for CPUs
        reason = one_line(error)
    raise ValueError(
        f"torch {torch.__version__} cannot use the GPU that Ray found here: {reason}; install a "
        "torch that fits the driver, or hide the GPU (CUDA_VISIBLE_DEVICES=) to train on the CPUs"
    )


def _start_memory(device: torch.device) -> None:
    """Give back memory that the process has freed, and measure its peak use from here on.

    torch would keep it from other trials on this GPU, and from the room for a trial's rows.
    """
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)


def _keep_freed_memory() -> None:
    """Tell glibc not to give large blocks back to the system, which clears them for the next use.

    An update makes and frees the same ones again and again.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return
    # Either ends glibc's own adapting to large blocks, so the first alone would do harm.
    if any(mallopt(_M_MMAP_THRESHOLD, size) for size in _KEPT_BYTES):
        mallopt(_M_TRIM_THRESHOLD, max(_KEPT_BYTES))


def choose_device(name: str | None) -> torch.device:
    """Return the device called `name`, without a name the GPU where there is one.

    Raises ValueError for a name other than cpu and cuda, and for cuda where there is none.
    """
    has_gpu = torch.cuda.is_available()
    name = name or ("cuda" if has_gpu else "cpu")
    if name not in ("cpu", "cuda"):
        raise ValueError(unknown("device", name, ("cpu", "cuda")))
    if name == "cuda" and not has_gpu:
        raise ValueError("--device is cuda, but torch finds no GPU here; valid: cpu")
    return torch.device(name)
