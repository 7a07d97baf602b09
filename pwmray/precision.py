"""How products of float32 matrices are computed: exactly, as TF32 or in bfloat16.

Weights, activations, losses and optimizers are float32 in each case.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

FLOAT32 = "float32"
TF32 = "tf32"  # 10 bits of mantissa, a GPU's tensor cores
BFLOAT16 = "bfloat16"  # 7 bits; sums are float32
MATMULS = (FLOAT32, TF32, BFLOAT16)

_PROBE_SIZE = 512
_FLOAT32_ERROR = 1e-5  # of a product of that size, relative; bfloat16 would have 2e-3

# In bfloat16, within `autocast`: weights by their identity, which they keep as long as they live.
_constants: dict[int, tuple[Tensor, Tensor]] | None = None


def set_matmul(matmul: str, device: torch.device) -> None:
    """Choose how this process multiplies float32 matrices outside `autocast`.

    Raises ValueError for TF32 on a CPU, which has none.
    """
    if device.type == "cpu":
        check_on_cpu(matmul)
        torch.set_float32_matmul_precision(_fastest_exact_on_cpu())
    else:
        torch.set_float32_matmul_precision("high" if matmul == TF32 else "highest")


def check_on_cpu(matmul: str) -> None:
    """Raise ValueError for what only a GPU can compute."""
    if matmul == TF32:
        raise ValueError(f"learner.matmul is {TF32!r}, which a CPU lacks; valid: float32, bfloat16")


@contextlib.contextmanager
def autocast(matmul: str, device: torch.device) -> Iterator[None]:
    """Run a forward pass within this context: products are bfloat16 if `matmul` is.

    It keeps copies of the weights: leave it before they change.
    """
    global _constants
    if matmul != BFLOAT16:
        yield
        return
    outer, _constants = _constants, {}
    try:
        with torch.autocast(device.type, torch.bfloat16):
            yield
    finally:
        _constants = outer


def as_factor(weight: Tensor) -> Tensor:
    """Return a weight as a product takes it: within `autocast` in bfloat16, converted once.

    torch does so for weights with gradients, but converts others for each product.
    """
    if _constants is None or weight.requires_grad:
        return weight
    if id(weight) not in _constants:
        _constants[id(weight)] = weight, weight.to(torch.bfloat16)
    return _constants[id(weight)][1]


def _fastest_exact_on_cpu() -> str:
    """Return the setting of torch under which float32 products are fastest and still float32.

    "medium" lets oneDNN multiply. On CPUs without matrix instructions for bfloat16 that is float32
    at twice MKL's speed on AMD; on others it may be bfloat16: a product tells.
    """
    draws = torch.Generator().manual_seed(0)
    size = (_PROBE_SIZE, _PROBE_SIZE)
    a, b = (torch.randn(size, generator=draws) for _ in range(2))
    exact = a.double() @ b.double()
    torch.set_float32_matmul_precision("medium")
    error = ((a @ b) - exact).norm() / exact.norm()
    return "medium" if error < _FLOAT32_ERROR else "highest"
