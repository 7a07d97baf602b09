"""What every policy shares: a learned noise scale with a floor, and masked, squashed actions.

Shapes: B batch, L latent, A padded action. A policy maps a latent and standard normal noise to an
action in (-1, 1); noise 0 gives the deterministic action.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pwmray.checks import check_defines, check_widths
from pwmray.fidelity import CORRECTED, FIDELITIES, Fidelity
from pwmray.kernels import action
from pwmray.kernels.flow import Plan
from pwmray.kernels.network import Layer
from pwmray.models.layers import initialise_truncated
from pwmray.seeding import global_draws_from
from pwmray.tasks import MAX_ACTION_DIM

INITIAL_LOG_STD = -1.0
MIN_LOG_STD = -1.427  # floor of the noise that enters, std 0.24; a flow may carry it to less


@dataclass(frozen=True)
class PolicyConfig:
    """Widths of the hidden layers; the default is PWM's."""

    # A new kind's own settings by size, such as {"5": {"units": (500, 500)}}: those by which it has
    # as many parameters as its like. At size 48, which is none of these, its fields' defaults hold.
    by_size: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    kind: str = ""  # the name in the registry; each subclass sets its own
    units: tuple[int, ...] = (400, 200, 100)

    def check(self) -> None:
        """Raise ValueError for sizes that no policy can have."""
        check_widths("policy", self, "units")


class Policy(nn.Module):
    """a = tanh(u(z, std * noise)), zero in the action dimensions that the task lacks."""

    Config = PolicyConfig

    def __init__(
        self,
        config: PolicyConfig,
        latent_dim: int,
        generator: torch.Generator,
        fidelity: Fidelity = FIDELITIES[CORRECTED],
    ):
        super().__init__()
        check_defines(type(self), Policy, "_build", "pre_squash")
        self.config = config
        self.fidelity = fidelity
        self.log_std = nn.Parameter(torch.full((MAX_ACTION_DIM,), INITIAL_LOG_STD))
        with global_draws_from(generator, "policy"):  # layers of torch's own
            self._build(latent_dim)
        initialise_truncated(self, generator)

    # What a subclass defines.

    def _build(self, latent_dim: int) -> None:
        raise NotImplementedError

    def pre_squash(self, z_BL: Tensor, scaled_noise_BA: Tensor, mask_A: Tensor) -> Tensor:
        """Return the action [B, A] before tanh; noise is 0, and is to stay, where `mask_A` is."""
        raise NotImplementedError

    @property
    def by_kernels(self) -> tuple[list[Layer], Plan | None] | None:
        """What `action.act` takes of a policy that it knows, where that uses kernels.

        Of no subclass of one, which may compute something else.
        """
        return None

    @property
    def num_calls(self) -> int:
        """Calls of its networks for one action: how often each of their weights is used."""
        return 1

    @property
    def min_log_std(self) -> float:
        """Return the floor of the noise."""
        return MIN_LOG_STD

    # What all have.

    def forward(self, z_BL: Tensor, noise_BA: Tensor, mask_A: Tensor) -> Tensor:
        """Return actions [B, A] in (-1, 1), 0 where `mask_A` is 0."""
        given = self.by_kernels if z_BL.is_cuda and not torch.is_grad_enabled() else None
        if given is not None:
            scale = self.log_std, self.min_log_std
            return action.act(z_BL, noise_BA, scale, mask_A, *given)
        return self.sample(z_BL, noise_BA, mask_A)[0]

    def sample(self, z_BL: Tensor, noise_BA: Tensor, mask_A: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions and what they were before tanh, both [B, A] and 0 where `mask_A` is."""
        # No clamp: at its bound, where keep_exploring puts the noise, torch's has a gradient of 1
        # up to 2.13 and of 0 from 2.14 on.
        is_low_A = self.log_std < self.min_log_std
        std_A = torch.where(is_low_A, self.min_log_std, self.log_std).exp() * mask_A
        u_BA = self.pre_squash(z_BL, std_A * noise_BA, mask_A) * mask_A
        return torch.tanh(u_BA), u_BA

    @torch.no_grad()
    def keep_exploring(self) -> None:
        """Put the noise back onto its floor after a step: no gradient reaches it from below."""
        self.log_std.clamp_(min=self.min_log_std)

    def act(self, z_BL: Tensor, mask_A: Tensor) -> Tensor:
        """Return the deterministic actions [B, A]."""
        noise_BA = z_BL.new_zeros(*z_BL.shape[:-1], MAX_ACTION_DIM)
        return self(z_BL, noise_BA, mask_A)
