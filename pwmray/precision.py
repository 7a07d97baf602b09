"""How products of float32 matrices are computed: exactly, as TF32 or in bfloat16.

Weights, activations, losses and optimizers are float32 in each case.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np  # noqa: F401  # torch would do it in C code, which drops a Ctrl-C
import torch
from torch import Tensor

FLOAT32 = "float32"
TF32 = "tf32"  # 10 bits of mantissa, a GPU's tensor cores
BFLOAT16 = "bfloat16"  # 7 bits; sums are float32
MATMULS = (FLOAT32, TF32, BFLOAT16)

_PROBE_SIZE = 512
_FLOAT32_ERROR = 1e-5  # of a product of that size, relative; bfloat16 would have 2e-3

_BY_ONEDNN, _BY_TORCH = "medium", "highest"  # torch's settings for float32 products on a CPU
# Products of at most so many multiply-adds are not oneDNN's, which takes a while to begin one.
# Twice as many would gain where MKL is as fast (Zen 4), and half as many where it is half as fast
# (Zen 5).
_MOST_OF_SMALL = 2**21

# Whether `product` rounds: `autocast` asks for products of bfloat16, and the CPU has none.
_rounds = False

# Made from weights within `autocast`. They are kept beside it: an identity is that of what lives.
_made: dict[tuple[int, bool], tuple[Tensor, Any]] | None = None


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

    A CPU without bfloat16 products multiplies rounded float32 numbers. The context keeps copies of
    the weights: leave it before they change.
    """
    global _made, _rounds
    outer = _made, _rounds
    converts = matmul == BFLOAT16 and has_bfloat16(device)
    _made, _rounds = {}, matmul == BFLOAT16 and not converts
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=converts):
            yield
    finally:
        _made, _rounds = outer


@functools.cache
def has_bfloat16(device: torch.device) -> bool:
    """Return whether there are products of bfloat16; without them a CPU takes 100 times as long."""
    if device.type != "cpu":
        return True
    # What torch asks before it gives a product to oneDNN.
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def is_rounding() -> bool:
    """Return whether bfloat16 is made of float32 here, which is what `product` is for."""
    return _rounds


def product(multiply: Callable[..., Tensor], *operands: Tensor | None) -> Tensor:
    """Return multiply(*operands), each of which `autocast` converts, or rounds where that is slow.

    Rounded are operands, result and their gradients, as bfloat16 products do it; sums are float32.
    """
    if not _rounds:
        return multiply(*operands)
    return _rounded(multiply(*(x if x is None else _rounded(x) for x in operands)))


def _rounded(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).to(torch.float32)


def multiply(
    a_NU: Tensor, b_UV: Tensor, added: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """Return a @ b, plus `added` if given; a small product on a CPU is not left to oneDNN."""
    is_small = a_NU.shape[0] * b_UV.numel() <= _MOST_OF_SMALL
    skips = is_small and torch.get_float32_matmul_precision() == _BY_ONEDNN
    if skips:
        torch.set_float32_matmul_precision(_BY_TORCH)
    if added is None:
        y_NV = torch.mm(a_NU, b_UV, out=out)
    else:
        y_NV = torch.addmm(added, a_NU, b_UV, out=out)
    if skips:
        torch.set_float32_matmul_precision(_BY_ONEDNN)
    return y_NV


def make_once(weight: Tensor, make: Callable[[Tensor], Any]) -> Any:
    """Return what `make` makes of a weight, within `autocast` only once."""
    if _made is None:
        return make(weight)
    key = id(weight), weight.requires_grad and torch.is_grad_enabled()
    if key not in _made:
        _made[key] = weight, make(weight)
    return _made[key][1]


def product_dtype(device: torch.device) -> torch.dtype:
    """Return what the operands of a product are converted to here."""
    is_on = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if is_on else torch.float32


def as_factor(weight: Tensor) -> Tensor:
    """Return a weight as a product takes it: within `autocast` in bfloat16, converted once.

    torch does so for weights with gradients, but converts others for each product.
    """
    if _made is None or weight.requires_grad:
        return weight
    dtype = product_dtype(weight.device)
    if dtype == weight.dtype or weight.dtype != torch.float32:
        return weight
    return make_once(weight, lambda w: w.to(dtype))


def _fastest_exact_on_cpu() -> str:
    """Return the setting of torch under which float32 products are fastest and still float32.

    "medium" lets oneDNN multiply. On CPUs without matrix instructions for bfloat16 that is float32
    at twice MKL's speed on AMD; on others it may be bfloat16: a product tells.
    """
    draws = torch.Generator().manual_seed(0)
    size = (_PROBE_SIZE, _PROBE_SIZE)
    a, b = (torch.randn(size, generator=draws) for _ in range(2))
    exact = a.double() @ b.double()
    torch.set_float32_matmul_precision(_BY_ONEDNN)
    error = ((a @ b) - exact).norm() / exact.norm()
    return _BY_ONEDNN if error < _FLOAT32_ERROR else _BY_TORCH
