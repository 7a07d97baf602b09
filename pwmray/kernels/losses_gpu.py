"""The losses of `losses` on a GPU, in Triton: a program takes some rows.

Each function returns a loss for each row, or, given the losses' gradient g, the gradient of x.
"""

# Triton is not there on a CPU, and has no types.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_ENTRIES = 2048  # that a program works on at once, at least a row of them


def square_error(x: Tensor, target: Tensor, g: Tensor | None = None) -> Tensor:
    """As `losses.square_error`."""
    return _call(_square_error, x, target, g)


def cross_entropy(x: Tensor, r: Tensor, bin_range: float, g: Tensor | None = None) -> Tensor:
    """As `losses.cross_entropy`."""
    return _call(_cross_entropy, x, r, g, float(bin_range))


def _call(kernel: Any, x: Tensor, target: Tensor, g: Tensor | None, *settings: float) -> Tensor:
    num_columns = x.shape[-1]
    num_rows, width = x.numel() // num_columns, triton.next_power_of_2(num_columns)
    result = x.new_empty(x.shape[:-1]) if g is None else torch.empty_like(x)
    rows = max(1, _ENTRIES // width)
    given = (x, target, result if g is None else g, result, num_rows, num_columns, *settings)
    kernel[(triton.cdiv(num_rows, rows),)](*given, g is not None, rows, width)
    return result


@triton.jit
def _places(num_rows, num_columns, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Return a program's rows, which of them there are, columns, and which entries lie where."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)[None, :]
    inside = (row < num_rows)[:, None] & (column < num_columns)
    return row, row < num_rows, column, inside, row.to(tl.int64)[:, None] * num_columns + column


@triton.jit
def _square_error(
    x_at, target_at, g_at, result_at, num_rows, num_columns,
    IS_BACKWARD: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, is_row, _, inside, at = _places(num_rows, num_columns, ROWS, WIDTH)
    error = tl.load(x_at + at, inside, 0.0) - tl.load(target_at + at, inside, 0.0)
    if IS_BACKWARD:
        g = tl.load(g_at + row, is_row, 0.0)
        tl.store(result_at + at, (2.0 / num_columns) * g[:, None] * error, inside)
    else:
        tl.store(result_at + row, tl.sum(error * error, axis=1) / num_columns, is_row)


@triton.jit
def _cross_entropy(
    x_at, r_at, g_at, result_at, num_rows, num_columns, bin_range,
    IS_BACKWARD: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, is_row, column, inside, at = _places(num_rows, num_columns, ROWS, WIDTH)
    x = tl.load(x_at + at, inside, float("-inf"))
    x -= tl.max(x, axis=1)[:, None]
    total = tl.sum(tl.exp(x), axis=1)[:, None]
    r = tl.load(r_at + row, is_row, 0.0)
    size = tl.log(1.0 + tl.abs(r))
    size = tl.where(size > bin_range, bin_range, size)  # not of NaN
    level = tl.where(r < 0.0, -size, size)
    position = (level + bin_range) / (2.0 * bin_range / (num_columns - 1))
    distance = tl.abs(column - position[:, None])
    weight = tl.where(distance >= 1.0, 0.0, 1.0 - distance)  # of the two bins beside r; or NaN
    if IS_BACKWARD:
        g = tl.load(g_at + row, is_row, 0.0)
        tl.store(result_at + at, g[:, None] * (tl.exp(x) / total - weight), inside)
    else:
        loss = tl.where(inside, weight * (tl.log(total) - x), 0.0)
        tl.store(result_at + row, tl.sum(loss, axis=1), is_row)
