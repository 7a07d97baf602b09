"""Returns over imagined rollouts and their running scale.

Shapes: H horizon, B batch; rewards and values carry a trailing 1.
"""

import torch
from torch import Tensor, nn


def td_lambda(
    r_HB1: Tensor,
    next_v_HB1: Tensor,
    discount: float,
    trace: float,
    uses_kernels: bool = False,
) -> Tensor:
    """Return targets y [H, B, 1]; next_v is V(z_1) .. V(z_H), the last one bootstraps.

    y_{H-1} = r_{H-1} + gamma V_H and
    y_t = r_t + gamma ((1 - lambda) V_{t+1} + lambda y_{t+1}). With `uses_kernels` a GPU takes all
    steps in one, without gradients.
    """
    if uses_kernels and r_HB1.is_cuda:
        from pwmray.kernels import rows_gpu  # needs Triton

        return rows_gpu.td_lambda(r_HB1, next_v_HB1, discount, trace)
    y_B1 = next_v_HB1[-1]
    targets = []
    for r_B1, v_B1 in zip(r_HB1.flip(0), next_v_HB1.flip(0), strict=True):
        y_B1 = r_B1 + discount * ((1 - trace) * v_B1 + trace * y_B1)
        targets.append(y_B1)
    return torch.stack(targets[::-1])


def discounts(horizon: int, discount: float, like: Tensor) -> Tensor:
    """Return gamma^0 .. gamma^(H-1) as [H, 1], on the device and in the dtype of `like`."""
    exponents = torch.arange(horizon, device=like.device, dtype=like.dtype)
    return (discount**exponents).unsqueeze(-1)


class ReturnScale(nn.Module):
    """Running mean and variance of the returns (Chan's parallel update; counts from 1e-4)."""

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("var", torch.ones(()))
        self.register_buffer("count", torch.tensor(1e-4))

    @torch.no_grad()
    def update(self, returns: Tensor) -> None:
        """Take a batch of returns into the statistics."""
        var, mean = torch.var_mean(returns, correction=0)
        total = self.count + returns.numel()
        delta = mean - self.mean
        spread = delta.square() * self.count * returns.numel() / total
        self.var.copy_((self.var * self.count + var * returns.numel() + spread) / total)
        self.mean.add_(delta * returns.numel() / total)
        self.count.copy_(total)

    @property
    def std(self) -> Tensor:
        """The standard deviation of all returns so far [], never below 0.003."""
        return torch.sqrt(self.var + 1e-5)
