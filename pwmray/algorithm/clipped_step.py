"""Adam on clipped gradients, by kernels of our own where they are faster."""

import inspect
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pwmray.algorithm.compiling import reason_against

Betas = tuple[float, float]


class Adam(torch.optim.Adam):
    """torch's fused Adam without its provisions for torch.compile, which nothing here uses.

    For them its methods import the compiler: seconds and 100 MiB of every process that trains.
    """

    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))

    def __init__(self, parameters: Iterable[Tensor], lr: float | Tensor, betas: Betas):
        super().__init__(parameters, lr=lr, betas=betas, fused=True)


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
