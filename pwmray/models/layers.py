"""The layers that TD-MPC2 and PWM build from, and their initialisation."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIMPLEX_SIZE = 8  # a latent is a row of groups of this many entries, each on the simplex


class NormedLinear(nn.Linear):
    """Apply act(LayerNorm(W x + b)); Mish unless `activation` is given (TD-MPC2)."""

    def __init__(self, in_dim: int, out_dim: int, activation: nn.Module | None = None):
        super().__init__(in_dim, out_dim)
        self.ln = nn.LayerNorm(out_dim)
        self.activation = activation or nn.Mish()

    def forward(self, input: Tensor) -> Tensor:
        return self.activation(self.ln(super().forward(input)))


class SimNorm(nn.Module):
    """Apply a softmax within each group of 8 features."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(groups(x), dim=-1).flatten(-2)


def groups(x: Tensor) -> Tensor:
    """View the last dimension [L] as simplex groups [L / 8, 8]."""
    return x.unflatten(-1, (-1, SIMPLEX_SIZE))


def normed_mlp(in_dim: int, hidden: Sequence[int], last: nn.Module) -> nn.Sequential:
    """Stack NormedLinear layers of the `hidden` widths and end with `last`."""
    dims = [in_dim, *hidden]
    layers = [NormedLinear(a, b) for a, b in itertools.pairwise(dims)]
    return nn.Sequential(*layers, last)


def mish_mlp(in_dim: int, hidden: Sequence[int], out_dim: int) -> nn.Sequential:
    """Stack (Linear, Mish, LayerNorm) of the `hidden` widths and a linear output (PWM's actor)."""
    dims = [in_dim, *hidden]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(dims):
        layers += [nn.Linear(a, b), nn.Mish(), nn.LayerNorm(b)]
    return nn.Sequential(*layers, nn.Linear(dims[-1], out_dim))


def initialise_truncated(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the linear weights from a normal of std 0.02 cut at +-2, biases 0 (TD-MPC2)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
            nn.init.zeros_(layer.bias)
