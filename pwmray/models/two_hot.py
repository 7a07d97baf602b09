"""Rewards as classification: two-hot targets on a symlog grid, read out as an expectation.

Shapes: K bins; rewards carry a trailing 1. Source: TD-MPC2 (arXiv 2310.16828, appendix) for the
loss, PWM (arXiv 2407.02466) for the read-out, which stays in symlog units.
"""

import torch
from torch import Tensor


def symlog(x: Tensor) -> Tensor:
    """Compress magnitudes: sign(x) log(1 + |x|)."""
    return torch.sign(x) * torch.log1p(x.abs())


def two_hot(r: Tensor, num_bins: int, bin_range: float) -> Tensor:
    """Spread symlog(r) [..., 1] over its two neighbouring bins; return weights [..., K]."""
    width = 2 * bin_range / (num_bins - 1)
    position = (symlog(r).clamp(-bin_range, bin_range) + bin_range) / width
    position = position.clamp(max=num_bins - 1)  # the last bin: of some numbers of bins rounded up
    lower = position.floor().clamp(max=num_bins - 2)
    upper_weight = position - lower
    weights = torch.zeros(*r.shape[:-1], num_bins, dtype=r.dtype, device=r.device)
    weights.scatter_(-1, lower.long(), 1 - upper_weight)
    return weights.scatter_(-1, lower.long() + 1, upper_weight)


def cross_entropy(logits: Tensor, r: Tensor, bin_range: float) -> Tensor:
    """Return the cross-entropy [...] of `logits` [..., K] against the two-hot code of r."""
    target = two_hot(r, logits.shape[-1], bin_range)
    return -(target * torch.log_softmax(logits, dim=-1)).sum(-1)


def read_out(logits: Tensor, bins: Tensor) -> Tensor:
    """Return the expected symlog reward [..., 1]: sum_k softmax(logits)_k v_k."""
    return (torch.softmax(logits, dim=-1) * bins).sum(-1, keepdim=True)
