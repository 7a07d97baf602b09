"""Networks by the kernels of `pwmray.kernels`: several small operations as one.

They read and write memory less often than what torch compiles, and are there in seconds.
"""

import functools
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from pwmray.algorithm import agreement
from pwmray.commands import one_line
from pwmray.kernels import build, norms
from pwmray.models.layers import use_kernels

if TYPE_CHECKING:
    from pwmray.algorithm.clipped_step import Adam

_REASON_LENGTH = 200

log = logging.getLogger(__name__)


def compile_networks(module: nn.Module, optimizers: "Iterable[Adam]") -> str:
    """Let every network of `module`, and its optimizers, use kernels: compiled, in seconds.

    Without a compiler they stay as they are, and on a GPU where kernels and torch do not agree; the
    log says so. Returns `on`, or `off: ` and why.
    """
    device = next(module.parameters()).device
    reason = reason_against(device)
    if not reason and device.type != "cpu":
        reason = _disagreement(module)
    if reason:
        log.warning("compile=off: %s", reason)
        return f"off: {reason}"
    use_kernels(module, True)
    for optimizer in optimizers:
        optimizer.uses_kernels = True
    return "on"


def _disagreement(module: nn.Module) -> str:
    """Return where kernels do not compute what torch does on this device, or nothing."""
    try:
        agreement.check(module)
    except Exception as error:  # a kernel may not even run
        return shorten(error)
    return ""


@functools.cache
def reason_against(device: torch.device) -> str:
    """Return why nothing can be compiled for the device here, or nothing; it tries, in seconds."""
    try:
        if device.type == "cpu":
            build.load()
        else:
            row = torch.zeros(8, device=device)
            norms.norm(norms.NORM_MISH, row, row, row, row)
    except Exception as error:  # which one depends on what is missing: compiler, headers, Triton
        return shorten(error)
    return ""


def shorten(error: Exception) -> str:
    """Return what an error says in one line, without the trace that some have in it."""
    return one_line(error)[:_REASON_LENGTH]
