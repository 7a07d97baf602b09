"""The step of `adam` on a GPU: all parameters in two kernels, in Triton.

torch's own take blocks of 65,536 entries, which leave most of a GPU idle with the few hundred
thousand weights of a policy or of critics.
"""

# Triton is not there on a CPU, and has no types.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false

import math
from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from pwmray.kernels.adam import Tensors

_BLOCK = 1024  # entries that a program works on at once
_MAX_SUMS = 512  # programs that add up squares, about


def step(
    tensors: Tensors, copies: Sequence[Tensor | None], group: dict[str, Any], clip: float
) -> Tensor:
    """As `adam.step`; `group` is torch's group of the parameters, which may have a copy each."""
    parameters, gradients, means, squares, steps = tensors
    sizes = tuple(p.numel() for p in parameters)
    turns = triton.cdiv(triton.cdiv(sum(sizes), _MAX_SUMS), _BLOCK)
    firsts = _firsts(sizes, turns * _BLOCK)
    parts, norm = gradients[0].new_empty(firsts[-1]), gradients[0].new_empty(())
    _sum_squares[(firsts[-1],)](gradients, steps, parts, firsts, sizes, len(sizes), turns, _BLOCK)
    num_parts, firsts = firsts[-1], _firsts(sizes, _BLOCK)
    (beta1, beta2), epsilon = group["betas"], group["eps"]
    copied = tuple(copy is not None for copy in copies)
    places = tuple(p if copy is None else copy for p, copy in zip(parameters, copies, strict=True))
    _adam[(firsts[-1],)](
        parameters, gradients, means, squares, steps, places, copied,
        parts, num_parts, triton.next_power_of_2(num_parts), norm, group["lr"],
        float(clip), beta1, beta2, math.log(beta1), math.log(beta2), epsilon,
        firsts, sizes, len(sizes), _BLOCK,
    )  # fmt: skip
    return norm


def _firsts(sizes: Sequence[int], share: int) -> tuple[int, ...]:
    """Return the first program of each tensor, and the number of all, each with `share` entries."""
    firsts = [0]
    for size in sizes:
        firsts.append(firsts[-1] + triton.cdiv(size, share))
    return tuple(firsts)


@triton.jit
def _sum_squares(
    gradients, steps, parts_at, FIRSTS: tl.constexpr, SIZES: tl.constexpr, NUM: tl.constexpr,
    TURNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    for i in tl.static_range(NUM):
        if (program >= FIRSTS[i]) & (program < FIRSTS[i + 1]):
            total = tl.zeros((BLOCK,), tl.float32)
            for turn in range(TURNS):
                at = ((program - FIRSTS[i]) * TURNS + turn) * BLOCK + tl.arange(0, BLOCK)
                g = tl.load(gradients[i] + at, at < SIZES[i], 0.0)
                total += g * g
            tl.store(parts_at + program, tl.sum(total, axis=0))
            if program == FIRSTS[i]:
                tl.store(steps[i], tl.load(steps[i]) + 1.0)


@triton.jit
def _adam(
    parameters, gradients, means, squares, steps, copies, COPIED: tl.constexpr,
    parts_at, num_parts, PARTS: tl.constexpr, norm_at, rate_at,
    clip, BETA1: tl.constexpr, BETA2: tl.constexpr,
    LOG1: tl.constexpr, LOG2: tl.constexpr, EPSILON: tl.constexpr,
    FIRSTS: tl.constexpr, SIZES: tl.constexpr, NUM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    part = tl.arange(0, PARTS)
    norm = tl.sqrt(tl.sum(tl.load(parts_at + part, part < num_parts, 0.0), axis=0))
    if program == 0:
        tl.store(norm_at, norm)
    share = clip / (norm + 1e-6)
    share = tl.where(share > 1.0, 1.0, share)  # not of NaN
    rate = tl.load(rate_at)
    for i in tl.static_range(NUM):
        if (program >= FIRSTS[i]) & (program < FIRSTS[i + 1]):
            at = (program - FIRSTS[i]) * BLOCK + tl.arange(0, BLOCK)
            inside = at < SIZES[i]
            time = tl.load(steps[i]).to(tl.float64)
            bias1 = (1.0 - tl.exp(time * LOG1)).to(tl.float32)
            bias2 = (1.0 - tl.exp(time * LOG2)).to(tl.float32)
            g = tl.load(gradients[i] + at, inside, 0.0) * share
            m = tl.load(means[i] + at, inside, 0.0)
            v = tl.load(squares[i] + at, inside, 0.0)
            p = tl.load(parameters[i] + at, inside, 0.0)
            m = m + (1.0 - BETA1) * (g - m)
            v = BETA2 * v + (1.0 - BETA2) * g * g
            p = p - rate / bias1 * m / (tl.sqrt(v) / tl.sqrt(bias2) + EPSILON)
            tl.store(means[i] + at, m, inside)
            tl.store(squares[i] + at, v, inside)
            tl.store(parameters[i] + at, p, inside)
            if COPIED[i]:
                tl.store(copies[i] + at, p.to(copies[i].dtype.element_ty), inside)
