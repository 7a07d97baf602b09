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
            x = products.linear(input, self.weight)[..., : self.out_features]
            return x if self.bias is None else x + self.bias
        x = product(F.linear, input, as_factor(self.weight), self.bias)
        return x.to(self.weight.dtype)


class NormedLinear(Linear):
    """Apply act(LayerNorm(W x + b)); Mish unless `activation` is given (TD-MPC2)."""

    def __init__(self, in_dim: int, out_dim: int, activation: nn.Module | None = None):
        super().__init__(in_dim, out_dim)
        self.ln = nn.LayerNorm(out_dim)
        self.activation = activation or nn.Mish()

    def forward(self, input: Tensor) -> Tensor:
        kind = _norm_kind(self.ln, self.activation) if self.uses_kernels else None
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
        found = [_as_operand(layer) for layer in self if type(layer) is not nn.Identity]
        known = [layer for layer in found if layer is not None]
        return known if len(known) == len(found) else None


class MishNetwork(nn.Sequential):
    """Apply (Linear, Mish, LayerNorm) several times and a last Linear (PWM's actor)."""

    uses_kernels = False  # pwmray.algorithm.compiling turns it on

    def forward(self, input: Tensor) -> Tensor:
        layers = self.layers() if self.uses_kernels else None
        if layers is None:
            return super().forward(input)
        if network.can_run(input):
            return network.run(input, layers)
        for kind, weight, affine in layers[:-1]:
            assert kind is not None
            input = norms.norm(kind, products.linear(input, weight), *affine)
        return self[-1](input)

    def layers(self) -> list[network.Layer] | None:
        """Return the layers as one operation takes them, or None if it does not know one."""
        *hidden, last = self
        if len(hidden) % 3:
            return None
        layers = []
        for linear, mish, norm in zip(hidden[::3], hidden[1::3], hidden[2::3], strict=True):
            given, is_mish = _as_operand(linear), type(mish) is nn.Mish and _is_plain(mish)
            if given is None or given.kind or not (is_mish and _is_norm_of_kernels(norm)):
                return None
            assert isinstance(norm, nn.LayerNorm)
            affine = (*given.affine, norm.weight, norm.bias)
            layers.append(network.Layer(norms.MISH_NORM, given.weight, affine))
        given = _as_operand(last)
        return None if given is None or given.kind else [*layers, given]


def use_kernels(module: nn.Module, is_on: bool) -> None:
    """Have every part of `module` that can use kernels do so, or none."""
    for part in module.modules():
        if hasattr(type(part), "uses_kernels"):
            part.uses_kernels = is_on  # type: ignore[assignment]


def lay_out(module: nn.Module) -> None:
    """Have the weights of `module`, on a GPU, laid out now, within `autocast`.

    What comes first goes backward last: until then their gradients are computed beside others.
    """
    for layer in module.modules():
        if isinstance(layer, Linear) and layer.uses_kernels:
            products.operand(layer.weight)


def layers_by_kernels(module: nn.Module) -> list[network.Layer] | None:
    """Return the layers of a network that kernels are to compute, in place of calling it.

    None where they are not to, or do not know it: it is to be called, then.
    """
    if type(module) not in (NormedNetwork, MishNetwork) or not _is_plain(module):
        return None
    return module.layers() if module.uses_kernels else None  # type: ignore[operator]


def join(network: nn.Sequential, z: Tensor, e: Tensor, a: Tensor) -> Tensor:
    """Return z, e and a [..., U] side by side, as the network takes them."""
    if z.is_cuda and layers_by_kernels(network) is not None and isinstance(network[0], Linear):
        return products.join(z, e, a)
    return torch.cat([z, e, a], dim=-1)


def is_plain_linear(layer: nn.Module) -> bool:
    """Tell whether a layer computes W x + b and nothing else."""
    return type(layer) in (Linear, nn.Linear) and _is_plain(layer) and layer.bias is not None


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


def _as_operand(layer: nn.Module) -> network.Layer | None:
    """Return a layer as the kernels take it; None for one that computes something else."""
    if type(layer) is NormedLinear and _is_plain(layer):
        norm = layer.ln  # once: torch takes a microsecond to find it
        kind = _norm_kind(norm, layer.activation)
        if kind is None:
            return None
        return network.Layer(kind, layer.weight, (layer.bias, norm.weight, norm.bias))
    if is_plain_linear(layer):
        return network.Layer(None, layer.weight, (layer.bias,))  # type: ignore[arg-type]
    return None


def _norm_kind(norm: nn.Module, activation: nn.Module) -> str | None:
    """Return the kernels' name of norm and activation; None for what they do not compute."""
    is_known = _is_norm_of_kernels(norm) and _is_plain(activation)
    return _KERNELS.get(type(activation)) if is_known else None


def _is_norm_of_kernels(norm: nn.Module) -> bool:
    if type(norm) is not nn.LayerNorm or norm.eps != norms.EPSILON or norm.bias is None:
        return False
    return len(norm.normalized_shape) == 1 and _is_plain(norm)


def _is_plain(module: nn.Module) -> bool:
    """Tell whether calling a module is its `forward` alone: hooks of torch would be passed by."""
    forward = module._forward_pre_hooks or module._forward_hooks
    return not (forward or module._backward_pre_hooks or module._backward_hooks)
