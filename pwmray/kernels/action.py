"""A policy's actions on a GPU, without gradients, with one kernel between two matrix products.

Shapes: N rows, L latent, A action.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pwmray.kernels import norms, products
from pwmray.kernels.flow import Plan
from pwmray.kernels.network import Layer

_ONE_CALL = Plan((0.0,), ((),), (1.0,))  # x moves by the network's output: a Gaussian's mean


@torch.no_grad()
def act(
    z: Tensor,
    noise: Tensor,
    scale: tuple[Tensor, float],
    mask: Tensor,
    layers: Sequence[Layer],
    plan: Plan | None = None,
) -> Tensor:
    """Return the actions tanh(mask * x) [..., A], where x starts at standard deviation times noise.

    `scale` has the logarithm of that deviation and its floor. For a Gaussian policy, without a
    `plan`, the layers' output for z is added to x. For a flow policy x is integrated by the plan
    along their output for z, x and the time. The last layer has no norm.
    """
    weights = [products.operand(layer.weight).value for layer in layers]
    z_NL, noise_NA = z.flatten(0, -2).contiguous(), noise.flatten(0, -2).contiguous()
    draws, (bias,), gpu = (noise_NA, *scale, mask), layers[-1].affine, _on_gpu()
    width, dtype = weights[0].shape[1], weights[0].dtype
    if plan is None:
        plan, x = _ONE_CALL, products.widen(z_NL, width, dtype)
    else:
        x = z.new_empty(len(z_NL), width, dtype=dtype)
        gpu.fill(x, z_NL, draws, plan.times[0])
    v, a = z.new_empty(len(plan.times) - 1, *noise_NA.shape), torch.empty_like(noise_NA)
    for i, factors in enumerate(plan.stages[1:]):
        y = _through(x, weights, layers)
        gpu.advance(y, bias, draws, v, factors, x, z_NL.shape[1], plan.times[i + 1])
    gpu.arrive(_through(x, weights, layers), bias, draws, v, plan.end, a)
    return a.view_as(noise)


def _through(x: Tensor, weights: Sequence[Tensor], layers: Sequence[Layer]) -> Tensor:
    for (kind, _, affine), weight in zip(layers[:-1], weights[:-1], strict=True):
        assert kind is not None
        bias, scale, shift = affine
        x, _ = norms.forward(kind, torch.mm(x, weight.t()), (bias, scale, shift))
    return torch.mm(x, weights[-1].t())


def _on_gpu() -> Any:
    """Return the module for a GPU; it needs Triton."""
    from pwmray.kernels import action_gpu

    return action_gpu
