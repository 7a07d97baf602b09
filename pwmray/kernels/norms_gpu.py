"""The operations of `norms` on a GPU: the same arithmetic as norms.cpp, in Triton.

A program takes some rows of a group, one after the other where it adds up the parameters'
gradients; those sums are added up by a second kernel, always in the same order.
"""

# Triton is not there on a CPU, and has no types.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from pwmray.kernels.norms import EPSILON, MISH_NORM, NORM_MISH, NORM_SIMPLEX, Affine
from pwmray.kernels.rows_gpu import add_rows

# Of a program: entries that it works on at once, at least a row of them; warps; and how many
# programs add up sums, enough for a GPU, but few where their sums would outweigh the rows.
_NARROW, _MEDIUM, _WIDE = (1, 2, 792), (1024, 4, 792), (1024, 8, 264)
_KINDS = {MISH_NORM: 0, NORM_MISH: 1, NORM_SIMPLEX: 2}
_MISH_NORM, _NORM_MISH, _NORM_SIMPLEX = (tl.constexpr(kind) for kind in _KINDS.values())


def forward(
    kind: str, x: Tensor, affine: Affine, y: Tensor | None = None, again: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `norms.forward`, into y if it is given, and into the first columns of `again`, too."""
    if y is None:
        y = torch.empty_like(x, dtype=torch.float32 if kind == NORM_SIMPLEX else x.dtype)
    moments = x.new_empty(x.numel() // x.shape[-1], 2, dtype=torch.float32)
    shape = Shape(x, affine)
    grid = (shape.num_blocks, shape.num_groups)
    copy = y if again is None else again
    given = (x, *affine, y, copy, moments, *shape.sizes, x.shape[-1], copy.shape[-1])
    how = (_KINDS[kind], again is not None, *shape.block)
    _forward[grid](*given, *how, num_warps=shape.num_warps)
    return y, moments


def backward(
    kind: str,
    gy: Tensor,
    x: Tensor,
    affine: Affine,
    moments: Tensor,
    gx: Tensor,
    trained: bool,
    shared: dict[int, Tensor] | None = None,
    following: tuple[Tensor, Tensor] | None = None,
) -> Tensor | None:
    """As `norms.backward`; if `shared` is given the parameters' gradients stay there, as parts.

    y's gradient is the sum of gy and what is `following`: one like it, and the first columns of
    another.
    """
    shape = Shape(x, affine)
    num_programs = shape.num_programs if trained else shape.num_blocks
    parts = None if shared is None else shared.get(num_programs)
    adds = parts is not None
    if trained and not adds:
        parts = x.new_empty(num_programs, 3, *affine[0].shape, dtype=torch.float32)
    more = (gy, gy) if following is None else following
    given = (gy, *more, x, *affine, moments, gx, parts if parts is not None else gx)
    grid = (num_programs, shape.num_groups)
    turns = triton.cdiv(shape.num_blocks, num_programs)
    given = (*given, *shape.sizes, x.shape[-1], more[1].shape[-1])
    how = (_KINDS[kind], trained, adds, following is not None, turns, *shape.block)
    _backward[grid](*given, *how, num_warps=shape.num_warps)
    if parts is None or shared is None:
        return None if parts is None else add_rows(parts)
    shared[num_programs] = parts
    return None


class Shape:
    """How rows are dealt out."""

    def __init__(self, x: Tensor, affine: Affine):
        num_entries, stride = affine[0].shape[-1], x.shape[-1]
        width = triton.next_power_of_2(stride)
        rows, self.num_warps, most = _plan(width)
        self.num_groups = affine[0].numel() // num_entries
        num_rows = x.numel() // (stride * self.num_groups)
        self.sizes = (num_rows, num_entries, EPSILON)
        self.block = (rows, width)
        self.num_blocks = triton.cdiv(num_rows, rows)
        turns = triton.cdiv(self.num_blocks * self.num_groups, most)
        self.num_programs = triton.cdiv(self.num_blocks, turns)


def _plan(width: int) -> tuple[int, int, int]:
    """Return the rows and warps of a program, and how many programs add up sums at most."""
    entries, num_warps, most = _NARROW if width <= 512 else _MEDIUM if width <= 1024 else _WIDE
    return max(1, entries // width), num_warps, most


@triton.jit
def mish(x):
    u = tl.exp(tl.minimum(x, 20.0))
    n = u * (u + 2.0)
    return x * (n / (n + 2.0))


@triton.jit
def mish_slope(x):
    u = tl.exp(tl.minimum(x, 20.0))
    n = u * (u + 2.0)
    d = n + 2.0
    return n / d + x * (4.0 * u * (u + 1.0) / (d * d))


@triton.jit
def _simplex(x, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    groups = tl.reshape(x, (ROWS, WIDTH // 8, 8))
    e = tl.exp(groups - tl.max(groups, axis=2, keep_dims=True))
    return e / tl.sum(e, axis=2, keep_dims=True)


@triton.jit
def columns(group, num_entries, WIDTH: tl.constexpr):
    """Return a row's columns, which of them it has, and where the group's parameters lie."""
    column = tl.arange(0, WIDTH)
    return column, column < num_entries, group * num_entries + column


@triton.jit
def rows(block, group, column, is_column, num_rows, stride, ROWS: tl.constexpr):
    """Return a block's rows, which of them there are, which entries, and where those lie."""
    row = block * ROWS + tl.arange(0, ROWS)
    is_row = row < num_rows
    at = (group * num_rows + row).to(tl.int64)[:, None] * stride + column[None, :]
    return row, is_row, is_row[:, None] & is_column[None, :], at


@triton.jit
def load_parameters(bias_at, scale_at, shift_at, own, is_column):
    bias = tl.load(bias_at + own, is_column, 0.0)
    scale = tl.load(scale_at + own, is_column, 0.0)
    shift = tl.load(shift_at + own, is_column, 0.0)
    return bias, scale, shift


@triton.jit
def load_moments(place, is_row):
    return tl.load(place, is_row, 0.0), tl.load(place + 1, is_row, 0.0)


@triton.jit
def store_moments(place, mean, rate, is_row):
    tl.store(place, mean, is_row)
    tl.store(place + 1, rate, is_row)


@triton.jit
def normalise(h, is_column, num_entries, epsilon):
    """Return the rows normalised, means and rates; where squares overflow NaN, not zeros."""
    mean = tl.sum(h, axis=1) / num_entries
    centred = tl.where(is_column[None, :], h - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / num_entries
    rate = tl.where(variance < float("inf"), 1.0 / tl.sqrt(variance + epsilon), float("nan"))
    return centred * rate[:, None], mean, rate


@triton.jit
def through_norm(g, normed, rate, num_entries):
    level = tl.sum(g, axis=1) / num_entries
    along = tl.sum(g * normed, axis=1) / num_entries
    return rate[:, None] * (g - level[:, None] - normed * along[:, None])


@triton.jit
def _leave(place, value, is_there, ADDS: tl.constexpr):
    """Store a part of a sum, or add it to what lies there: no other program has that place."""
    if ADDS:
        value += tl.load(place, is_there, 0.0)
    tl.store(place, value, is_there)


@triton.jit
def _forward(
    x_at, bias_at, scale_at, shift_at, y_at, copy_at, moments_at,
    num_rows, num_entries, epsilon, stride, copy_stride,
    KIND: tl.constexpr, COPIED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    column, is_column, own = columns(group, num_entries, WIDTH)
    block = tl.program_id(0)
    row, is_row, inside, at = rows(block, group, column, is_column, num_rows, stride, ROWS)
    bias, scale, shift = load_parameters(bias_at, scale_at, shift_at, own, is_column)
    h = tl.load(x_at + at, inside, 0.0).to(tl.float32) + bias[None, :]
    if KIND == _MISH_NORM:
        h = mish(h)
    normed, mean, rate = normalise(h, is_column, num_entries, epsilon)
    y = normed * scale[None, :] + shift[None, :]
    if KIND == _NORM_MISH:
        y = mish(y)
    if KIND == _NORM_SIMPLEX:
        y = tl.reshape(_simplex(y, ROWS, WIDTH), (ROWS, WIDTH))
    stored = is_row[:, None] & (column < stride)[None, :]
    tl.store(y_at + at, y.to(y_at.dtype.element_ty), stored)
    if COPIED:
        place = copy_at + row.to(tl.int64)[:, None] * copy_stride + column[None, :]
        tl.store(place, y.to(copy_at.dtype.element_ty), inside)
    store_moments(moments_at + 2 * (group * num_rows + row), mean, rate, is_row)


@triton.jit
def _backward(
    gy_at, also_at, input_at, x_at, bias_at, scale_at, shift_at, moments_at, gx_at, parts_at,
    num_rows, num_entries, epsilon, stride, input_stride,
    KIND: tl.constexpr, TRAINED: tl.constexpr, ADDS: tl.constexpr, FOLLOWED: tl.constexpr,
    TURNS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    column, is_column, own = columns(group, num_entries, WIDTH)
    bias, scale, shift = load_parameters(bias_at, scale_at, shift_at, own, is_column)
    gbias = tl.zeros((ROWS, WIDTH), tl.float32)
    gscale = tl.zeros((ROWS, WIDTH), tl.float32)
    gshift = tl.zeros((ROWS, WIDTH), tl.float32)
    for turn in range(TURNS):
        block = turn * tl.num_programs(0) + tl.program_id(0)
        row, is_row, inside, at = rows(block, group, column, is_column, num_rows, stride, ROWS)
        place = moments_at + 2 * (group * num_rows + row)
        mean, rate = load_moments(place, is_row)
        gy = tl.load(gy_at + at, inside, 0.0).to(tl.float32)
        if FOLLOWED:
            gy += tl.load(also_at + at, inside, 0.0)
            place = input_at + row.to(tl.int64)[:, None] * input_stride + column[None, :]
            gy += tl.load(place, inside, 0.0).to(tl.float32)
        x = tl.load(x_at + at, inside, 0.0).to(tl.float32) + bias[None, :]
        h = x
        if KIND == _MISH_NORM:
            h = mish(x)
        normed = tl.where(inside, (h - mean[:, None]) * rate[:, None], 0.0)
        gz = gy
        if KIND == _NORM_MISH:
            gz = gy * mish_slope(normed * scale[None, :] + shift[None, :])
        if KIND == _NORM_SIMPLEX:
            p = _simplex(normed * scale[None, :] + shift[None, :], ROWS, WIDTH)
            g = tl.reshape(gy, (ROWS, WIDTH // 8, 8))
            gz = tl.reshape(p * (g - tl.sum(p * g, axis=2, keep_dims=True)), (ROWS, WIDTH))
            gz = tl.where(inside, gz, 0.0)
        gx = through_norm(gz * scale[None, :], normed, rate, num_entries)
        if KIND == _MISH_NORM:
            gx = gx * mish_slope(x)
        gx = tl.where(inside, gx, 0.0)
        stored = is_row[:, None] & (column < stride)[None, :]
        tl.store(gx_at + at, gx.to(gx_at.dtype.element_ty), stored)
        if TRAINED:
            gbias += gx
            gscale += gz * normed
            gshift += gz
    if TRAINED:
        total = tl.num_programs(1) * num_entries
        part = parts_at + tl.program_id(0) * 3 * total + own
        _leave(part, tl.sum(gbias, axis=0), is_column, ADDS)
        _leave(part + total, tl.sum(gscale, axis=0), is_column, ADDS)
        _leave(part + 2 * total, tl.sum(gshift, axis=0), is_column, ADDS)
