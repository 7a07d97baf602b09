"""Adam on clipped gradients, by kernels of our own where they are faster."""

import inspect
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from pwmray.kernels import adam

Betas = tuple[float, float]


class Adam(torch.optim.Adam):
    """torch's fused Adam without its provisions for torch.compile, which nothing here uses.

    For them its methods import the compiler: a second and 70 MiB of every process that trains.
    """

    uses_kernels = False  # pwmray.algorithm.compiling turns it on

    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))

    def __init__(self, parameters: Iterable[Tensor], lr: float | Tensor, betas: Betas):
        super().__init__(parameters, lr=lr, betas=betas, fused=True)


def clip_and_step(
    optimizer: Adam, clip: float, copies: Mapping[Tensor, Tensor] | None = None
) -> Tensor:
    """Take a step with gradients of a norm of at most `clip`; return the norm before.

    `copies` of parameters, in another dtype, follow them.
    """
    copies = copies or {}
    if _wants_kernels(optimizer) and adam.can_step(optimizer):
        return adam.step(optimizer, clip, copies)
    norm = nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], clip)
    optimizer.step()
    adam.follow(copies)
    return norm


def _wants_kernels(optimizer: Adam) -> bool:
    """Where they are compiled; on a GPU for a step that is or may be recorded.

    That one has its rate in a tensor.
    """
    (group,) = optimizer.param_groups
    on_cpu = group["params"][0].device.type == "cpu"
    return optimizer.uses_kernels and (on_cpu or isinstance(group["lr"], Tensor))
