"""A network of linear layers, with norms behind them or without, as one operation on a CPU.

It computes what its layers compute one by one, to the last bit, forward and backward, without what
torch does between them: in a small network that takes longer than the arithmetic.

What other inputs add to the first layer's product may be given: `along` multiplies once what stays
the same from call to call. Its sums are in another order, the same up to rounding.

Shapes: N rows; a layer takes U entries of a row to V. All is float32.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pwmray.kernels import norms
from pwmray.precision import is_rounding, make_once, product_dtype


class Layer(NamedTuple):
    """W x + b, and the norm of `pwmray.kernels.norms` behind it if there is one."""

    kind: str | None  # of norm
    weight: Tensor  # [V, U]
    affine: tuple[Tensor, ...]  # b [V]; with a norm its scale and shift [V], too


_NUM_PARAMETERS = 4  # of a layer: those that it lacks are None
_NUM_KEPT = 3  # of a layer: x, what the norm takes and its moments


def can_run(x: Tensor) -> bool:
    """Tell whether `run` does here what layers do: on a GPU or in bfloat16 they do more."""
    is_plain = x.dtype == torch.float32 and x.is_cpu and not is_rounding()
    return is_plain and product_dtype(x.device) == torch.float32


def run(x: Tensor, layers: Sequence[Layer], given: Tensor | None = None) -> Tensor:
    """Return what the layers make of x [..., U], with gradients.

    `given` [..., V] is added to what the first weight makes of x.
    """
    kinds = [layer.kind for layer in layers]
    parameters = []
    for _, weight, affine in layers:
        parameters += [weight, *affine, *[None] * (_NUM_PARAMETERS - 1 - len(affine))]
    if not torch.is_grad_enabled():
        return _through(x, kinds, given, parameters)[0]
    return _Network.apply(x, kinds, given, *parameters)  # type: ignore[return-value]


def along(
    layers: Sequence[Layer], given: Tensor, is_first: bool
) -> Callable[[Tensor, float], Tensor]:
    """Return what the layers make of x [..., X] and a time, called with these.

    Their input is `given` [..., U], x, and the time in a column of its own; x stands before `given`
    unless that `is_first`. Neither is put together: `given` is multiplied once, and the time, one
    for all rows, is a part of the bias.
    """
    first, *others = layers
    num_given = given.shape[-1]
    num_others = first.weight.shape[1] - 1 - num_given
    sizes = (num_given, num_others) if is_first else (num_others, num_given)
    *parts, of_time = make_once(first.weight, lambda w: w.split((*sizes, 1), dim=1))
    of_given, of_x = parts if is_first else reversed(parts)
    product = F.linear(given, of_given)

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
                gx_NV = g_NV if is_ours else torch.empty_like(x_NV)  # gy is for others to read
                given = (kinds[i], g_NV, x_NV, tuple(affine), moments, gx_NV, is_trained)
                sums, g_NV = norms.backward(*given), gx_NV
                of_norm = of_norm if sums is None else sums.unbind()
            gradients.append((g_NV.t() @ x_NU if is_trained else None, *of_norm))
            of_first = g_NV
            if i or is_input_wanted:
                g_NV, is_ours = g_NV @ weight, True
        of_parameters = [found for of_layer in reversed(gradients) for found in of_layer]
        of_input = g_NV.view(ctx.shape) if is_input_wanted else None
        of_given = of_first.view(*ctx.shape[:-1], -1) if is_given_wanted else None
        return of_input, None, of_given, *of_parameters


def _through(
    x: Tensor, kinds: Sequence[str | None], given: Tensor | None, parameters: Sequence[Any]
) -> tuple[Tensor, list[Tensor | None]]:
    """Return y and what a backward pass needs of each layer."""
    y_NV, kept = _rows(x), []
    added_NV = None if given is None else _rows(given)
    for i, kind in enumerate(kinds):
        weight, bias, *affine = parameters[_NUM_PARAMETERS * i : _NUM_PARAMETERS * (i + 1)]
        x_NU, x_NV, moments = y_NV, None, None
        if kind is None:
            added_NV = bias if added_NV is None else added_NV + bias
            y_NV = torch.addmm(added_NV, x_NU, weight.t())
        else:
            x_NV = _product(x_NU, weight, added_NV)
            y_NV, moments = norms.forward(kind, x_NV, (bias, *affine))
        added_NV = None
        kept += [x_NU, x_NV, moments]
    return y_NV.view(*x.shape[:-1], y_NV.shape[-1]), kept


def _product(x_NU: Tensor, weight: Tensor, added_NV: Tensor | None) -> Tensor:
    if added_NV is None:
        return torch.mm(x_NU, weight.t())
    return torch.addmm(added_NV, x_NU, weight.t())


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])
