"""TD-MPC2's world model: the next latent is one network call."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pwmray.kernels import unroll
from pwmray.models.layers import NormedLinear, SimNorm, join, layers_by_kernels, normed_mlp
from pwmray.models.world_model import WorldModel, WorldModelConfig


@dataclass(frozen=True)
class MLPWorldModelConfig(WorldModelConfig):
    """The shared sizes."""

    kind: str = "mlp"


class MLPWorldModel(WorldModel):
    """z' = SimNorm(f(z, e, a))."""

    Config = MLPWorldModelConfig

    def _build_dynamics(self) -> None:
        units = self.config.units
        last = NormedLinear(units[-1], self.latent_dim, SimNorm())
        self.dynamics = normed_mlp(self.input_dim, units, last)

    def next(self, z_BL: Tensor, e_BT: Tensor, a_BA: Tensor) -> Tensor:
        return self.dynamics(join(self.dynamics, z_BL, e_BT, a_BA))

    def unroll(self, z_BL: Tensor, e_BT: Tensor, a_HBA: Tensor) -> tuple[Tensor, Tensor]:
        kind = type(self)  # a subclass's own steps are to be called
        is_ours = (kind.next, kind.next_and_given) == (
            MLPWorldModel.next,
            WorldModel.next_and_given,
        )
        layers = layers_by_kernels(self.dynamics) if is_ours and z_BL.is_cuda else None
        if layers is None or not (torch.is_grad_enabled() and unroll.can_unroll(layers)):
            return super().unroll(z_BL, e_BT, a_HBA)
        return unroll.unroll(z_BL, e_BT, a_HBA, layers)
