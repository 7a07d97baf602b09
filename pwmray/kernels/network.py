"""An MLP as one operation on a CPU, forward and backward.

The result is that of the layers one by one, to the last bit where the same library multiplies.
What is saved is what torch does between them, which takes longer than the arithmetic of a small
network.

A flow calls its network several times with the same condition. `conditioned` multiplies the first
weight by that condition only once; its sums are in another order, so it is the same up to rounding.

Shapes: N rows; a layer takes U entries of a row to V. All is float32.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pwmray.kernels import norms
from pwmray.precision import is_rounding, make_once, multiply, product_dtype


class Layer(NamedTuple):
    """A linear layer W x + b, followed by a norm of `pwmray.kernels.norms` or by nothing."""

    kind: str | None  # of the norm
    weight: Tensor  # W [V, U]
    affine: tuple[Tensor, ...]  # b [V] and, with a norm, its scale and shift [V]


_NUM_PARAMETERS = 4  # of a layer: W, b, scale and shift; None without a norm
_NUM_KEPT = 3  # of a layer for its backward pass: its input, the norm's input and moments


def can_run(x: Tensor) -> bool:
    """Tell whether `run` can take x: on a CPU, with products in float32."""
    is_plain = x.dtype == torch.float32 and x.is_cpu and not is_rounding()
    return is_plain and product_dtype(x.device) == torch.float32


def run(x: Tensor, layers: Sequence[Layer], given: Tensor | None = None) -> Tensor:
    """Return the output of the layers for x [..., U], differentiable.

    `given` [..., V] is added to the first layer's W x.
    """
    kinds = [layer.kind for layer in layers]
    parameters = []
    for _, weight, affine in layers:
        parameters += [weight, *affine, *[None] * (_NUM_PARAMETERS - 1 - len(affine))]
    if not torch.is_grad_enabled():
        return _through(x, kinds, given, parameters)[0]
    return _Network.apply(x, kinds, given, *parameters)  # type: ignore[return-value]


def conditioned(
    layers: Sequence[Layer], given: Tensor, is_first: bool
) -> Callable[[Tensor, float], Tensor]:
    """Return the layers' output for `given` [..., U] as a function of x [..., X] and a time.

    The layers take `given`, x and the time (one column) side by side, with `given` before x if it
    `is_first`. The inputs are never joined: `given` is multiplied by its part of W here, once, and
    the time, which is the same for all rows, goes into the bias.
    """
    first, *others = layers
    num_given = given.shape[-1]
    num_others = first.weight.shape[1] - 1 - num_given
    sizes = (num_given, num_others) if is_first else (num_others, num_given)
    *parts, of_time = make_once(first.weight, lambda w: w.split((*sizes, 1), dim=1))
    of_given, of_x = parts if is_first else reversed(parts)
    product = multiply(_rows(given), of_given.t()).view(*given.shape[:-1], -1)

    def call(x: Tensor, time: float) -> Tensor:
        bias, *affine = first.affine
        bias = torch.add(bias, of_time.squeeze(1), alpha=time)
        return run(x, [Layer(first.kind, of_x, (bias, *affine)), *others], product)

    return call


class _Network(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kinds: Sequence[str | None],
        given: Tensor | None,
        *parameters: Tensor | None,
    ):
        y, kept = _through(x, kinds, given, parameters)
        ctx.kinds, ctx.shape = kinds, x.shape
        ctx.save_for_backward(*parameters, *kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor):
        kinds, tensors = ctx.kinds, ctx.saved_tensors
        num_layers = len(kinds)
        parameters = tensors[: _NUM_PARAMETERS * num_layers]
        kept = tensors[_NUM_PARAMETERS * num_layers :]
        is_input_wanted, _, is_given_wanted, *wanted = ctx.needs_input_grad
        is_trained, gradients = any(wanted), []
        g_NV, is_ours = _rows(gy).contiguous(), False
        for i in reversed(range(num_layers)):
            weight, *affine = parameters[_NUM_PARAMETERS * i : _NUM_PARAMETERS * (i + 1)]
            x_NU, x_NV, moments = kept[_NUM_KEPT * i : _NUM_KEPT * (i + 1)]
            of_norm = (None,) * 3
            if kinds[i] is None:
                of_norm = (g_NV.sum(0), None, None) if is_trained else of_norm
            else:
                gx_NV = g_NV if is_ours else torch.empty_like(x_NV)  # autograd may use gy elsewhere
                given = (kinds[i], g_NV, x_NV, tuple(affine), moments, gx_NV, is_trained)
                sums, g_NV = norms.backward(*given), gx_NV
                of_norm = of_norm if sums is None else sums.unbind()
            of_weight = multiply(g_NV.t(), x_NU) if is_trained else None
            gradients.append((of_weight, *of_norm))
            of_first = g_NV
            if i or is_input_wanted:
                g_NV, is_ours = multiply(g_NV, weight), True
        of_parameters = [found for of_layer in reversed(gradients) for found in of_layer]
        of_input = g_NV.view(ctx.shape) if is_input_wanted else None
        of_given = of_first.view(*ctx.shape[:-1], -1) if is_given_wanted else None
        return of_input, None, of_given, *of_parameters


def _through(
    x: Tensor, kinds: Sequence[str | None], given: Tensor | None, parameters: Sequence[Any]
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the output and, for the backward pass, `_NUM_KEPT` tensors of each layer."""
    y_NV, kept = _rows(x), []
    added_NV = None if given is None else _rows(given)
    for i, kind in enumerate(kinds):
        weight, bias, *affine = parameters[_NUM_PARAMETERS * i : _NUM_PARAMETERS * (i + 1)]
        x_NU, x_NV, moments = y_NV, None, None
        if kind is None:
            added_NV = bias if added_NV is None else added_NV + bias
            y_NV = multiply(x_NU, weight.t(), added_NV)
        else:
            x_NV = multiply(x_NU, weight.t(), added_NV)
            y_NV, moments = norms.forward(kind, x_NV, (bias, *affine))
        added_NV = None
        kept += [x_NU, x_NV, moments]
    return y_NV.view(*x.shape[:-1], y_NV.shape[-1]), kept


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])
