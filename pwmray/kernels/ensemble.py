"""An ensemble of value functions with one input: forward, and backward written out.

Shapes: C members, N rows, L and U entries of a row. A member is (Linear, Mish, LayerNorm) several
times and a Linear with one output, `pwmray.models.critic`. Written out, a gradient is computed in
the place of the one before it and in the place that it is for, and each product goes over the
larger matrix in the order in which it lies in memory.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pwmray.kernels import norms
from pwmray.precision import product_dtype


def values(
    z_NL: Tensor,
    weights: Iterable[Tensor],
    biases: Iterable[Tensor],
    scales: Iterable[Tensor],
    shifts: Iterable[Tensor],
) -> Tensor:
    """Return the values [C, N] of z, float32; products in the dtype of `autocast` if that is on.

    `weights` are [C, L, U] and `biases` [C, 1, U] of each linear layer, `scales` and `shifts`
    [C, 1, U] of each LayerNorm.
    """
    z_NL = z_NL.to(product_dtype(z_NL.device))
    parameters = (*weights, *biases, *scales, *shifts)
    return _Ensemble.apply(z_NL, *parameters)  # type: ignore[return-value]


class _Ensemble(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z_NL: Tensor, *parameters: Tensor):
        weights, affines, offset = _arrange(parameters)
        *hidden, last = weights
        hidden = [weight.to(z_NL.dtype) for weight in hidden]
        x_CNU, inputs, saved = _shared_product(z_NL, hidden[0]), [], []
        for affine, weight in zip(affines[:-1], hidden[1:], strict=True):
            y_CNU, moments = norms.forward(norms.MISH_NORM, x_CNU, affine)
            saved += [x_CNU, moments]
            inputs.append(y_CNU)
            x_CNU = _products(y_CNU, weight)
        v_CN, moments = norms.value_forward(x_CNU, affines[-1], last, offset)
        parameters = (*hidden, *parameters[len(hidden) :])
        ctx.save_for_backward(z_NL, *parameters, *saved, x_CNU, moments, *inputs)
        return v_CN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gv_CN: Tensor):
        z_NL, *rest = ctx.saved_tensors
        num_parameters = len(ctx.needs_input_grad) - 1
        weights, affines, _ = _arrange(rest[:num_parameters])
        num_hidden = len(affines)
        normed = rest[num_parameters:][: 2 * num_hidden]
        inputs = rest[num_parameters + 2 * num_hidden :]
        trained = any(ctx.needs_input_grad[1:])
        gv_CN = gv_CN.contiguous()

        x_CNU, moments = normed[-2:]
        gx_CNU, sums = norms.value_backward(
            gv_CN, x_CNU, affines[-1], weights[-1], moments, trained
        )
        all_sums, gweights = [sums], []  # from the last to the first
        for i in reversed(range(num_hidden - 1)):
            weight = weights[i + 1]
            if trained:
                gweights.append(_weight_gradient(inputs[i], gx_CNU))
            gx_CNU = _products(gx_CNU, weight.transpose(1, 2))
            x_CNU, moments = normed[2 * i], normed[2 * i + 1]
            sums = norms.backward(
                norms.MISH_NORM, gx_CNU, x_CNU, affines[i], moments, gx_CNU, trained
            )
            all_sums.append(sums)
        gz_NL = _input_gradient(gx_CNU, weights[0]) if ctx.needs_input_grad[0] else None
        if not trained:
            return gz_NL, *(None,) * num_parameters
        gweights.append(_first_weight_gradient(z_NL, gx_CNU))
        found = [sums for sums in reversed(all_sums) if sums is not None]
        glast, goffset = found[-1][3].view_as(weights[-1]), gv_CN.sum(1).view(-1, 1, 1)
        gbiases, gscales, gshifts = zip(*(sums[:3] for sums in found), strict=True)
        return gz_NL, *reversed(gweights), glast, *gbiases, goffset, *gscales, *gshifts


def _arrange(parameters: Sequence[Tensor]) -> tuple[Sequence[Tensor], list[norms.Affine], Tensor]:
    """Return all weights, the parameters of each norm, and the last bias."""
    num_hidden = (len(parameters) - 2) // 4
    weights, rest = parameters[: num_hidden + 1], parameters[num_hidden + 1 :]
    biases, offset = rest[:num_hidden], rest[num_hidden]
    scales, shifts = rest[num_hidden + 1 : -num_hidden], rest[-num_hidden:]
    return weights, list(zip(biases, scales, shifts, strict=True)), offset


def _shared_product(z_NL: Tensor, weight_CLU: Tensor) -> Tensor:
    return _products(z_NL.expand(len(weight_CLU), -1, -1), weight_CLU)


def _first_weight_gradient(z_NL: Tensor, gx_CNU: Tensor) -> Tensor:
    return _float32_products(z_NL.t().expand(len(gx_CNU), -1, -1), gx_CNU)


def _weight_gradient(x_CNU: Tensor, gy_CNV: Tensor) -> Tensor:
    if x_CNU.is_cuda or x_CNU.shape[2] < gy_CNV.shape[2]:
        return _float32_products(x_CNU.transpose(1, 2), gy_CNV)
    gweight_CVU = _products(gy_CNV.transpose(1, 2), x_CNU)
    return gweight_CVU.transpose(1, 2).float().contiguous()


def _products(a_CNL: Tensor, b_CLU: Tensor) -> Tensor:
    """Return each member's a @ b, [C, N, U]."""
    if a_CNL.is_cuda:  # one small product after the other would not fill it
        return torch.bmm(a_CNL, b_CLU)
    # Three members do not divide among two threads; a product does.
    out_CNU = a_CNL.new_empty(len(a_CNL), a_CNL.shape[1], b_CLU.shape[2])
    for a_NL, b_LU, out_NU in zip(a_CNL, b_CLU, out_CNU, strict=True):
        torch.mm(a_NL, b_LU, out=out_NU)
    return out_CNU


def _float32_products(a_CNL: Tensor, b_CLU: Tensor) -> Tensor:
    if a_CNL.is_cuda and a_CNL.dtype != torch.float32:
        return torch.bmm(a_CNL, b_CLU, out_dtype=torch.float32)
    return _products(a_CNL, b_CLU).float()


def _input_gradient(gx_CNU: Tensor, weight_CLU: Tensor) -> Tensor:
    gz_NL = torch.mm(gx_CNU[0], weight_CLU[0].t())
    for gx_NU, weight_LU in zip(gx_CNU[1:], weight_CLU[1:], strict=True):
        gz_NL.addmm_(gx_NU, weight_LU.t())
    return gz_NL
