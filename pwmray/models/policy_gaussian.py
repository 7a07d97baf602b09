"""PWM's policy: a squashed Gaussian with a state-independent standard deviation."""

from dataclasses import dataclass

from torch import Tensor

from pwmray.kernels.flow import Plan
from pwmray.kernels.network import Layer
from pwmray.models.layers import layers_by_kernels, mish_mlp
from pwmray.models.policy import Policy, PolicyConfig
from pwmray.tasks import MAX_ACTION_DIM


@dataclass(frozen=True)
class GaussianPolicyConfig(PolicyConfig):
    """The shared widths."""

    kind: str = "gaussian"


class GaussianPolicy(Policy):
    """a = tanh(mu(z) + std * noise)."""

    Config = GaussianPolicyConfig

    def _build(self, latent_dim: int) -> None:
        self.mean = mish_mlp(latent_dim, self.config.units, MAX_ACTION_DIM)

    def pre_squash(self, z_BL: Tensor, scaled_noise_BA: Tensor, mask_A: Tensor) -> Tensor:
        return self.mean(z_BL) + scaled_noise_BA

    @property
    def by_kernels(self) -> tuple[list[Layer], Plan | None] | None:
        layers = layers_by_kernels(self.mean) if type(self) is GaussianPolicy else None
        return None if layers is None else (layers, None)
