"""Networks compiled: several small operations as one, on CPUs and GPUs.

The pieces that are compiled are a `Network` and the ensemble of critics: they hold all products,
norms and activations, and what is around them, random draws and loops, stays Python.
"""

import contextlib
import logging
import shutil

import torch
from torch import nn

from pwmray.models import CriticEnsemble
from pwmray.models.layers import Network

# A piece is compiled for each shape it meets, with gradients of inputs or weights and without.
_MAX_PROGRAMS = 64

log = logging.getLogger(__name__)


def compile_networks(module: nn.Module) -> None:
    """Compile every network of `module` when it is first called, tens of seconds for them all.

    Without a compiler they stay as they are, and the log says so.
    """
    reason = reason_against(next(module.parameters()).device)
    if reason:
        log.warning("compile=off: %s", reason)
        return
    for part in module.modules():
        if isinstance(part, Network | CriticEnsemble):
            part.forward = torch.compile(
                part.forward,
                dynamic=False,
                fullgraph=True,
                isolate_recompiles=True,
                recompile_limit=_MAX_PROGRAMS,
            )


def reason_against(device: torch.device) -> str:
    """Return why networks on the device cannot be compiled here, or nothing."""
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            return "no C++ compiler (g++ or clang++) on this machine"
        return ""
    if shutil.which("gcc") is None and shutil.which("clang") is None:
        return "no C compiler on this machine, which Triton needs"
    return ""


def uncompiled() -> contextlib.AbstractContextManager:
    """Return a context in which compiled networks run as they were written.

    For rare calls with shapes of their own, such as an evaluation's.
    """
    return torch.compiler.set_stance("force_eager")
