"""What `action` does between products on a GPU, in Triton: inputs of a flow, and actions.

Shapes: S calls of the network, N rows, L latent, A action, P entries of a row that a product gives,
A and zeros; W entries of an input: the latent, an action on its way, the time, and zeros.
"""

# Triton is not there on a CPU, and has no types.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

_ENTRIES = 1024  # of a program that writes inputs
_ROWS = 32  # of one that writes actions
Draws = tuple[Tensor, Tensor, float, Tensor]  # noise [N, A], log_std [A] and its floor, mask [A]


def fill(x_NW: Tensor, z_NL: Tensor, draws: Draws, time: float) -> None:
    """Write the first call's input."""
    grid, (noise_NA, *_) = (triton.cdiv(x_NW.numel(), _ENTRIES),), draws
    sizes = (x_NW.numel(), x_NW.shape[1], z_NL.shape[1], noise_NA.shape[1])
    _fill[grid](z_NL, *draws, x_NW, time, *sizes, _ENTRIES)


def advance(
    y_NP: Tensor, bias: Tensor, draws: Draws, v_SNA: Tensor, factors: Sequence[float],
    x_NW: Tensor, first: int, time: float,
) -> None:  # fmt: skip
    """Write this call's velocity, that of y + bias, and the next call's action and time.

    The action goes to the columns of x from the `first` on.
    """
    num_rows, num_actions = draws[0].shape
    sizes = (num_rows, num_actions, y_NP.shape[1], x_NW.shape[1], first)
    given, factors = (y_NP, bias, *draws, v_SNA, x_NW, time, *sizes), tuple(factors)
    how = (factors, len(factors) - 1, False, _ROWS, triton.next_power_of_2(num_actions))
    _move[(triton.cdiv(num_rows, _ROWS),)](*given, *how)


def arrive(
    y_NP: Tensor, bias: Tensor, draws: Draws, v_SNA: Tensor, factors: Sequence[float], a_NA: Tensor
) -> None:
    """Write the actions that the velocities of all calls lead to; y + bias makes the last."""
    num_rows, num_actions = a_NA.shape
    sizes = (num_rows, num_actions, y_NP.shape[1], num_actions, 0)
    given, factors = (y_NP, bias, *draws, v_SNA, a_NA, 0.0, *sizes), tuple(factors)
    how = (factors, len(factors) - 1, True, _ROWS, triton.next_power_of_2(num_actions))
    _move[(triton.cdiv(num_rows, _ROWS),)](*given, *how)


@triton.jit
def _start(noise_at, at, log_std_at, floor, mask_at, column, inside):
    log_std = tl.load(log_std_at + column, inside, 0.0)
    std = tl.exp(tl.where(log_std < floor, floor, log_std))
    return std * tl.load(mask_at + column, inside, 0.0) * tl.load(noise_at + at, inside, 0.0)


@triton.jit
def _tanh(x):
    e = tl.exp(-2.0 * tl.abs(x))
    y = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0.0, -y, y)


@triton.jit
def _fill(
    z_at, noise_at, log_std_at, floor, mask_at, x_at, time, num_entries, width, num_z, num_a,
    BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, column, inside = at // width, at % width, at < num_entries
    x = tl.load(z_at + row * num_z + column, inside & (column < num_z), 0.0)
    own = column - num_z
    is_a = inside & (own >= 0) & (own < num_a)
    x += _start(noise_at, row * num_a + own, log_std_at, floor, mask_at, own, is_a)
    x = tl.where(own == num_a, time, x)
    tl.store(x_at + at, x.to(x_at.dtype.element_ty), inside)


@triton.jit
def _move(
    y_at, bias_at, noise_at, log_std_at, floor, mask_at, v_at, x_at, time,
    num_rows, num_a, y_width, width, first,
    FACTORS: tl.constexpr, CALL: tl.constexpr, IS_LAST: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (row < num_rows) & (column < num_a)
    at, columns = row * num_a + column, column + row * 0
    mask = tl.load(mask_at + columns, inside, 0.0)
    y = tl.load(y_at + row * y_width + column, inside, 0.0).to(tl.float32)
    v = (y + tl.load(bias_at + columns, inside, 0.0)) * mask
    x = _start(noise_at, at, log_std_at, floor, mask_at, columns, inside) + FACTORS[CALL] * v
    for i in tl.static_range(CALL):
        if FACTORS[i] != 0.0:
            x += FACTORS[i] * tl.load(v_at + i * num_rows * num_a + at, inside, 0.0)
    if IS_LAST:
        tl.store(x_at + at, _tanh(x), inside)
    else:
        tl.store(v_at + CALL * num_rows * num_a + at, v, inside)
        place = x_at + row * width + first
        tl.store(place + column, x.to(x_at.dtype.element_ty), inside)
        times = (tl.zeros((ROWS, COLUMNS), tl.float32) + time).to(x_at.dtype.element_ty)
        tl.store(place + num_a + column * 0, times, inside & (column == 0))
