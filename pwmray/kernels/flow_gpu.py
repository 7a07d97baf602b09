"""What `flow` does between products on a GPU, in Triton: inputs, velocities and their gradients.

Shapes: S stages, N rows, L latent, W entries of an input: the latent, what stays the same from
stage to stage, the time, and zeros. A stage adds up the velocities before it with factors that are
constants of its kernel; those that are 0 cost nothing.
"""

# Triton is not there on a CPU, and has no types.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_ENTRIES = 1024  # of a program
_GROUPS = 128  # of 8 entries, of a program
Factors = Sequence[float]


def fill(x_SNW: Tensor, z_NL: Tensor, e_RT: Tensor, a_MA: Tensor, time: float) -> None:
    """Write the first input, and to all inputs what they do not take over from another.

    e has a row for each of N, or one for all; a has N rows for all inputs, or N for each.
    """
    num_slots, num_rows, width = x_SNW.shape
    ends = z_NL.shape[1], z_NL.shape[1] + e_RT.shape[1], width
    grid = (triton.cdiv(x_SNW.numel(), _ENTRIES),)
    given = (z_NL, e_RT, a_MA, x_SNW, num_slots * num_rows, num_rows, len(e_RT), len(a_MA), time)
    _fill[grid](*given, *ends, a_MA.shape[1], _ENTRIES)


def advance(
    y_NL: Tensor, bias: Tensor, v_SNL: Tensor, factors: Factors, z_NL: Tensor, x_NW: Tensor,
    time_column: int, time: float,
) -> None:  # fmt: skip
    """Write this stage's velocity, that of y + bias, and the next stage's latent and time."""
    grid = (triton.cdiv(z_NL.numel(), 8 * _GROUPS),)
    sizes = (z_NL.numel() // 8, z_NL.numel(), z_NL.shape[1], x_NW.shape[1], time_column)
    factors = tuple(factors)
    given = (y_NL, bias, v_SNL, z_NL, x_NW, time, *sizes)
    _advance[grid](*given, factors, len(factors) - 1, False, _GROUPS)


def arrive(y_NL: Tensor, bias: Tensor, v_SNL: Tensor, factors: Factors, moved_NL: Tensor) -> None:
    """Write how far the velocities of all stages, of which y + bias makes the last, go."""
    grid = (triton.cdiv(moved_NL.numel(), 8 * _GROUPS),)
    sizes = (moved_NL.numel() // 8, moved_NL.numel(), moved_NL.shape[1], moved_NL.shape[1], 0)
    factors = tuple(factors)
    given = (y_NL, bias, v_SNL, moved_NL, moved_NL, 0.0, *sizes)
    _advance[grid](*given, factors, len(factors) - 1, True, _GROUPS)


def through(g_NL: Tensor, share: float, gx_SNW: Tensor, factors: Factors, gy_NL: Tensor) -> None:
    """Write the gradient of a stage's y: from where all arrives, and from the last stages' inputs.

    `factors` are those of as many stages.
    """
    num_stages, _, width = gx_SNW.shape
    grid = (triton.cdiv(g_NL.numel(), 8 * _GROUPS),)
    factors = tuple(factors)
    sizes = (g_NL.numel() // 8, g_NL.shape[1], g_NL.shape[0] * width, width)
    given = (g_NL, gx_SNW, gy_NL, *sizes, share)
    _through[grid](*given, factors, len(factors), num_stages - len(factors), _GROUPS)


def split(gx_SNW: Tensor, wanted: Sequence[Tensor | None], sizes: Sequence[int]) -> None:
    """Write the sums over stages of the gradients of z, e and a to those wanted."""
    num_stages, num_rows, width = gx_SNW.shape
    places = tuple(gx_SNW if w is None else w for w in wanted)
    has = tuple(w is not None for w in wanted)
    num_entries = num_rows * width
    grid = (triton.cdiv(num_entries, _ENTRIES),)
    _split[grid](gx_SNW, *places, num_entries, width, *sizes, *has, num_stages, _ENTRIES)


def onto_simplex(z: Tensor, moved: Tensor, least: float, g: Tensor | None = None) -> Tensor:
    """As `flow.onto_simplex`; with its gradient g, return that of z + moved."""
    result, num_groups = torch.empty_like(z), z.numel() // 8
    grid = (triton.cdiv(num_groups, _GROUPS),)
    given = (z, moved, z if g is None else g, result, num_groups, least)
    _onto_simplex[grid](*given, g is not None, _GROUPS)
    return result


@triton.jit
def _onto_simplex(
    z_at, moved_at, g_at, y_at, num_groups, least, IS_BACKWARD: tl.constexpr, GROUPS: tl.constexpr
):  # fmt: skip
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    at = group[:, None] * 8 + tl.arange(0, 8)[None, :]
    inside = (group < num_groups)[:, None] & (tl.arange(0, 8) < 8)[None, :]
    x = tl.load(z_at + at, inside, 1.0) + tl.load(moved_at + at, inside, 0.0)
    clamped = tl.where(x < least, least, x)  # not of NaN
    total = tl.sum(clamped, axis=1)[:, None]
    y = clamped / total
    if IS_BACKWARD:
        g = tl.load(g_at + at, inside, 0.0)
        y = (g - tl.sum(g * y, axis=1)[:, None]) / total
        y = tl.where(x < least, 0.0, y)
    tl.store(y_at + at, y, inside)


@triton.jit
def _fill(
    z_at, e_at, a_at, x_at, num_all, num_rows, num_e, num_given, time, z_end, e_end, width, num_a,
    BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row, column = at // width, at % width
    own, inside = row % num_rows, row < num_all
    a_end = e_end + num_a
    is_z, is_e = column < z_end, (column >= z_end) & (column < e_end)
    is_a = (column >= e_end) & (column < a_end)
    x = tl.load(z_at + own * z_end + column, inside & is_z & (row < num_rows), 0.0)
    place = e_at + (own % num_e) * (e_end - z_end) + column - z_end
    x += tl.load(place, inside & is_e, 0.0)
    x += tl.load(a_at + (row % num_given) * num_a + column - e_end, inside & is_a, 0.0)
    x = tl.where(column == a_end, time, x)
    is_written = inside & ((column >= z_end) | (row < num_rows))  # other latents come later
    tl.store(x_at + at, x.to(x_at.dtype.element_ty), is_written)


@triton.jit
def _advance(
    y_at, bias_at, v_at, z_at, x_at, time, num_groups, size, num_columns, width, time_column,
    FACTORS: tl.constexpr, STAGE: tl.constexpr, IS_LAST: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    at = group[:, None] * 8 + tl.arange(0, 8)[None, :]
    inside = (group < num_groups)[:, None] & (tl.arange(0, 8) < 8)[None, :]
    row, column = at // num_columns, at % num_columns
    y = tl.load(y_at + at, inside, 0.0).to(tl.float32) + tl.load(bias_at + column, inside, 0.0)
    v = y - (tl.sum(y, axis=1) / 8.0)[:, None]
    total = FACTORS[STAGE] * v
    for i in tl.static_range(STAGE):
        if FACTORS[i] != 0.0:
            total += FACTORS[i] * tl.load(v_at + i * size + at, inside, 0.0)
    if IS_LAST:
        tl.store(x_at + at, total, inside)
    else:
        tl.store(v_at + STAGE * size + at, v, inside)
        place, x = x_at + row * width + column, tl.load(z_at + at, inside, 0.0) + total
        tl.store(place, x.to(x_at.dtype.element_ty), inside)
        times = (tl.zeros((GROUPS, 8), tl.float32) + time).to(x_at.dtype.element_ty)
        tl.store(x_at + row * width + time_column, times, inside & (column == 0))


@triton.jit
def _through(
    g_at, gx_at, gy_at, num_groups, num_columns, size, width, share,
    FACTORS: tl.constexpr, NUM: tl.constexpr, FIRST: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    at = group[:, None] * 8 + tl.arange(0, 8)[None, :]
    inside = (group < num_groups)[:, None] & (tl.arange(0, 8) < 8)[None, :]
    g = share * tl.load(g_at + at, inside, 0.0)
    place = gx_at + at // num_columns * width + at % num_columns
    for i in tl.static_range(NUM):
        if FACTORS[i] != 0.0:
            part = tl.load(place + (FIRST + i) * size, inside, 0.0).to(tl.float32)
            g += FACTORS[i] * part
    g -= (tl.sum(g, axis=1) / 8.0)[:, None]
    tl.store(gy_at + at, g.to(gy_at.dtype.element_ty), inside)


@triton.jit
def _split(
    gx_at, gz_at, ge_at, ga_at, num_entries, width, num_z, num_e, num_a,
    HAS_Z: tl.constexpr, HAS_E: tl.constexpr, HAS_A: tl.constexpr,
    NUM_STAGES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, column, inside = at // width, at % width, at < num_entries
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(NUM_STAGES):
        total += tl.load(gx_at + i * num_entries + at, inside, 0.0).to(tl.float32)
    if HAS_Z:
        tl.store(gz_at + row * num_z + column, total, inside & (column < num_z))
    column -= num_z
    if HAS_E:
        is_e = inside & (column >= 0) & (column < num_e)
        tl.store(ge_at + row * num_e + column, total, is_e)
    column -= num_e
    if HAS_A:
        is_a = inside & (column >= 0) & (column < num_a)
        tl.store(ga_at + row * num_a + column, total, is_a)
