"""LayerNorm fused with the bias before it and the nonlinearity beside it, forward and backward.

    mish_norm     y = LayerNorm(mish(x + bias)) * scale + shift        (PWM's policy and critics)
    norm_mish     y = mish(LayerNorm(x + bias) * scale + shift)        (TD-MPC2's layers)
    norm_simplex  y = SimNorm(LayerNorm(x + bias) * scale + shift)     (TD-MPC2's latents)

Shapes: G groups (the members of an ensemble), each with parameters of its own; N rows; U entries.
x [G, N, U], or [..., U] for one group, is a linear layer's output without its bias: float32 or
bfloat16, contiguous. The parameters bias, scale and shift are float32, [G, 1, U] or [U]. y has the
dtype of x, except that a simplex is float32. A backward pass needs x and the moments of each row,
[G N, 2]: mean and 1 / standard deviation. norms.cpp computes on a CPU, norms_gpu.py and
values_gpu.py on a GPU.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pwmray.kernels.build import load
from pwmray.kernels.gradient import Gradient
from pwmray.precision import make_once

MISH_NORM, NORM_MISH, NORM_SIMPLEX = "mish_norm", "norm_mish", "norm_simplex"

_VALUE = "mish_norm_value"
EPSILON = 1e-5  # torch.nn.LayerNorm's
_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

Affine = tuple[Tensor, Tensor, Tensor]  # bias, scale, shift


class Fit(NamedTuple):
    """What `value_fit` finds: the error of each group, and the gradient of each parameter."""

    errors: Tensor  # [G]
    bias: Tensor  # gradients, each of its parameter's shape
    scale: Tensor
    shift: Tensor
    weight: Tensor
    offset: Tensor


def norm(kind: str, x: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return y of the `kind` MISH_NORM, NORM_MISH or NORM_SIMPLEX, differentiable."""
    if x.is_cuda and bias.requires_grad and torch.is_grad_enabled():
        affine = stacked((bias, scale, shift))
        return _SharedNorm.apply(kind, x, affine.value, affine.gradient)  # type: ignore
    return _Norm.apply(kind, x, bias, scale, shift)  # type: ignore[return-value]


def forward(kind: str, x: Tensor, affine: Affine) -> tuple[Tensor, Tensor]:
    """Return y and the moments, outside autograd."""
    if x.is_cuda:
        return on_gpu().forward(kind, x, affine)
    y = torch.empty_like(x, dtype=torch.float32 if kind == NORM_SIMPLEX else x.dtype)
    moments = torch.empty(x.numel() // x.shape[-1], 2)
    _call(kind, "forward", x, affine, (x, *affine, y, moments))
    return y, moments


def backward(
    kind: str, gy: Tensor, x: Tensor, affine: Affine, moments: Tensor, gx: Tensor, trained: bool
) -> Tensor | None:
    """Write the gradient of x to `gx` and return those of bias, scale and shift if `trained`.

    They are stacked: [3, G, 1, U] or [3, U]. `gx` may be `gy` itself if their dtypes are the same.
    """
    if x.is_cuda:
        return on_gpu().backward(kind, gy, x, affine, moments, gx, trained)
    sums = torch.empty(3, *affine[0].shape) if trained else None
    _call(kind, "backward", x, affine, (gy, x, *affine, moments, gx, sums))
    return sums


def backward_parts(
    kind: str, gy: Tensor, x: Tensor, affine: Affine, moments: Tensor, gx: Tensor
) -> Tensor:
    """As `backward` of what is trained, but return partial sums [P, 3, ...], for `add_up`."""
    if x.is_cuda:
        parts: dict[int, Tensor] = {}
        on_gpu().backward(kind, gy, x, affine, moments, gx, True, parts)
        return next(iter(parts.values()))
    sums = backward(kind, gy, x, affine, moments, gx, True)
    assert sums is not None
    return sums.unsqueeze(0)


def add_up(parts: Sequence[Tensor]) -> list[Tensor]:
    """Return the sum of each of the parts [P, ...] over its P; on a GPU by one kernel."""
    if parts[0].is_cuda:
        return _rows_on_gpu().add_all(parts)
    return [whole for (whole,) in parts]  # a CPU leaves none to be added


def value_forward(
    x: Tensor, affine: Affine, weight: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """Return mish_norm(x) @ weight + offset, float32 [G, N], and the moments.

    `weight` [G, U, 1] and `offset` [G, 1, 1] are a linear layer with one output.
    """
    if x.is_cuda:
        return _values_on_gpu().value_forward(x, affine, weight, offset)
    y, moments = torch.empty(x.shape[:-1]), torch.empty(x.numel() // x.shape[-1], 2)
    _call(_VALUE, "forward", x, affine, (x, *affine, weight, offset, y, moments))
    return y, moments


def value_backward(
    gy: Tensor, x: Tensor, affine: Affine, weight: Tensor, moments: Tensor
) -> Tensor:
    """Return the gradient of `value_forward`'s x from `gy` [G, N]."""
    if x.is_cuda:
        return _values_on_gpu().value_backward(gy, x, affine, weight, moments)
    gx = torch.empty_like(x)
    _call(_VALUE, "backward", x, affine, (gy, x, *affine, weight, moments, gx))
    return gx


def value_fit(x: Tensor, affine: Affine, weight: Tensor, offset: Tensor, target: Tensor) -> Tensor:
    """Fit `value_forward` to a target [N] that all groups share; `as_fit` tells what it finds.

    Returned are partial sums [P, ...], for `add_up`. An error is a group's mean squared error over
    the rows; the gradients are of the mean of all errors. The gradient of x is written over x.
    """
    if x.is_cuda:
        return _values_on_gpu().value_fit(x, affine, weight, offset, target)
    found = x.new_empty(1, 4 * affine[0].numel() + 2 * len(x), dtype=torch.float32)
    _call(_VALUE, "fit", x, affine, (x, *affine, weight, offset, target, found))
    return found


def as_fit(found: Tensor, affine: Affine, weight: Tensor, offset: Tensor) -> Fit:
    """Return the errors and gradients in what `value_fit` found, added up."""
    size, num_groups = affine[0].numel(), offset.numel()
    columns, rows = found.split([4 * size, 2 * num_groups])
    bias, scale, shift, gweight = columns.view(4, *affine[0].shape)
    goffset, errors = rows.view(2, num_groups)
    return Fit(errors, bias, scale, shift, gweight.view_as(weight), goffset.view_as(offset))


def tangent(x: Tensor, bias: Tensor) -> Tensor:
    """Return x + bias [..., U] minus the mean of each 8 entries, float32; on a GPU only.

    That projects a velocity onto the tangent space of SimNorm's simplices.
    """
    affine = stacked((bias,))
    return _Tangent.apply(x, affine.value, affine.gradient)  # type: ignore[return-value]


def stacked(parameters: Sequence[Tensor]) -> "Stacked":
    """Return parameters of one shape on a GPU as one tensor, which `autocast` makes only once."""
    return make_once(parameters[0], lambda _: Stacked(*parameters))


def add_bias_gradient(gradient: Gradient, gx: Tensor) -> None:
    """Add the sum of gx [..., U] over its rows, which is the gradient of a bias in a `Stacked`."""
    parts = gx.view(-1, 1, gx.shape[-1])
    gradient.total = _rows_on_gpu().add_rows(parts, gradient.total)


class Stacked:
    """Parameters of one shape on a GPU as one tensor `value`, with a shared `gradient`.

    `gradient` is None if the parameters are not trained.
    """

    def __init__(self, *parameters: Tensor):
        is_trained = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
        self.gradient = Gradient() if is_trained else None
        self.value: Tensor = _Stack.apply(self.gradient, *parameters)  # type: ignore[assignment]


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Gradient | None, *parameters: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.gradient, ctx.num_parameters = gradient, len(parameters)
        return torch.stack(parameters)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor | None):
        total = ctx.gradient.total
        for parts in ctx.gradient.parts.values():
            total = _rows_on_gpu().add_rows(parts, total)
        return None, *([None] * ctx.num_parameters if total is None else total)


class _SharedNorm(torch.autograd.Function):
    """A norm on a GPU whose parameters' gradients are added up in a shared Gradient."""

    @staticmethod
    def forward(ctx: Any, kind: str, x: Tensor, value: Tensor, gradient: Gradient) -> Tensor:
        bias, scale, shift = value
        y, moments = forward(kind, x, (bias, scale, shift))
        ctx.kind, ctx.gradient = kind, gradient
        ctx.save_for_backward(x, moments, value)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor):
        x, moments, (bias, scale, shift) = ctx.saved_tensors
        gx = torch.empty_like(x)
        given = (ctx.kind, gy.contiguous(), x, (bias, scale, shift), moments, gx, True)
        on_gpu().backward(*given, ctx.gradient.parts)
        return None, gx, None, None


class _Tangent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias_1U: Tensor, gradient: Gradient | None) -> Tensor:
        ctx.dtype, ctx.gradient = x.dtype, gradient
        return _rows_on_gpu().tangent_forward(x, bias_1U)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gv: Tensor):
        gx, gradient = _rows_on_gpu().tangent_backward(gv.contiguous(), ctx.dtype), ctx.gradient
        if gradient is not None:
            add_bias_gradient(gradient, gx)
        return gx, None, None


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kind: str, x: Tensor, *affine: Tensor):
        y, moments = forward(kind, x, affine)  # type: ignore[arg-type]
        ctx.kind = kind
        ctx.save_for_backward(x, moments, *affine)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor):
        x, moments, *affine = ctx.saved_tensors
        gx, trained = torch.empty_like(x), any(ctx.needs_input_grad[2:])
        sums = backward(ctx.kind, gy.contiguous(), x, tuple(affine), moments, gx, trained)
        return None, gx, *(sums if sums is not None else (None, None, None))


def on_gpu() -> Any:
    """Return the module for a GPU; it needs Triton, which a torch for CPUs comes without."""
    from pwmray.kernels import norms_gpu

    return norms_gpu


def _values_on_gpu() -> Any:
    from pwmray.kernels import values_gpu

    return values_gpu


def _rows_on_gpu() -> Any:
    from pwmray.kernels import rows_gpu

    return rows_gpu


def _call(kind: str, direction: str, x: Tensor, affine: Affine, given: tuple) -> None:
    num_entries = x.shape[-1]
    num_groups = affine[0].numel() // num_entries
    num_rows = x.numel() // affine[0].numel()
    assert all(t is None or t.is_contiguous() for t in given)
    addresses = [None if t is None else t.data_ptr() for t in given]
    kernel = _kernel(f"{kind}_{_DTYPES[x.dtype]}_{direction}", len(given))
    kernel(*addresses, num_groups, num_rows, num_entries, EPSILON, torch.get_num_threads())


@functools.cache
def _kernel(name: str, num_tensors: int) -> Any:
    kernel = getattr(load(), name)
    sizes = [ctypes.c_int64] * 3
    kernel.argtypes = [ctypes.c_void_p] * num_tensors + [*sizes, ctypes.c_float, ctypes.c_int]
    kernel.restype = None
    return kernel
