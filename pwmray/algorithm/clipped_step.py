"""A step of Adam on clipped gradients, by kernels of our own where they are faster."""

import torch
from torch import Tensor, nn

from pwmray.algorithm.compiling import reason_against


def clip_and_step(optimizer: torch.optim.Optimizer, clip: float) -> Tensor:
    """Take a step with gradients of a norm of at most `clip`; return the norm before.

    On a GPU the kernels take a step that is or may be recorded: one with the rate in a tensor.
    """
    (group,) = optimizer.param_groups
    rate = group["lr"]
    if isinstance(rate, Tensor) and rate.is_cuda and not reason_against(rate.device):
        from pwmray.kernels import adam  # needs Triton

        if adam.can_step(optimizer):
            return adam.step(optimizer, clip)
    norm = nn.utils.clip_grad_norm_(group["params"], clip)
    optimizer.step()
    return norm
