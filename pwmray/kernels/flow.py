"""The integration of a flow world model's velocity as one operation on a GPU.

The result is that of the network's calls one by one, up to the order of sums, forward and backward.
One kernel does all that lies between two matrix products. A weight's gradient is one product over
the rows of all calls, which is faster than a small product for each.

Shapes: S calls of the network (stages), N rows, L latent, T task embedding, A action, W entries of
an input: z, e, a, the time, and zeros up to a multiple of 8; a layer takes U entries to V.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pwmray.kernels import norms, products
from pwmray.kernels.gradient import Gradient
from pwmray.kernels.network import Layer


class Plan(NamedTuple):
    """An explicit Runge-Kutta integration from 0 to 1, all its steps as one table.

    Velocity v_i is that of time times[i] at x + sum_j stages[i][j] v_j, over all j before i. In the
    end x has moved by sum_j end[j] v_j.
    """

    times: tuple[float, ...]  # [S]
    stages: tuple[tuple[float, ...], ...]  # row i has i entries
    end: tuple[float, ...]  # [S]


class Part(NamedTuple):
    """A layer's norm, and where its gradients are added up; None if nothing is trained."""

    kind: str | None
    weight: Gradient | None
    affine: Gradient | None


def can_displace(layers: Sequence[Layer]) -> bool:
    """Tell whether `displace` takes the layers: a norm in all but the last, all trained or none."""
    is_alike = are_all_trained(layers) or not any(t.requires_grad for t in _parameters(layers))
    return all(layer.kind for layer in layers[:-1]) and is_alike


def are_all_trained(layers: Sequence[Layer]) -> bool:
    """Tell whether all parameters of the layers want gradients."""
    return all(tensor.requires_grad for tensor in _parameters(layers))


def displace(z: Tensor, e: Tensor, a: Tensor, layers: Sequence[Layer], plan: Plan) -> Tensor:
    """Return z(1) - z(0) [..., L], float32, along the velocity of the layers for z, e, a and time.

    The last layer has no norm. The velocity is its output minus the mean of each 8 entries.
    """
    parts, tensors = as_parts(layers)
    rows = [x.flatten(0, -2) for x in (z, e, a)]
    return _Displacement.apply(plan, parts, *rows, *tensors).view_as(z)  # type: ignore


def as_parts(layers: Sequence[Layer]) -> tuple[list[Part], list[Tensor]]:
    """Return where the layers' gradients are added up, and weight and affine of each in turn."""
    parts, tensors = [], []
    for kind, weight, affine in layers:
        operand = products.operand(weight)
        stacked = norms.stacked(affine)
        parts.append(Part(kind, operand.gradient, stacked.gradient))
        tensors += [operand.value, stacked.value]
    return parts, tensors


def onto_simplex(z: Tensor, moved: Tensor, least: float) -> Tensor:
    """Return z + moved [..., L], raised to `least` and divided by the sum of each 8 entries."""
    return _OntoSimplex.apply(z, moved, least)  # type: ignore[return-value]


class _OntoSimplex(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, moved: Tensor, least: float) -> Tensor:
        z, moved = z.contiguous(), moved.contiguous()
        ctx.least = least
        ctx.save_for_backward(z, moved)
        return on_gpu().onto_simplex(z, moved, least)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor):
        gx = on_gpu().onto_simplex(*ctx.saved_tensors, ctx.least, g.contiguous())
        return gx, gx, None


class _Displacement(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        parts: Sequence[Part],
        z: Tensor,
        e: Tensor,
        a: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        z, a = z.contiguous(), a.contiguous()
        e_rows = e[:1] if e.stride(0) == 0 else e
        weights, affines = tensors[::2], tensors[1::2]
        num_stages, num_rows = len(plan.times), len(z)
        num_slots = num_stages if parts[0].weight else 1  # inputs are kept for weights' gradients
        inputs = [z.new_empty(num_slots, num_rows, w.shape[1], dtype=w.dtype) for w in weights]
        column = z.shape[1] + e.shape[1] + a.shape[1]
        v, moved, kept = z.new_empty(num_stages - 1, *z.shape), torch.empty_like(z), []
        goes_backward = any(ctx.needs_input_grad)
        gpu = on_gpu()
        gpu.fill(inputs[0], z, e_rows.contiguous(), a, plan.times[0])
        for i in range(num_stages):
            slot = i % num_slots
            for k, part in enumerate(parts[:-1]):
                x = torch.mm(inputs[k][slot], weights[k].t())
                given = (part.kind, x, tuple(affines[k]), inputs[k + 1][slot])
                moments = norms.on_gpu().forward(*given)[1]
                kept += [x, moments] if goes_backward else []
            y = torch.mm(inputs[-1][slot], weights[-1].t())
            if i + 1 < num_stages:
                following = inputs[0][(i + 1) % num_slots]
                where = (z, following, column, plan.times[i + 1])
                gpu.advance(y, affines[-1], v, plan.stages[i + 1], *where)
            else:
                gpu.arrive(y, affines[-1], v, plan.end, moved)
        ctx.plan, ctx.parts = plan, parts
        ctx.sizes = (z.shape[1], e.shape[1], a.shape[1])
        ctx.save_for_backward(*tensors, *(inputs if parts[0].weight else ()), *kept)
        return moved

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor):
        plan, parts, tensors = ctx.plan, ctx.parts, ctx.saved_tensors
        num_layers, num_stages, g = len(parts), len(plan.times), g.contiguous()
        weights, affines = tensors[: 2 * num_layers : 2], tensors[1 : 2 * num_layers : 2]
        is_trained = parts[0].weight is not None
        num_inputs, num_slots = (num_layers, num_stages) if is_trained else (0, 1)
        inputs, kept = (
            tensors[2 * num_layers :][:num_inputs],
            tensors[2 * num_layers + num_inputs :],
        )
        num_rows = len(g)
        made = [g.new_empty(num_slots, num_rows, len(w), dtype=w.dtype) for w in weights]
        gx = g.new_empty(num_stages, num_rows, weights[0].shape[1], dtype=weights[0].dtype)
        gpu = on_gpu()
        for i in reversed(range(num_stages)):
            slot = i % num_slots
            factors = [row[i] for row in plan.stages[i + 1 :]]
            gpu.through(g, plan.end[i], gx, factors, made[-1][slot])
            for k in reversed(range(num_layers - 1)):
                gy, at = torch.mm(made[k + 1][slot], weights[k + 1]), 2 * (i * (num_layers - 1) + k)
                x, moments = kept[at : at + 2]
                given = (parts[k].kind, gy, x, tuple(affines[k]), moments, made[k][slot])
                sums = parts[k].affine.parts if is_trained else None
                norms.on_gpu().backward(*given, is_trained, sums)
            torch.mm(made[0][slot], weights[0], out=gx[i])
        if is_trained:
            add_weight_gradients(parts, inputs, made)
            norms.add_bias_gradient(parts[-1].affine, made[-1])
        wanted = [
            g.new_empty(num_rows, size) if is_wanted else None
            for size, is_wanted in zip(ctx.sizes, ctx.needs_input_grad[2:5], strict=True)
        ]
        gpu.split(gx, wanted, ctx.sizes)
        return None, None, *wanted, *[None] * (2 * num_layers)


def add_weight_gradients(
    parts: Sequence[Part], inputs: Sequence[Tensor], made: Sequence[Tensor]
) -> None:
    """Add each weight's gradient, a product over all rows of [S, N, U], to its Gradient."""
    for part, x, gy in zip(parts, inputs, made, strict=True):
        assert part.weight is not None
        products.add_gradient(part.weight, gy.flatten(0, 1), x.flatten(0, 1))


def _parameters(layers: Sequence[Layer]) -> list[Tensor]:
    return [tensor for layer in layers for tensor in (layer.weight, *layer.affine)]


def on_gpu() -> Any:
    """Return the module for a GPU; it needs Triton."""
    from pwmray.kernels import flow_gpu

    return flow_gpu
