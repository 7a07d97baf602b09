"""TD-MPC2's world model: the next latent is one network call."""

from dataclasses import dataclass

from torch import Tensor

from pwmray.models.layers import NormedLinear, SimNorm, join, normed_mlp
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
