"""Numbers that are not finite, which end a trial."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def check_finite(values: Mapping[str, Any], epoch: int) -> None:
    """Raise FloatingPointError for the first number that is not finite."""
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise FloatingPointError(f"diverged: {name} is {value} at epoch {epoch}")


def check_state(learner: nn.Module, epoch: int) -> None:
    """Raise FloatingPointError unless every parameter and buffer is finite.

    The last step may have made one infinite: its loss was computed before it and is fine.
    """
    tensors = {name: t for name, t in learner.state_dict().items() if t.numel()}
    ends = [torch.stack(torch.aminmax(tensor)) for tensor in tensors.values()]
    # The device is waited for once, here.
    is_finite = torch.stack([pair.isfinite().all() for pair in ends]).tolist()
    for name, finite in zip(tensors, is_finite, strict=True):
        if not finite:
            raise FloatingPointError(f"diverged: {name} is not finite at epoch {epoch}")
