"""What the machine is and can do: its name, its peak for matrix products, the memory in use."""

import gc
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pwmray import precision, provenance

# m, n, k of the products whose rate is the peak: a wide layer's on a CPU, a GPU filled.
CPU_PRODUCT = (4096, 1792, 1792)
GPU_PRODUCT = (8192, 8192, 8192)
CPUINFO = Path("/proc/cpuinfo")
_PEAK_REPEATS = 4
_MIB = 2**20
_COPIED_BYTES = 2**29
_PRECISION_OF_TORCH = "highest"  # its default for float32 products


def measure_peak(matmul: str, device: torch.device) -> float:
    """Return the GFLOP/s of one large product under a `learner.matmul`, the best of several.

    Inputs of bfloat16 are so from the start, if the device has its products. Leaves
    `precision.set_matmul` for it in force.
    """
    precision.set_matmul(matmul, device)
    m, n, k = GPU_PRODUCT if device.type == "cuda" else CPU_PRODUCT
    is_bfloat16 = matmul == precision.BFLOAT16 and precision.has_bfloat16(device)
    dtype = torch.bfloat16 if is_bfloat16 else torch.float32
    a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((m, k), (k, n)))
    out = torch.empty(m, n, device=device, dtype=dtype)

    def multiply() -> None:
        torch.mm(a, b, out=out)

    multiply()  # what is loaded and allocated on first use
    seconds = [time_call(multiply, device) for _ in range(_PEAK_REPEATS)]
    return 2e-9 * m * n * k / min(seconds)


def measure_bandwidth(device: torch.device) -> float:
    """Return the bytes per second that a large copy reads and writes, the best of several."""
    source = torch.zeros(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = [time_call(lambda: target.copy_(source), device) for _ in range(_PEAK_REPEATS)]
    return 2 * _COPIED_BYTES / min(seconds)


def matmuls(device: torch.device) -> list[str]:
    """Return the values of `learner.matmul` that the device has."""
    return [m for m in precision.MATMULS if m != precision.TF32 or device.type == "cuda"]


def time_call(call: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call, with all of its work on the device."""
    synchronise(device)
    started = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    """Wait for the device's work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def precision_of_torch() -> Iterator[None]:
    """Compute float32 products as torch does where nobody chooses, within the context."""
    own = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(_PRECISION_OF_TORCH)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(own)


def start_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` begin here."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> float:
    """Return the most MiB taken since `start_peak_memory`: of the GPU's, or the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / _MIB
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def describe(device: torch.device) -> dict[str, str | None]:
    """Return the device, its driver, the processor, the versions and the commit."""
    code = provenance.code()
    on_gpu = device.type == "cuda"
    return {
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if on_gpu else "",
        "driver": _driver() if on_gpu else "",
        "cuda_version": (torch.version.cuda or "") if on_gpu else "",
        "cpu": processor(),
        "torch_version": torch.__version__,
        "python_version": code["python_version"],
        "git_commit": code["git_commit"],
    }


def processor() -> str:
    """Return the processor's name, with its family and model where Linux says them.

    Those tell generations of servers apart that a virtual machine gives one name.
    """
    try:
        lines = CPUINFO.read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    about = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    name = about.get("model name") or platform.processor()
    if "cpu family" not in about or "model" not in about:
        return name
    return f"{name} (family {about['cpu family']}, model {about['model']})"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.partition("\n")[0].strip()
