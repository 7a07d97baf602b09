"""A flow-matching world model: the next latent is the end of an ODE that starts at this one.

The straight-line velocity between two latents keeps every simplex group's sum, so the learned
velocity is projected onto the simplex's tangent (each group's mean is removed) and the latent is
put back onto the simplex after the step. Source: Lipman et al., arXiv 2210.02747, for the loss.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pwmray.kernels import flow, network, norms, products
from pwmray.models import ode
from pwmray.models.layers import (
    Linear,
    NormedLinear,
    SimNorm,
    groups,
    is_plain_linear,
    layers_by_kernels,
    normed_mlp,
)
from pwmray.models.world_model import WorldModel, WorldModelConfig
from pwmray.precision import make_once

_EPSILON = 1e-6


@dataclass(frozen=True)
class FlowWorldModelConfig(WorldModelConfig):
    """The shared sizes and the integrator; 1788 wide for parity with the MLP's 1792."""

    kind: str = "flow"
    units: tuple[int, ...] = (1788, 1788)
    integrator: str = "heun"
    num_substeps: int = 4

    def check(self) -> None:
        """Raise ValueError for sizes or an integrator that no model can have."""
        super().check()
        ode.check_integrator(self.integrator, self.num_substeps, "world_model")


class FlowWorldModel(WorldModel):
    """dz/dtau = v(z, e, a, tau); z' = z(tau = 1)."""

    Config = FlowWorldModelConfig
    config: FlowWorldModelConfig
    _plan: flow.Plan | None = None  # of a subclass that builds its networks itself

    def _build_dynamics(self) -> None:
        units = self.config.units
        self._plan = ode.plan(self.config.integrator, self.config.num_substeps)
        if not self.fidelity.tangent_velocity:
            last = NormedLinear(units[-1], self.latent_dim, SimNorm())
            self.published_velocity = normed_mlp(self.input_dim + 1, units, last)
            return
        self.velocity_head = Linear(units[-1], self.latent_dim)
        self.velocity_trunk = normed_mlp(self.input_dim + 1, units, nn.Identity())

    def _initialise(self, generator: torch.Generator) -> None:
        super()._initialise(generator)
        if self.fidelity.tangent_velocity:
            nn.init.zeros_(self.velocity_head.weight)

    def velocity(self, z_BL: Tensor, e_BT: Tensor, a_BA: Tensor, tau_B1: Tensor) -> Tensor:
        """Return dz/dtau [B, L], tangent to the simplex: every group of 8 sums to 0.

        As published every group sums to 1 and no entry is negative.
        """
        inputs = torch.cat([z_BL, e_BT, a_BA, tau_B1], dim=-1)
        if not self.fidelity.tangent_velocity:
            return self.published_velocity(inputs)
        layers = self._layers_as_one(inputs)
        if layers is not None:
            return network.run(inputs, layers)
        head, x = self.velocity_head, self.velocity_trunk(inputs)
        if x.is_cuda and self._layers() is not None:
            return norms.tangent(products.linear(x, head.weight), head.bias)
        return _without_means(head(x))

    def next(self, z_BL: Tensor, e_BT: Tensor, a_BA: Tensor) -> Tensor:
        return self._put_back(z_BL, self._displacement(z_BL, e_BT, a_BA))

    def next_and_given(
        self, z_BL: Tensor, given_BL: Tensor, e_BT: Tensor, a_BA: Tensor
    ) -> tuple[Tensor, Tensor]:
        moved_BL = self._displacement(z_BL, e_BT, a_BA)
        next_BL = self._put_back(z_BL, moved_BL)
        if not self.fidelity.constant_flow_start:
            return next_BL, next_BL
        return next_BL, self._put_back(given_BL, moved_BL)

    def matching_loss(
        self, z_BL: Tensor, e_BT: Tensor, a_BA: Tensor, target_BL: Tensor, tau_B1: Tensor
    ) -> Tensor:
        """Return mean (v(z_tau) - (target - z))^2 [B] at z_tau = (1 - tau) z + tau target.

        It trains the velocity alone, between latents that it takes as given.
        """
        if self.fidelity.constant_flow_start:  # else the latents shrink to make it small
            z_BL = z_BL.detach()
        z_tau = (1 - tau_B1) * z_BL + tau_B1 * target_BL
        v_BL = self.velocity(z_tau, e_BT, a_BA, tau_B1)
        return (v_BL - (target_BL - z_BL)).square().mean(-1)

    @property
    def num_calls(self) -> int:
        return ode.num_calls(self.config.integrator, self.config.num_substeps)

    def _displacement(self, z_BL: Tensor, e_BT: Tensor, a_BA: Tensor) -> Tensor:
        """Return z(tau = 1) - z [B, L] along the velocity."""
        config = self.config
        # A subclass's own velocity is to be called.
        is_ours = type(self).velocity is FlowWorldModel.velocity
        layers = self._layers() if is_ours and z_BL.is_cuda else None
        if layers is not None and self._plan is not None and flow.can_displace(layers):
            return flow.displace(z_BL, e_BT, a_BA, layers, self._plan)
        velocity_at = self._velocity_along(e_BT, a_BA)

        def velocity(moved_BL: Tensor, tau: float) -> Tensor:
            return velocity_at(z_BL + moved_BL, tau)

        start_BL = torch.zeros_like(z_BL)
        return ode.integrate(velocity, start_BL, config.integrator, config.num_substeps)

    def _velocity_along(self, e_BT: Tensor, a_BA: Tensor) -> Callable[[Tensor, float], Tensor]:
        """Return the velocity of a z [B, L] at a tau."""
        # A subclass's own velocity is to be called.
        is_ours = type(self).velocity is FlowWorldModel.velocity
        layers = self._layers_as_one(a_BA) if is_ours else None
        if layers is not None:
            given = torch.cat([e_BT, a_BA], dim=-1)
            return network.conditioned(layers, given, is_first=False)

        def velocity(z_BL: Tensor, tau: float) -> Tensor:
            return self.velocity(z_BL, e_BT, a_BA, z_BL.new_full((*z_BL.shape[:-1], 1), tau))

        return velocity

    def _layers(self) -> list[network.Layer] | None:
        """Return trunk and head as kernels take them; None where they are to be called."""
        if not self.fidelity.tangent_velocity:
            return None
        head, trunk = self.velocity_head, layers_by_kernels(self.velocity_trunk)
        if trunk is None or not is_plain_linear(head):
            return None
        return [*trunk, network.Layer(None, head.weight, (head.bias,))]

    def _layers_as_one(self, x: Tensor) -> list[network.Layer] | None:
        """Return trunk and head as one operation on a CPU; None where they are none here.

        Means are taken of the head's few weights in place of all rows.
        """
        layers = self._layers() if network.can_run(x) else None
        if layers is None:
            return None
        head = self.velocity_head
        return [*layers[:-1], make_once(head.weight, lambda _: _tangent_layer(head))]

    def _put_back(self, z_BL: Tensor, moved_BL: Tensor) -> Tensor:
        if z_BL.is_cuda and self._plan is not None and self._layers() is not None:
            return flow.onto_simplex(z_BL, moved_BL, _EPSILON)
        z_BL = z_BL + moved_BL
        return _onto_simplex(z_BL) if self.fidelity.tangent_velocity else z_BL


def _onto_simplex(z_BL: Tensor) -> Tensor:
    z_groups = groups(z_BL).clamp(min=_EPSILON)
    return (z_groups / z_groups.sum(-1, keepdim=True)).flatten(-2)


def _without_means(x: Tensor) -> Tensor:
    """Return x [..., L] without the mean of each group."""
    x_groups = groups(x)
    return (x_groups - x_groups.mean(-1, keepdim=True)).flatten(-2)


def _tangent_layer(head: Linear) -> network.Layer:
    weight, bias = _without_means(head.weight.t()).t(), _without_means(head.bias)
    return network.Layer(None, weight, (bias,))
