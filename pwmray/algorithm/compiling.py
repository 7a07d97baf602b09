"""Run networks by the kernels of `pwmray.kernels`, each of which is several small operations.

They touch memory less often than what torch compiles, and are built in seconds.
"""

import functools
import logging
from collections.abc import Iterable, Sequence
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

    They do not without a compiler. On a GPU those parts do not whose kernels and torch disagree.
    Returns "on", or, as the log says, "off: " or "partly off: " and why.
    """
    optimizers, device = list(optimizers), next(module.parameters()).device
    if reason := reason_against(device):
        log.warning("compile=off: %s", reason)
        return f"off: {reason}"
    use_kernels(module, True)
    for optimizer in optimizers:
        optimizer.uses_kernels = True
    return "on" if device.type == "cpu" else _leave_out(module, optimizers)


def _leave_out(module: nn.Module, optimizers: "Sequence[Adam]") -> str:
    """Take kernels from what they compute something else for; return what `compile_networks` does.

    A part whose kernel does not even run leaves the others theirs.
    """
    reasons, checks = [], agreement.checks(module, optimizers)
    for part, check in checks.items():
        try:
            check()
        except Exception as error:
            reasons.append(shorten(error))  # not the error: it would keep what it was raised in
            if isinstance(part, nn.Module):
                use_kernels(part, False)
            else:
                part.uses_kernels = False
    if not reasons:
        return "on"
    how = f"{'' if len(reasons) == len(checks) else 'partly '}off: {'; '.join(reasons)}"
    log.warning("compile=%s", how)
    return how


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
