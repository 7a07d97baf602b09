"""Run networks by the kernels of `pwmray.kernels`, each of which is several small operations.

They touch memory less often than what torch compiles, and are built in seconds.
"""

import functools
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from pwmray.algorithm import agreement
from pwmray.kernels import build, norms
from pwmray.models.layers import use_kernels
from pwmray.wording import one_line

if TYPE_CHECKING:
    from pwmray.algorithm.clipped_step import Adam

_REASON_LENGTH = 200

log = logging.getLogger(__name__)


def compile_networks(module: nn.Module, optimizers: "Iterable[Adam]") -> str:
    """Have the networks of `module` and the optimizers use kernels, compiled here in seconds.

    They do not without a compiler, or on a GPU where kernels and torch disagree; the log says so.
    Returns "on", or "off: " and why.
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
    """Return where kernels and torch disagree on this device, '' where they do not."""
    try:
        agreement.check(module)
    except Exception as error:  # a kernel may not even run
        return shorten(error)
    return ""


@functools.cache
def reason_against(device: torch.device) -> str:
    """Return why kernels cannot be compiled for a device here, '' where they can; takes seconds."""
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
