"""The layers that TD-MPC2 and PWM build from, and their initialisation."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pwmray.kernels import network, norms, products
from pwmray.precision import as_factor, product

SIMPLEX_SIZE = 8  # a latent is a row of groups of this many entries, each on the simplex


class Linear(nn.Linear):
    """Apply W x + b; the product may be in bfloat16 (pwmray.precision), the result is not."""

    uses_kernels = False  # pwmray.algorithm.compiling turns it on

    def forward(self, input: Tensor) -> Tensor:
        if self.uses_kernels and input.is_cuda:
            return products.linear(input, self.weight)[..., : self.out_features] + self.bias
        x = product(F.linear, input, as_factor(self.weight), self.bias)
        return x.to(self.weight.dtype)


class NormedLinear(Linear):
    """Apply act(LayerNorm(W x + b)); Mish unless `activation` is given (TD-MPC2)."""

    def __init__(self, in_dim: int, out_dim: int, activation: nn.Module | None = None):
        super().__init__(in_dim, out_dim)
        self.ln = nn.LayerNorm(out_dim)
        self.activation = activation or nn.Mish()

    def forward(self, input: Tensor) -> Tensor:
        kind = _KERNELS.get(type(self.activation)) if self.uses_kernels else None
        if kind is None:
            return self.activation(self.ln(super().forward(input)))
        x = products.linear(input, self.weight)
        return norms.norm(kind, x, self.bias, self.ln.weight, self.ln.bias)


class SimNorm(nn.Module):
    """Apply a softmax within each group of 8 features."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(groups(x), dim=-1).flatten(-2)


_KERNELS = {nn.Mish: norms.NORM_MISH, SimNorm: norms.NORM_SIMPLEX}  # of a NormedLinear


class NormedNetwork(nn.Sequential):
    """Apply NormedLinear layers and a last one of any kind (TD-MPC2)."""

    uses_kernels = False  # pwmray.algorithm.compiling turns it on

    def forward(self, input: Tensor) -> Tensor:
        layers = self.layers() if self.uses_kernels and network.can_run(input) else None
        return super().forward(input) if layers is None else network.run(input, layers)

    def layers(self) -> list[network.Layer] | None:
        """Return the layers as one operation takes them, or None if it does not know one."""
        layers = []
        for layer in self:
            if isinstance(layer, NormedLinear):
                kind = _KERNELS.get(type(layer.activation))
                if kind is None:
                    return None
                affine = layer.bias, layer.ln.weight, layer.ln.bias
                layers.append(network.Layer(kind, layer.weight, affine))
            elif isinstance(layer, nn.Linear):
                layers.append(network.Layer(None, layer.weight, (layer.bias,)))
            elif not isinstance(layer, nn.Identity):
                return None
        return layers


class MishNetwork(nn.Sequential):
    """Apply (Linear, Mish, LayerNorm) several times and a last Linear (PWM's actor)."""

    uses_kernels = False  # pwmray.algorithm.compiling turns it on

    def forward(self, input: Tensor) -> Tensor:
        if not self.uses_kernels:
            return super().forward(input)
        layers = self.layers()
        if network.can_run(input):
            return network.run(input, layers)
        for kind, weight, affine in layers[:-1]:
            assert kind is not None
            input = norms.norm(kind, products.linear(input, weight), *affine)
        return self[-1](input)

    def layers(self) -> list[network.Layer]:
        """Return the layers as one operation takes them."""
        *hidden, last = self
        layers = []
        for linear, norm in zip(hidden[::3], hidden[2::3], strict=True):
            assert isinstance(linear, Linear)
            assert isinstance(norm, nn.LayerNorm)
            affine = linear.bias, norm.weight, norm.bias
            layers.append(network.Layer(norms.MISH_NORM, linear.weight, affine))
        assert isinstance(last, Linear)
        return [*layers, network.Layer(None, last.weight, (last.bias,))]


def groups(x: Tensor) -> Tensor:
    """View the last dimension [L] as simplex groups [L / 8, 8]."""
    return x.unflatten(-1, (-1, SIMPLEX_SIZE))


def normed_mlp(in_dim: int, hidden: Sequence[int], last: nn.Module) -> NormedNetwork:
    """Stack NormedLinear layers of the `hidden` widths and end with `last`."""
    dims = [in_dim, *hidden]
    layers = [NormedLinear(a, b) for a, b in itertools.pairwise(dims)]
    return NormedNetwork(*layers, last)


def mish_mlp(in_dim: int, hidden: Sequence[int], out_dim: int) -> MishNetwork:
    """Return a MishNetwork of the `hidden` widths."""
    dims = [in_dim, *hidden]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(dims):
        layers += [Linear(a, b), nn.Mish(), nn.LayerNorm(b)]
    return MishNetwork(*layers, Linear(dims[-1], out_dim))


def initialise_truncated(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the linear weights from a normal of std 0.02 cut at +-2, biases 0 (TD-MPC2)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
            nn.init.zeros_(layer.bias)
