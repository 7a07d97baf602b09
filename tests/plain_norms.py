"""The norms as torch computes them, for the tests of the kernels for CPUs and for GPUs."""

import torch
import torch.nn.functional as F
from torch.testing import assert_close

from pwmray.kernels import norms
from pwmray.models.layers import SimNorm

KINDS = {
    norms.MISH_NORM: lambda x, scale, shift: layer_norm(F.mish(x)) * scale + shift,
    norms.NORM_MISH: lambda x, scale, shift: F.mish(layer_norm(x) * scale + shift),
    norms.NORM_SIMPLEX: lambda x, scale, shift: SimNorm()(layer_norm(x) * scale + shift),
}
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def layer_norm(x):
    return F.layer_norm(x, x.shape[-1:])


def draw(shape, dtype=torch.float32):
    """x spread as far as overflow could matter, and the parameters of each group."""
    draws = torch.Generator().manual_seed(0)
    x = (8 * torch.randn(shape, generator=draws)).to(dtype)
    rows = (shape[0], 1, shape[2])
    return [x, *(torch.randn(rows, generator=draws) for _ in range(3))]


def gradients(compute, tensors):
    tensors = [t.detach().clone().requires_grad_(True) for t in tensors]
    y = compute(*tensors)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).double().to(y.device)
    return y, torch.autograd.grad((y.double() * weight).sum(), tensors)


def check_norm(kind, given, dtype):
    """Compare a norm of x and its parameters, and its gradients, with torch's in float64."""
    y, found = gradients(lambda x, *affine: norms.norm(kind, x, *affine), given)
    exact, expected = gradients(
        lambda x, bias, scale, shift: KINDS[kind](x + bias, scale, shift),
        [tensor.double() for tensor in given],
    )
    close = {"rtol": 0, "check_dtype": False}
    assert_close(y, exact, atol=ROUNDING[dtype] * exact.abs().max().item(), **close)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, atol=ROUNDING[dtype] * theirs.abs().max().item(), **close)
