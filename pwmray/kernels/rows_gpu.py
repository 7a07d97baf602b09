"""Operations on rows on a GPU, in Triton: sums, copies, a velocity's projection, TD(lambda).

What is added up is added up in the same order each time.
"""

# Triton is not there on a CPU, and has no types.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_ENTRIES = 1024  # of a program that copies
_GROUPS = 256  # of 8 entries, of a program
_ROWS = 128  # of a program that goes through their steps
_TALL = 512  # rows from which on they are added up in narrower columns


def tangent_forward(x: Tensor, bias: Tensor) -> Tensor:
    """Return x + bias [..., U] without the mean of each group of 8 entries, float32."""
    v = torch.empty_like(x, dtype=torch.float32)
    num_groups = x.numel() // 8
    _tangent[(triton.cdiv(num_groups, _GROUPS),)](
        x, bias, v, num_groups, x.shape[-1], True, _GROUPS
    )
    return v


def tangent_backward(gv: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the gradient of x."""
    gx, num_groups = torch.empty_like(gv, dtype=dtype), gv.numel() // 8
    _tangent[(triton.cdiv(num_groups, _GROUPS),)](gv, gv, gx, num_groups, 8, False, _GROUPS)
    return gx


def add_rows(parts: Tensor, total: Tensor | None = None) -> Tensor:
    """Return the sum of parts [P, ...] over P, float32, added to `total` in its place if given."""
    return _add([parts], [total])[0]


def add_all(parts: Sequence[Tensor]) -> list[Tensor]:
    """Return the sum of each of the parts [P, ...] over its P, float32, all in one kernel."""
    return _add(parts, [None] * len(parts))


def _add(parts: Sequence[Tensor], totals: Sequence[Tensor | None]) -> list[Tensor]:
    pairs = list(zip(parts, totals, strict=True))
    empty = [p.new_empty(p.shape[1:], dtype=torch.float32) if t is None else t for p, t in pairs]
    nums, sizes = tuple(len(p) for p in parts), tuple(t.numel() for t in empty)
    rows, columns = (256, 8) if max(nums) >= _TALL else (64, 32)
    turns = tuple(triton.next_power_of_2(triton.cdiv(num, rows)) for num in nums)
    firsts = [0]
    for size in sizes:
        firsts.append(firsts[-1] + triton.cdiv(size, columns))
    has_total = tuple(total is not None for total in totals)
    given = (tuple(parts), tuple(empty), nums, sizes, tuple(firsts))
    _add_rows[(firsts[-1],)](*given, has_total, turns, len(parts), rows, columns)
    return empty


def copy_rows(x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return the entries of x [M, U] that `shape` [N, V] has, and zeros where x has none.

    More than two dimensions are rows of the last.
    """
    y, (width, new_width) = x.new_empty(shape, dtype=dtype), (x.shape[-1], shape[-1])
    num_rows, num_entries = x.numel() // width, y.numel()
    grid = (triton.cdiv(num_entries, _ENTRIES),)
    _copy_rows[grid](x, y, num_rows, width, new_width, num_entries, _ENTRIES)
    return y


def td_lambda(r_HB1: Tensor, next_v_HB1: Tensor, discount: float, trace: float) -> Tensor:
    """As `returns.td_lambda`: all steps in one kernel."""
    r_HB1, horizon = r_HB1.contiguous(), len(r_HB1)
    y_HB1 = torch.empty_like(r_HB1)
    num_rows = r_HB1[0].numel()
    _td_lambda[(triton.cdiv(num_rows, _ROWS),)](
        r_HB1, next_v_HB1.contiguous(), y_HB1,
        num_rows, float(discount), float(trace), float(1 - trace), horizon, _ROWS,
    )  # fmt: skip
    return y_HB1


@triton.jit
def _td_lambda(
    r_at, v_at, y_at, num_rows, discount, trace, rest, HORIZON: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = row < num_rows
    y = tl.load(v_at + (HORIZON - 1) * num_rows + row, is_row, 0.0)
    for step in range(HORIZON):
        at = (HORIZON - 1 - step) * num_rows + row
        r, v = tl.load(r_at + at, is_row, 0.0), tl.load(v_at + at, is_row, 0.0)
        y = r + discount * (rest * v + trace * y)
        tl.store(y_at + at, y, is_row)


@triton.jit
def _tangent(
    x_at, bias_at, y_at, num_groups, width, HAS_BIAS: tl.constexpr, GROUPS: tl.constexpr
):  # fmt: skip
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    at = group[:, None] * 8 + tl.arange(0, 8)[None, :]
    inside = (group < num_groups)[:, None] & (tl.arange(0, 8) < 8)[None, :]
    x = tl.load(x_at + at, inside, 0.0).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias_at + at % width, inside, 0.0)
    y = x - (tl.sum(x, axis=1) / 8.0)[:, None]
    tl.store(y_at + at, y.to(y_at.dtype.element_ty), inside)


@triton.jit
def _copy_rows(x_at, y_at, num_rows, width, new_width, num_entries, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, column = at // new_width, at % new_width
    is_copied = (at < num_entries) & (column < width) & (row < num_rows)
    x = tl.load(x_at + row.to(tl.int64) * width + column, is_copied, 0.0)
    tl.store(y_at + at, x.to(y_at.dtype.element_ty), at < num_entries)


@triton.jit
def _add_rows(
    parts, totals, nums, sizes, firsts, HAS_TOTAL: tl.constexpr,
    TURNS: tl.constexpr, NUM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    for i in tl.static_range(NUM):
        if (program >= firsts[i]) & (program < firsts[i + 1]):
            column = (program - firsts[i]) * COLUMNS + tl.arange(0, COLUMNS)
            is_column = column < sizes[i]
            total = tl.zeros((ROWS, COLUMNS), tl.float32)
            for turn in range(TURNS[i]):
                row = turn * ROWS + tl.arange(0, ROWS)
                inside = (row < nums[i])[:, None] & is_column[None, :]
                at = row.to(tl.int64)[:, None] * sizes[i] + column[None, :]
                total += tl.load(parts[i] + at, inside, 0.0).to(tl.float32)
            y = tl.sum(total, axis=0)
            if HAS_TOTAL[i]:
                y += tl.load(totals[i] + column, is_column, 0.0)
            tl.store(totals[i] + column, y, is_column)
