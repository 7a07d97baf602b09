"""An MLP world model's steps along given actions, as one operation on a GPU.

It computes what its steps compute one by one, forward and backward, up to the order of sums. What
lies between two steps is part of the norms' kernels, and the gradient of a weight is one product
over the rows of all steps. Actions are constants.

Shapes: H steps, N rows, L latent, T task embedding, A action, W entries of an input: z, e, a, and
zeros up to a multiple of 8; a layer takes U entries to V.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pwmray.kernels import norms
from pwmray.kernels.flow import Part, add_weight_gradients, are_all_trained, as_parts, on_gpu
from pwmray.kernels.network import Layer


def can_unroll(layers: Sequence[Layer]) -> bool:
    """Tell whether `unroll` takes the layers: norms behind all, at last a simplex, all trained."""
    has_norms = all(layer.kind for layer in layers) and layers[-1].kind == norms.NORM_SIMPLEX
    return has_norms and are_all_trained(layers)


def unroll(z: Tensor, e: Tensor, a_HNA: Tensor, layers: Sequence[Layer]) -> tuple[Tensor, Tensor]:
    """Return z_0 .. z_{H-1} and z_1 .. z_H, [H, N, L] each, float32, of z_0 [N, L]."""
    parts, tensors = as_parts(layers)
    return _Unrolled.apply(parts, z.float(), e, a_HNA, *tensors)  # type: ignore[return-value]


class _Unrolled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, parts: Sequence[Part], z: Tensor, e: Tensor, a_HNA: Tensor, *tensors: Tensor
    ):
        weights, affines = tensors[::2], [tuple(affine) for affine in tensors[1::2]]
        horizon, gpu = len(a_HNA), norms.on_gpu()
        inputs = [z.new_empty(horizon, len(z), w.shape[1], dtype=w.dtype) for w in weights]
        e_rows = (e[:1] if e.stride(0) == 0 else e).contiguous()
        on_gpu().fill(inputs[0], z.contiguous(), e_rows, a_HNA.flatten(0, 1).contiguous(), 0.0)
        z_HNL, kept = z.new_empty(horizon + 1, *z.shape), []  # with one more
        z_HNL[0] = z
        for t in range(horizon):
            following = inputs[0][t + 1] if t + 1 < horizon else None
            results = [*(x_HNU[t] for x_HNU in inputs[1:]), z_HNL[t + 1]]
            for k, (part, weight) in enumerate(zip(parts, weights, strict=True)):
                x = torch.mm(inputs[k][t], weight.t())
                again = following if part is parts[-1] else None
                kept += [x, gpu.forward(part.kind, x, affines[k], results[k], again)[1]]
        ctx.parts, ctx.sizes = parts, (z.shape[1], e.shape[1], a_HNA.shape[2])
        ctx.save_for_backward(*tensors, *inputs, *kept)
        return z_HNL[:-1], z_HNL[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gstart_HNL: Tensor, gend_HNL: Tensor):
        parts, num_layers, tensors = ctx.parts, len(ctx.parts), ctx.saved_tensors
        weights = tensors[: 2 * num_layers : 2]
        affines = [tuple(affine) for affine in tensors[1 : 2 * num_layers : 2]]
        inputs, kept = tensors[2 * num_layers : 3 * num_layers], tensors[3 * num_layers :]
        gstart_HNL, gend_HNL = gstart_HNL.contiguous(), gend_HNL.contiguous()
        horizon, num_rows = gend_HNL.shape[:2]
        made = [
            x.new_empty(horizon, num_rows, len(w)) for x, w in zip(inputs, weights, strict=True)
        ]
        gx_HNW = torch.empty_like(inputs[0])
        for t in reversed(range(horizon)):
            gy, following = gend_HNL[t], None
            if t + 1 < horizon:
                following = gstart_HNL[t + 1], gx_HNW[t + 1]
            for k in reversed(range(num_layers)):
                x, moments = kept[2 * (t * num_layers + k) :][:2]
                given = (parts[k].kind, gy, x, affines[k], moments, made[k][t], True)
                norms.on_gpu().backward(*given, parts[k].affine.parts, following)
                gy, following = (torch.mm(made[k][t], weights[k]) if k else gy), None
            torch.mm(made[0][t], weights[0], out=gx_HNW[t])
        add_weight_gradients(parts, inputs, made)
        size, is_wanted = ctx.sizes[1], ctx.needs_input_grad[2]
        ge = gend_HNL.new_empty(num_rows, size) if is_wanted else None
        on_gpu().split(gx_HNW, [None, ge, None], ctx.sizes)
        gz = gstart_HNL[0] + gx_HNW[0, :, : ctx.sizes[0]]
        return None, gz, ge, None, *[None] * (2 * num_layers)
