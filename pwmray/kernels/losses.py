"""The losses of a world model's latents and rewards on a GPU, a kernel each way.

Shapes: any leading dimensions; L latent, K bins; rewards carry a trailing 1. All is float32, and
gradients flow to the first argument alone.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def square_error(z: Tensor, target: Tensor) -> Tensor:
    """Return the mean over L of (z - target)^2, [...]."""
    given = (z.float().contiguous(), target.float().contiguous())
    return _Loss.apply(_on_gpu().square_error, *given)  # type: ignore[return-value]


def cross_entropy(logits: Tensor, r: Tensor, bin_range: float) -> Tensor:
    """As `two_hot.cross_entropy`, [...]."""
    given = (logits.float().contiguous(), r.contiguous(), bin_range)
    return _Loss.apply(_on_gpu().cross_entropy, *given)  # type: ignore[return-value]


class _Loss(Function):
    @staticmethod
    def forward(
        ctx: Any, compute: Callable[..., Tensor], x: Tensor, target: Tensor, *settings: float
    ) -> Tensor:
        assert not ctx.needs_input_grad[2]
        ctx.compute, ctx.settings = compute, settings
        ctx.save_for_backward(x, target)
        return compute(x, target, *settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor):
        gx = ctx.compute(*ctx.saved_tensors, *ctx.settings, g.contiguous())
        return None, gx, None, *[None] * len(ctx.settings)


def _on_gpu() -> Any:
    """Return the module for a GPU, which needs Triton."""
    from pwmray.kernels import losses_gpu

    return losses_gpu
