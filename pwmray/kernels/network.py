"""A network of linear layers, with norms behind them or without, as one operation on a CPU.

It computes what its layers compute one by one, to the last bit, forward and backward, without what
torch does between them: in a small network that takes longer than the arithmetic.

Shapes: N rows; a layer takes U entries of a row to V. All is float32.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pwmray.kernels import norms
from pwmray.precision import is_rounding, product_dtype


class Layer(NamedTuple):
    """W x + b, and the norm of `pwmray.kernels.norms` behind it if there is one."""

    kind: str | None  # of norm
    weight: Tensor  # [V, U]
    affine: tuple[Tensor, ...]  # b [V]; with a norm its scale and shift [V], too


_NUM_PARAMETERS = 4  # of a layer: those that it lacks are None
_NUM_KEPT = 3  # of a layer: x, what the norm takes and its moments


def can_run(x: Tensor) -> bool:
    """Tell whether `run` does here what layers do: on a GPU and in bfloat16 they do more."""
    is_plain = x.dtype == torch.float32 and not x.is_cuda and not is_rounding()
    return is_plain and product_dtype(x.device) == torch.float32


def run(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """Return what the layers make of x [..., U], with gradients."""
    kinds = [layer.kind for layer in layers]
    parameters = []
    for _, weight, affine in layers:
        parameters += [weight, *affine, *[None] * (_NUM_PARAMETERS - 1 - len(affine))]
    if not torch.is_grad_enabled():
        return _through(x, kinds, parameters)[0]
    return _Network.apply(x, kinds, *parameters)  # type: ignore[return-value]


class _Network(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kinds: Sequence[str | None], *parameters: Tensor | None):
        y, kept = _through(x, kinds, parameters)
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
        is_input_wanted, _, *wanted = ctx.needs_input_grad
        is_trained, gradients = any(wanted), []
        g_NV, is_ours = gy.reshape(-1, gy.shape[-1]).contiguous(), False
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
            if i or is_input_wanted:
                g_NV, is_ours = g_NV @ weight, True
        of_parameters = [found for of_layer in reversed(gradients) for found in of_layer]
        return (g_NV.view(ctx.shape) if is_input_wanted else None), None, *of_parameters


def _through(
    x: Tensor, kinds: Sequence[str | None], parameters: Sequence[Any]
) -> tuple[Tensor, list[Tensor | None]]:
    """Return y and what a backward pass needs of each layer."""
    y_NV, kept = x.reshape(-1, x.shape[-1]), []
    for i, kind in enumerate(kinds):
        weight, bias, *affine = parameters[_NUM_PARAMETERS * i : _NUM_PARAMETERS * (i + 1)]
        x_NU, x_NV, moments = y_NV, None, None
        if kind is None:
            y_NV = torch.addmm(bias, x_NU, weight.t())
        else:
            x_NV = torch.mm(x_NU, weight.t())
            y_NV, moments = norms.forward(kind, x_NV, (bias, *affine))
        kept += [x_NU, x_NV, moments]
    return y_NV.view(*x.shape[:-1], y_NV.shape[-1]), kept
