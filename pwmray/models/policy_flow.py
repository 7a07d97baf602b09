"""A flow policy: the noise is carried to the action by an ODE in action space."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pwmray.kernels import network
from pwmray.kernels.flow import Plan
from pwmray.models import ode
from pwmray.models.layers import layers_by_kernels, mish_mlp
from pwmray.models.policy import Policy, PolicyConfig
from pwmray.tasks import MAX_ACTION_DIM

_PUBLISHED_MIN_LOG_STD = -10.0


@dataclass(frozen=True)
class FlowPolicyConfig(PolicyConfig):
    """The shared widths and the integrator."""

    kind: str = "flow"
    integrator: str = "heun"
    num_substeps: int = 2

    def check(self) -> None:
        """Raise ValueError for sizes or an integrator that no policy can have."""
        super().check()
        ode.check_integrator(self.integrator, self.num_substeps, "policy")


class FlowPolicy(Policy):
    """dx/dtau = v(z, x, tau) from x = std * noise; a = tanh(x(tau = 1)).

    The x of an action that the task lacks stays 0: else its noise would move the others.
    """

    Config = FlowPolicyConfig
    config: FlowPolicyConfig

    def _build(self, latent_dim: int) -> None:
        in_dim = latent_dim + MAX_ACTION_DIM + 1
        self.velocity = mish_mlp(in_dim, self.config.units, MAX_ACTION_DIM)
        self._plan = ode.plan(self.config.integrator, self.config.num_substeps)

    def pre_squash(self, z_BL: Tensor, scaled_noise_BA: Tensor, mask_A: Tensor) -> Tensor:
        network_at = self._velocity_along(z_BL)

        def velocity(x_BA: Tensor, tau: float) -> Tensor:
            return network_at(x_BA, tau) * mask_A

        config = self.config
        return ode.integrate(velocity, scaled_noise_BA, config.integrator, config.num_substeps)

    @property
    def num_calls(self) -> int:
        return ode.num_calls(self.config.integrator, self.config.num_substeps)

    @property
    def by_kernels(self) -> tuple[list[network.Layer], Plan | None] | None:
        layers = layers_by_kernels(self.velocity) if type(self) is FlowPolicy else None
        return None if layers is None or self._plan is None else (layers, self._plan)

    @property
    def min_log_std(self) -> float:
        return super().min_log_std if self.fidelity.exploration_floor else _PUBLISHED_MIN_LOG_STD

    def _velocity_along(self, z_BL: Tensor) -> Callable[[Tensor, float], Tensor]:
        """Return what the network makes of z, and of an x [B, A] and a tau."""
        layers = layers_by_kernels(self.velocity) if network.can_run(z_BL) else None
        if layers is not None:
            return network.conditioned(layers, z_BL, is_first=True)

        def velocity(x_BA: Tensor, tau: float) -> Tensor:
            tau_B1 = x_BA.new_full((*x_BA.shape[:-1], 1), tau)
            return self.velocity(torch.cat([z_BL, x_BA, tau_B1], dim=-1))

        return velocity
