"""The values of `norms` on a GPU and their fit, in Triton: norms that end in one number a row.

Rows are dealt out as in norms_gpu.py.
"""

# Triton is not there on a CPU, and has no types.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from pwmray.kernels.norms import Affine
from pwmray.kernels.norms_gpu import (
    Shape,
    columns,
    load_moments,
    load_parameters,
    mish,
    mish_slope,
    normalise,
    rows,
    store_moments,
    through_norm,
)


def value_forward(
    x: Tensor, affine: Affine, weight: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """As `norms.value_forward`."""
    y = x.new_empty(x.shape[:-1], dtype=torch.float32)
    moments = x.new_empty(x.numel() // x.shape[-1], 2, dtype=torch.float32)
    shape = Shape(x, affine)
    grid = (shape.num_blocks, shape.num_groups)
    given = (x, *affine, weight, offset, y, moments, *shape.sizes, *shape.block)
    _value_forward[grid](*given, num_warps=shape.num_warps)
    return y, moments


def value_backward(
    gy: Tensor, x: Tensor, affine: Affine, weight: Tensor, moments: Tensor
) -> Tensor:
    """As `norms.value_backward`."""
    gx, shape = torch.empty_like(x), Shape(x, affine)
    grid = (shape.num_blocks, shape.num_groups)
    given = (gy, x, *affine, weight, moments, gx, *shape.sizes, *shape.block)
    _value_backward[grid](*given, num_warps=shape.num_warps)
    return gx


def value_fit(x: Tensor, affine: Affine, weight: Tensor, offset: Tensor, target: Tensor) -> Tensor:
    """As `norms.value_fit`: a row of sums for each program."""
    shape = Shape(x, affine)
    size, num_groups, num_parts = affine[0].numel(), shape.num_groups, shape.num_programs
    parts = x.new_empty(num_parts, 4 * size + 2 * num_groups, dtype=torch.float32)
    turns = triton.cdiv(shape.num_blocks, num_parts)
    gain = 2.0 / target.numel() / num_groups
    given = (x, *affine, weight, offset, target, parts, *shape.sizes, gain)
    _fit[num_parts, num_groups](*given, turns, *shape.block, num_warps=shape.num_warps)
    return parts


@triton.jit
def _value_forward(
    x_at, bias_at, scale_at, shift_at, weight_at, offset_at, v_at, moments_at,
    num_rows, num_entries, epsilon, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    column, is_column, own = columns(group, num_entries, WIDTH)
    block = tl.program_id(0)
    row, is_row, inside, at = rows(block, group, column, is_column, num_rows, num_entries, ROWS)
    bias, scale, shift = load_parameters(bias_at, scale_at, shift_at, own, is_column)
    weight = tl.load(weight_at + own, is_column, 0.0)
    h = mish(tl.load(x_at + at, inside, 0.0).to(tl.float32) + bias[None, :])
    normed, mean, rate = normalise(h, is_column, num_entries, epsilon)
    y = normed * scale[None, :] + shift[None, :]
    v = tl.sum(y * weight[None, :], axis=1) + tl.load(offset_at + group)
    tl.store(v_at + group * num_rows + row, v, is_row)
    store_moments(moments_at + 2 * (group * num_rows + row), mean, rate, is_row)


@triton.jit
def _value_backward(
    gv_at, x_at, bias_at, scale_at, shift_at, weight_at, moments_at, gx_at,
    num_rows, num_entries, epsilon, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    column, is_column, own = columns(group, num_entries, WIDTH)
    block = tl.program_id(0)
    row, is_row, inside, at = rows(block, group, column, is_column, num_rows, num_entries, ROWS)
    bias, scale, _ = load_parameters(bias_at, scale_at, shift_at, own, is_column)
    weight = tl.load(weight_at + own, is_column, 0.0)
    place = moments_at + 2 * (group * num_rows + row)
    mean, rate = load_moments(place, is_row)
    gv = tl.load(gv_at + group * num_rows + row, is_row, 0.0)
    x = tl.load(x_at + at, inside, 0.0).to(tl.float32) + bias[None, :]
    normed = tl.where(inside, (mish(x) - mean[:, None]) * rate[:, None], 0.0)
    gx = through_norm(gv[:, None] * (weight * scale)[None, :], normed, rate, num_entries)
    gx = gx * mish_slope(x)
    tl.store(gx_at + at, gx.to(gx_at.dtype.element_ty), inside)


@triton.jit
def _fit(
    x_at, bias_at, scale_at, shift_at, weight_at, offset_at, target_at, parts_at,
    num_rows, num_entries, epsilon, gain,
    TURNS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    group, num_groups = tl.program_id(1), tl.num_programs(1)
    column, is_column, own = columns(group, num_entries, WIDTH)
    bias, scale, shift = load_parameters(bias_at, scale_at, shift_at, own, is_column)
    weight = tl.load(weight_at + own, is_column, 0.0)
    factor = weight * scale
    level = tl.sum(factor, axis=0) / num_entries
    base = tl.load(offset_at + group) + tl.sum(weight * shift, axis=0)  # the value where h is 0
    gbias = tl.zeros((ROWS, WIDTH), tl.float32)
    gnormed = tl.zeros((ROWS, WIDTH), tl.float32)
    gvalue = tl.zeros((ROWS,), tl.float32)
    squares = tl.zeros((ROWS,), tl.float32)
    for turn in range(TURNS):
        block = turn * tl.num_programs(0) + tl.program_id(0)
        row, is_row, inside, at = rows(block, group, column, is_column, num_rows, num_entries, ROWS)
        x = tl.load(x_at + at, inside, 0.0).to(tl.float32) + bias[None, :]
        normed, _, rate = normalise(mish(x), is_column, num_entries, epsilon)
        along = tl.sum(normed * factor[None, :], axis=1)
        target = tl.load(target_at + row, is_row, 0.0)
        error = tl.where(is_row, base + along - target, 0.0)
        g = gain * error
        through = factor[None, :] - level - normed * (along / num_entries)[:, None]
        gx = tl.where(inside, (g * rate)[:, None] * through * mish_slope(x), 0.0)
        tl.store(x_at + at, gx.to(x_at.dtype.element_ty), inside)
        gbias += gx
        gnormed += g[:, None] * normed
        gvalue += g
        squares += error * error
    normed, value, total = tl.sum(gnormed, axis=0), tl.sum(gvalue, axis=0), num_groups * num_entries
    part = parts_at + tl.program_id(0) * (4 * total + 2 * num_groups)
    tl.store(part + own, tl.sum(gbias, axis=0), is_column)
    tl.store(part + total + own, weight * normed, is_column)
    tl.store(part + 2 * total + own, weight * value, is_column)
    tl.store(part + 3 * total + own, scale * normed + shift * value, is_column)
    tl.store(part + 4 * total + group, value)
    tl.store(part + 4 * total + num_groups + group, tl.sum(squares, axis=0) / num_rows)
