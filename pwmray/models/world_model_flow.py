"""A flow-matching world model: the next latent is the end of an ODE that starts at this one.

The straight-line velocity between two latents keeps every simplex group's sum, so the learned
velocity is projected onto the simplex's tangent (each group's mean is removed) and the latent is
put back onto the simplex after the step. Source: Lipman et al., arXiv 2210.02747, for the loss.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pwmray.models import ode
from pwmray.models.layers import NormedLinear, SimNorm, groups, normed_mlp
from pwmray.models.world_model import WorldModel, WorldModelConfig

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

    def _build_dynamics(self) -> None:
        units = self.config.units
        if not self.fidelity.tangent_velocity:
            last = NormedLinear(units[-1], self.latent_dim, SimNorm())
            self.published_velocity = normed_mlp(self.input_dim + 1, units, last)
            return
        self.velocity_head = nn.Linear(units[-1], self.latent_dim)
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
        v_BL = self.velocity_head(self.velocity_trunk(inputs))
        v_groups = groups(v_BL)
        return (v_groups - v_groups.mean(-1, keepdim=True)).flatten(-2)

    def next(self, z_BL: Tensor, e_BT: Tensor, a_BA: Tensor) -> Tensor:
        def velocity(x_BL: Tensor, tau: float) -> Tensor:
            tau_B1 = x_BL.new_full((*x_BL.shape[:-1], 1), tau)
            return self.velocity(x_BL, e_BT, a_BA, tau_B1)

        config = self.config
        end_BL = ode.integrate(velocity, z_BL, config.integrator, config.num_substeps)
        return _onto_simplex(end_BL) if self.fidelity.tangent_velocity else end_BL

    def matching_loss(
        self, z_BL: Tensor, e_BT: Tensor, a_BA: Tensor, target_BL: Tensor, tau_B1: Tensor
    ) -> Tensor:
        """Return mean (v(z_tau) - (target - sg z))^2 [B] at z_tau = (1 - tau) z + tau target."""
        z_tau = (1 - tau_B1) * z_BL + tau_B1 * target_BL
        v_BL = self.velocity(z_tau, e_BT, a_BA, tau_B1)
        # The start is a constant of the target; else the latents shrink to make it small.
        start_BL = z_BL.detach() if self.fidelity.constant_flow_start else z_BL
        return (v_BL - (target_BL - start_BL)).square().mean(-1)

    @property
    def num_calls(self) -> int:
        return ode.num_calls(self.config.integrator, self.config.num_substeps)


def _onto_simplex(z_BL: Tensor) -> Tensor:
    z_groups = groups(z_BL).clamp(min=_EPSILON)
    return (z_groups / z_groups.sum(-1, keepdim=True)).flatten(-2)
