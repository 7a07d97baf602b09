"""Products of rows with a weight; on a GPU, operands are laid out for its matrix units.

These read 16 bytes at a time: a product takes two to three times as long if an operand's row is not
a multiple of that. So a weight [V, U] is copied, once within `precision.autocast`, in the dtype of
products and with zeros up to multiples of 8, and the rows that it multiplies are padded likewise.
The gradients of all uses of a weight are added up in float32 where they are computed.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pwmray import precision
from pwmray.kernels.branches import Beside
from pwmray.kernels.gradient import Gradient

_MULTIPLE = 8  # entries: 16 bytes of bfloat16


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Return x @ weight.T, [..., V]; on a GPU it may be padded with zeros and in bfloat16."""
    if not x.is_cuda:
        return precision.product(F.linear, x, precision.as_factor(weight))
    return operand(weight).multiply(x)


def operand(weight: Tensor) -> "_Operand":
    """Return a weight on a GPU as products take it, which `autocast` makes only once."""
    return precision.make_once(weight, _Operand)


def join(z: Tensor, e: Tensor, a: Tensor) -> Tensor:
    """Return z, e and a [..., U] on a GPU side by side, laid out for `linear`."""
    return _Joined.apply(z, e, a, precision.product_dtype(z.device))  # type: ignore[return-value]


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, e: Tensor, a: Tensor, dtype: torch.dtype) -> Tensor:
        from pwmray.kernels import flow_gpu  # needs Triton

        ctx.shapes = z.shape, e.shape, a.shape
        x = z.new_empty(*z.shape[:-1], _padded(sum(s[-1] for s in ctx.shapes)), dtype=dtype)
        while e.dim() > 1 and e.stride(0) == 0:  # expanded: one e for all rows
            e = e[0]
        z, e, a = (t.reshape(t.shape[:-1].numel(), t.shape[-1]).contiguous() for t in (z, e, a))
        flow_gpu.fill(x.view(1, len(z), -1), z, e, a, 0.0)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gx: Tensor):
        from pwmray.kernels import flow_gpu

        wanted = [
            gx.new_empty(shape, dtype=torch.float32) if is_wanted else None
            for shape, is_wanted in zip(ctx.shapes, ctx.needs_input_grad[:3], strict=True)
        ]
        gx = gx.contiguous().view(1, -1, gx.shape[-1])
        flow_gpu.split(gx, wanted, [shape[-1] for shape in ctx.shapes])
        return *wanted, None


class _Operand:
    """A weight as products take it, `value`; its `gradient` is None if it is not trained."""

    def __init__(self, weight: Tensor):
        self._dtype = precision.product_dtype(weight.device)
        self._width = _padded(weight.shape[1])
        is_trained = weight.requires_grad and torch.is_grad_enabled()
        self.gradient = Gradient() if is_trained else None
        shape = (_padded(weight.shape[0]), self._width)
        if self.gradient is None:
            self.value = _copy(weight.detach(), shape, self._dtype)
        else:
            self.value = _Laid.apply(weight, shape, self._dtype, self.gradient)

    def multiply(self, x: Tensor) -> Tensor:
        x = widen(x, self._width, self._dtype)
        if self.gradient is None:
            return F.linear(x, self.value)
        return _Product.apply(x, self.value, self.gradient)  # type: ignore[return-value]


class _Laid(torch.autograd.Function):
    """The laid-out copy of a weight; its backward pass comes last, with the whole gradient."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, shape: tuple[int, int], dtype: torch.dtype, gradient: Gradient
    ) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.gradient, ctx.shape = gradient, weight.shape
        return _copy(weight, shape, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor | None):
        total, (num_out, num_in) = ctx.gradient.finish(), ctx.shape
        found = None if total is None else total[:num_out, :num_in].contiguous()
        return found, None, None, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, gradient: Gradient) -> Tensor:
        ctx.save_for_backward(x, value)
        ctx.gradient = gradient
        return F.linear(x, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor):
        x, value = ctx.saved_tensors
        add_gradient(ctx.gradient, gy.flatten(0, -2), x.flatten(0, -2))
        return (gy @ value if ctx.needs_input_grad[0] else None), None, None


def add_gradient(gradient: Gradient, gy_NV: Tensor, x_NU: Tensor) -> None:
    """Add the gradient of a weight that multiplied the rows x, beside what follows."""
    total = gradient.finish()
    with Beside(x_NU.device, "weights") as gradient.branch:
        gradient.total = _add_product(total, gy_NV.t(), x_NU)
    gradient.read = [x_NU.untyped_storage(), gy_NV.untyped_storage()]


def widen(x: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Return x [..., U] padded with zeros to [..., width], in `dtype`."""
    if x.shape[-1] == width:
        return x.to(dtype)
    return _Widened.apply(x, width, dtype)  # type: ignore[return-value]


class _Widened(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return _copy(x, (*x.shape[:-1], width), dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor):
        return _copy(gy, ctx.shape, ctx.dtype), None, None


def _padded(size: int) -> int:
    return -(-size // _MULTIPLE) * _MULTIPLE


def _copy(x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return x cut or padded with zeros to `shape`, at the end of each dimension, in `dtype`."""
    if x.shape == shape:
        return x.to(dtype)
    from pwmray.kernels import rows_gpu  # needs Triton

    return rows_gpu.copy_rows(x.contiguous(), shape, dtype)


def _add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b in float32, or add it to `total` in place."""
    if a.dtype == torch.float32:
        return torch.mm(a, b) if total is None else total.addmm_(a, b)
    if total is None:
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.ops.aten.addmm.dtype_out(total, a, b, total.dtype, out=total)
