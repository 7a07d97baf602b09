"""An ensemble of value functions as one batched computation.

Shapes: C critics, N rows, L latent. Each critic is (Linear, Mish, LayerNorm) per hidden width and
a linear output (PWM); the ensemble's weights are stacked along the first dimension.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pwmray.checks import check_least, check_widths
from pwmray.kernels import ensemble
from pwmray.precision import is_rounding, product


@dataclass(frozen=True)
class CriticConfig:
    """Widths of the hidden layers and the size of the ensemble; the defaults are PWM's."""

    units: tuple[int, ...] = (400, 200)
    num_critics: int = 3

    def check(self) -> None:
        """Raise ValueError for sizes that no ensemble can have."""
        check_widths("critic", self, "units")
        check_least("critic", self, 1, "num_critics")


class CriticEnsemble(nn.Module):
    """Value functions [C] of a latent."""

    Config = CriticConfig
    uses_kernels = False  # pwmray.algorithm.compiling turns it on

    def __init__(self, config: CriticConfig, latent_dim: int, generator: torch.Generator):
        super().__init__()
        self.config = config
        dims = [latent_dim, *config.units, 1]
        shapes = list(itertools.pairwise(dims))
        self.weights = nn.ParameterList(_orthogonal(config, *s, generator) for s in shapes)
        self.biases = nn.ParameterList(_rows(config, b, 0.0) for _, b in shapes)
        self.norm_weights = nn.ParameterList(_rows(config, b, 1.0) for _, b in shapes[:-1])
        self.norm_biases = nn.ParameterList(_rows(config, b, 0.0) for _, b in shapes[:-1])

    def forward(self, z_NL: Tensor) -> Tensor:
        """Return values [C, N] in symlog-reward units."""
        is_trained = torch.is_grad_enabled() and self.weights[0].requires_grad
        if self._can_use_kernels and not is_trained:
            return ensemble.values(z_NL, self._parameters_by_kind())
        x = _first(z_NL, self.weights[0], self.biases[0])
        # Not a slice, which copies what torch.func puts in the parameters' place.
        weights, biases = list(self.weights)[1:], list(self.biases)[1:]
        following = zip(weights, biases, strict=True)
        norms = zip(self.norm_weights, self.norm_biases, strict=True)
        for (scale, shift), (weight, bias) in zip(norms, following, strict=True):
            x = F.layer_norm(F.mish(x), x.shape[-1:])
            # One critic after the other again: the products of the backward pass want it.
            x = torch.addcmul(shift, x, scale).contiguous()
            x = product(torch.baddbmm, bias, x, weight).to(bias.dtype)
        return x.squeeze(-1)

    def copy_weights(self) -> dict[Tensor, Tensor]:
        """Return those weights of which products take a copy, in their dtype, with the copy."""
        if self._can_use_kernels:
            return ensemble.copy_weights(self._parameters_by_kind())
        return {}

    def differentiate_error(
        self, z_NL: Tensor, y_N: Tensor, copies: Mapping[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Return each critic's mean squared error to y, [C]; `grad` becomes that of their mean.

        `copies` are those of `copy_weights`, for the weights as they are; by default made here.
        """
        if self._can_use_kernels:
            parameters = self._parameters_by_kind()
            copies = ensemble.copy_weights(parameters) if copies is None else copies
            error_C, gradients = ensemble.fit(z_NL, y_N, parameters, copies)
            for of_a_kind, found in zip(parameters, gradients, strict=True):
                for parameter, gradient in zip(of_a_kind, found, strict=True):
                    parameter.grad = gradient
            return error_C
        self.zero_grad(set_to_none=True)
        error_C = (self(z_NL) - y_N).square().mean(1)
        with torch.autocast(z_NL.device.type, enabled=False):
            error_C.mean().backward()
        return error_C.detach()

    def minimum(self, z_BL: Tensor) -> Tensor:
        """Return the smallest of the critics' values, with a trailing 1: [..., 1]."""
        values = self(z_BL.flatten(0, -2)).min(dim=0).values
        return values.unflatten(0, z_BL.shape[:-1]).unsqueeze(-1)

    @property
    def _can_use_kernels(self) -> bool:
        return self.uses_kernels and not is_rounding()  # the kernels' own products do not round

    def _parameters_by_kind(self) -> ensemble.Parameters:
        kinds = (self.weights, self.biases, self.norm_weights, self.norm_biases)
        return ensemble.Parameters(*map(list, kinds))


def _first(z_NL: Tensor, weight_CLU: Tensor, bias_C1U: Tensor) -> Tensor:
    """Return W z + b of all critics, [C, N, U], as one product: they share z."""
    num_critics, latent_dim, num_units = weight_CLU.shape
    weight = weight_CLU.transpose(0, 1).reshape(latent_dim, num_critics * num_units)
    x = product(torch.addmm, bias_C1U.flatten(), z_NL, weight).to(bias_C1U.dtype)
    return x.unflatten(-1, (num_critics, num_units)).transpose(0, 1)


def _orthogonal(
    config: CriticConfig, in_dim: int, out_dim: int, generator: torch.Generator
) -> nn.Parameter:
    weight = torch.empty(config.num_critics, out_dim, in_dim)
    for member in weight:
        nn.init.orthogonal_(member, gain=2**0.5, generator=generator)
    return nn.Parameter(weight.transpose(1, 2).contiguous())


def _rows(config: CriticConfig, out_dim: int, value: float) -> nn.Parameter:
    return nn.Parameter(torch.full((config.num_critics, 1, out_dim), value))
