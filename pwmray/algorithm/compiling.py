"""Networks compiled: several small operations as one.

On a GPU torch compiles each `Network` and the ensemble of critics: they hold all products, norms
and activations, and what is around them, random draws and loops, stays Python. On a CPU they use
the kernels of `pwmray.kernels`, which read and write memory less often than what torch compiles.
"""

import contextlib
import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pwmray.kernels import build
from pwmray.models import CriticEnsemble
from pwmray.models.layers import MishNetwork, Network, NormedLinear, mish

# A piece is compiled for each shape it meets, with gradients of inputs or weights and without.
_MAX_PROGRAMS = 64
_REASON_LENGTH = 200
_BACKEND = "inductor"

Forward = Callable[[Tensor], Tensor]

log = logging.getLogger(__name__)


def compile_networks(module: nn.Module) -> None:
    """Compile every network of `module`: seconds on a CPU, tens of seconds on a GPU.

    Without a compiler they stay as they are, and the log says so; a network that torch cannot
    compile stays as it is too.
    """
    device = next(module.parameters()).device
    reason = reason_against(device)
    if reason:
        log.warning("compile=off: %s", reason)
        return
    if device.type == "cpu":
        _use_kernels(module)
    else:
        _compile_by_torch(module)


def _use_kernels(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, NormedLinear | MishNetwork | CriticEnsemble):
            part.uses_kernels = True


def _compile_by_torch(module: nn.Module) -> None:
    # What torch cannot compile after all runs as it is written, with a warning of torch's.
    torch._dynamo.config.suppress_errors = True
    for part in module.modules():
        if isinstance(part, Network | CriticEnsemble):
            part.forward = _compiled(part.forward)  # type: ignore[method-assign]


def _compiled(forward: Forward) -> Forward:
    return torch.compile(  # type: ignore[call-overload]
        forward,
        dynamic=False,
        backend=_BACKEND,
        isolate_recompiles=True,
        recompile_limit=_MAX_PROGRAMS,
    )


@functools.cache
def reason_against(device: torch.device) -> str:
    """Return why nothing can be compiled for the device here, or nothing; it tries, in seconds."""
    try:
        if device.type == "cpu":
            build.load()
        else:
            torch.compile(mish, dynamic=False)(torch.zeros(8, device=device))
    except Exception as error:  # which one depends on what is missing: compiler, headers, Triton
        return " ".join(str(error).split())[:_REASON_LENGTH]
    return ""


def uncompiled() -> contextlib.AbstractContextManager:
    """Return a context in which compiled networks run as they were written.

    For rare calls with shapes of their own, such as an evaluation's.
    """
    return torch.compiler.set_stance("force_eager")
