"""The critics as one operation: their values, and one regression step with its gradients.

All members see the same input. A member is (Linear, Mish, LayerNorm) several times and then a
Linear with one output, see `pwmray.models.critic`. `fit` writes the backward pass out by hand, so
that a gradient overwrites the one before it or lands where the optimizer reads it, and each product
walks the larger matrix in the order of its memory.

Shapes: C members, N rows, L and U entries of a row.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pwmray.kernels import norms
from pwmray.kernels.branches import Beside
from pwmray.precision import make_once, multiply, product_dtype


class Parameters(NamedTuple):
    """Weight [C, L, U] and bias [C, 1, U] of each linear layer, scale and shift of each norm.

    Scale and shift are [C, 1, U]; there is one norm less than linear layers.
    """

    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    scales: Sequence[Tensor]
    shifts: Sequence[Tensor]

    @property
    def affines(self) -> list[norms.Affine]:
        """The parameters of each fused norm: the bias before it, its scale and shift."""
        return list(zip(self.biases[:-1], self.scales, self.shifts, strict=True))


def values(z_NL: Tensor, parameters: Parameters) -> Tensor:
    """Return the values [C, N] of z, float32; gradients flow to z but not to the parameters.

    Products have the dtype of `autocast` if that is on.
    """
    return _Values.apply(z_NL.to(product_dtype(z_NL.device)), parameters)  # type: ignore


def copy_weights(parameters: Parameters) -> dict[Tensor, Tensor]:
    """Return copies of the weights in the dtype of products; none if that is the weights' own."""
    hidden = parameters.weights[:-1]  # the last weight is fused into the last norm
    dtype = product_dtype(hidden[0].device)
    return {w: make_once(w, lambda w: w.detach().to(dtype)) for w in hidden if w.dtype != dtype}


@torch.no_grad()
def fit(
    z_NL: Tensor, y_N: Tensor, parameters: Parameters, copies: Mapping[Tensor, Tensor]
) -> tuple[Tensor, Parameters]:
    """Return each member's mean squared error to y, [C], and the gradients of the errors' mean.

    Products have the dtype of `autocast`, as in `values`; `copies` come from `copy_weights`.
    """
    z_NL = z_NL.to(product_dtype(z_NL.device))
    _, layers, x_CNU = _through_hidden(z_NL, parameters, copies)
    head = parameters.affines[-1], parameters.weights[-1], parameters.biases[-1]
    parts, factors = [norms.value_fit(x_CNU, *head, y_N.float())], []

    gx_CNU = x_CNU  # value_fit wrote the gradient there
    for x_CNU, h_CNU, moments, affine, weight in reversed(layers):
        factors.append((h_CNU, gx_CNU))
        gx_CNU = _products(gx_CNU, weight.transpose(1, 2))
        given = (norms.MISH_NORM, gx_CNU, x_CNU, affine, moments, gx_CNU)
        parts.append(norms.backward_parts(*given))
    with Beside(z_NL.device, "sums") as adding:  # neither this nor the first weight's fills a GPU
        gweights = [_weight_gradient(*pair) for pair in factors]
        found, *sums = norms.add_up(parts)
    gweights.append(_first_weight_gradient(z_NL, gx_CNU))
    adding.join()
    last = norms.as_fit(found, *head)
    affines = [*reversed(sums), (last.bias, last.scale, last.shift)]
    gbiases, gscales, gshifts = zip(*affines, strict=True)
    gweights = [*reversed(gweights), last.weight]
    return last.errors, Parameters(gweights, (*gbiases, last.offset), gscales, gshifts)


class _Values(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z_NL: Tensor, parameters: Parameters):
        affine, last = parameters.affines[-1], parameters.weights[-1]
        first, layers, x_CNU = _through_hidden(z_NL, parameters, copy_weights(parameters))
        v_CN, moments = norms.value_forward(x_CNU, affine, last, parameters.biases[-1])
        hidden = [t for x, _, m, affine, weight in layers for t in (x, m, *affine, weight)]
        ctx.save_for_backward(first, x_CNU, moments, *affine, last, *hidden)
        return v_CN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gv_CN: Tensor):
        first, x_CNU, moments, *affine, last = ctx.saved_tensors[:7]
        hidden = ctx.saved_tensors[7:]
        gx_CNU = norms.value_backward(gv_CN.contiguous(), x_CNU, tuple(affine), last, moments)
        for i in reversed(range(0, len(hidden), 6)):
            x_CNU, moments, *affine, weight = hidden[i : i + 6]
            gx_CNU = _products(gx_CNU, weight.transpose(1, 2))
            given = (norms.MISH_NORM, gx_CNU, x_CNU, tuple(affine), moments, gx_CNU, False)
            norms.backward(*given)
        return _input_gradient(gx_CNU, first), None


def _through_hidden(
    z_NL: Tensor, parameters: Parameters, copies: Mapping[Tensor, Tensor]
) -> tuple[Tensor, list[tuple], Tensor]:
    """Run z up to the last norm; return first weight, layers, and that norm's input [C, N, U].

    The layers have, for each norm but the last, its x, y, moments and parameters, and the weight
    that y is multiplied by.
    """
    first, *following = (copies.get(weight, weight) for weight in parameters.weights[:-1])
    layers, x_CNU = [], _shared_product(z_NL, first)
    for affine, weight in zip(parameters.affines[:-1], following, strict=True):
        h_CNU, moments = norms.forward(norms.MISH_NORM, x_CNU, affine)
        layers.append((x_CNU, h_CNU, moments, affine, weight))
        x_CNU = _products(h_CNU, weight)
    return first, layers, x_CNU


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
    if a_CNL.is_cuda:  # one small product at a time would not fill a GPU
        return torch.bmm(a_CNL, b_CLU)
    # A single product spreads over all threads; three members do not, over two.
    out_CNU = a_CNL.new_empty(len(a_CNL), a_CNL.shape[1], b_CLU.shape[2])
    for a_NL, b_LU, out_NU in zip(a_CNL, b_CLU, out_CNU, strict=True):
        multiply(a_NL, b_LU, out=out_NU)
    return out_CNU


def _float32_products(a_CNL: Tensor, b_CLU: Tensor) -> Tensor:
    if a_CNL.is_cuda and a_CNL.dtype != torch.float32:
        return torch.bmm(a_CNL, b_CLU, out_dtype=torch.float32)
    return _products(a_CNL, b_CLU).float()


def _input_gradient(gx_CNU: Tensor, weight_CLU: Tensor) -> Tensor:
    gz_NL = multiply(gx_CNU[0], weight_CLU[0].t())
    for gx_NU, weight_LU in zip(gx_CNU[1:], weight_CLU[1:], strict=True):
        multiply(gx_NU, weight_LU.t(), gz_NL, out=gz_NL)
    return gz_NL
