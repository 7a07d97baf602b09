"""Gradient clipping and a step of Adam, for all parameters at once.

Source: Kingma and Ba, arXiv 1412.6980, with the arithmetic of `torch.nn.utils.clip_grad_norm_` and
`torch.optim.Adam`. adam.cpp computes on a CPU, adam_gpu.py on a GPU.
"""

import ctypes
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pwmray.kernels.build import load

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_EPSILON = 1e-6  # clip_grad_norm_'s


class Tensors(NamedTuple):
    """What a step reads and writes: one contiguous float32 tensor for each parameter."""

    parameters: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]
    means: tuple[Tensor, ...]
    squares: tuple[Tensor, ...]
    steps: tuple[Tensor, ...]  # how many were taken, scalars


def can_step(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether every parameter has moments and a gradient, which `step` needs."""
    (group,) = optimizer.param_groups
    return all(optimizer.state.get(p) and p.grad is not None for p in group["params"])


def step(optimizer: torch.optim.Optimizer, clip: float, copies: Mapping[Tensor, Tensor]) -> Tensor:
    """Clip the gradients' norm to `clip` and take a step; return the norm before clipping.

    `copies` of parameters, contiguous and in another dtype, are brought up to date.
    """
    (group,) = optimizer.param_groups
    states = [optimizer.state[p] for p in group["params"]]
    tensors = Tensors(
        tuple(p.detach() for p in group["params"]),
        tuple(p.grad for p in group["params"]),
        *(tuple(state[name] for state in states) for name in MOMENTS),
    )
    assert all(t.is_contiguous() and t.dtype == torch.float32 for part in tensors for t in part)
    if tensors.parameters[0].is_cuda:
        from pwmray.kernels import adam_gpu  # needs Triton

        return adam_gpu.step(tensors, [copies.get(p) for p in group["params"]], group, clip)
    norm = _step(tensors, group, clip)
    follow(copies)
    return norm


@torch.no_grad()
def follow(copies: Mapping[Tensor, Tensor]) -> None:
    """Bring copies of parameters up to date."""
    for parameter, copy in copies.items():
        copy.copy_(parameter)


def _step(tensors: Tensors, group: dict[str, Any], clip: float) -> Tensor:
    num, num_threads = len(tensors.parameters), torch.get_num_threads()
    sizes = (ctypes.c_int64 * num)(*[p.numel() for p in tensors.parameters])
    addresses = [(ctypes.c_void_p * num)(*[t.data_ptr() for t in part]) for part in tensors]
    sum_squares, take_step = _kernels()
    norm = math.sqrt(sum_squares(addresses[1], sizes, num, num_threads))
    share = min(clip / (norm + _EPSILON), 1.0)  # NaN where the norm is
    take_step(
        *addresses,
        sizes,
        num,
        share,
        float(group["lr"]),
        *group["betas"],
        group["eps"],
        num_threads,
    )
    return torch.tensor(norm)


@functools.cache
def _kernels() -> tuple[Any, Any]:
    sum_squares, take_step = load().adam_sum_squares, load().adam_step
    place, index, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    sum_squares.argtypes = [place, place, index, ctypes.c_int]
    sum_squares.restype = number
    take_step.argtypes = [place] * 6 + [index, ctypes.c_float, *[number] * 4, ctypes.c_int]
    take_step.restype = None
    return sum_squares, take_step
