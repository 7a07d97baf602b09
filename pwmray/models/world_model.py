"""What every world model shares: task embedding, encoder and reward head.

Shapes: B batch (any leading dimensions), O padded observation, A padded action, L latent,
T task embedding, K reward bins. Inputs are concatenated in the order z, e (task), a everywhere;
checkpoints record that order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pwmray.checks import check_defines, check_least, check_positive, check_widths
from pwmray.fidelity import CORRECTED, FIDELITIES, Fidelity
from pwmray.kernels import losses
from pwmray.models import two_hot
from pwmray.models.layers import (
    SIMPLEX_SIZE,
    Linear,
    NormedLinear,
    SimNorm,
    initialise_truncated,
    join,
    normed_mlp,
)
from pwmray.seeding import global_draws_from
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM, TASKS

INPUT_ORDER = ("z", "task", "action")
_MIN_STD = 1e-3  # an entry that hardly varies in the data is not blown up


@dataclass(frozen=True)
class WorldModelConfig:
    """Sizes of the parts that every world model has; the defaults are TD-MPC2's 48M."""

    # A new kind's own settings by size, such as {"5": {"units": (500, 500)}}: those by which it has
    # as many parameters as its like. At size 48, which is none of these, its fields' defaults hold.
    by_size: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    kind: str = ""  # the name in the registry; each subclass sets its own
    latent_dim: int = 768  # a multiple of 8
    encoder_units: tuple[int, ...] = (1792, 1792, 1792)
    units: tuple[int, ...] = (1792, 1792)  # dynamics (or velocity) and reward
    task_dim: int = 64
    num_bins: int = 101
    bin_range: float = 10.0  # the bins span +- this, in symlog reward
    # Shift and scale each observation entry by the data's mean and sd. The encoder's first layer
    # normalises away the scale of the whole input, so that large entries hide small ones.
    standardize: bool = False
    # Take the angles of joints without limits modulo a turn. Raw ones, as in MT30, spread over
    # tens of turns in data of an arm that spins, and the same posture looks new in each.
    wrap_angles: bool = False

    def check(self) -> None:
        """Raise ValueError for sizes that no model can have."""
        if self.latent_dim < 1 or self.latent_dim % SIMPLEX_SIZE:
            raise ValueError(
                f"world_model.latent_dim is {self.latent_dim}; it must be a multiple of "
                f"{SIMPLEX_SIZE}"
            )
        check_widths("world_model", self, "encoder_units", "units")
        check_least("world_model", self, 0, "task_dim")
        check_least("world_model", self, 2, "num_bins")
        check_positive("world_model", self, "bin_range")


class WorldModel(nn.Module):
    """Encode observations, predict rewards; a subclass adds `next` (and a matching loss)."""

    Config = WorldModelConfig
    uses_kernels = False  # pwmray.algorithm.compiling turns it on
    bins: Tensor  # [K]
    obs_mean: Tensor  # [O]
    obs_std: Tensor  # [O]

    def __init__(
        self,
        config: WorldModelConfig,
        generator: torch.Generator,
        num_tasks: int = len(TASKS),  # a published file may know others than MT30's
        fidelity: Fidelity = FIDELITIES[CORRECTED],
    ):
        super().__init__()
        check_defines(type(self), WorldModel, "_build_dynamics", "next")
        self.config = config
        self.fidelity = fidelity
        self.latent_dim = config.latent_dim
        self.input_dim = config.latent_dim + config.task_dim + MAX_ACTION_DIM
        # nn.Embedding's own draws would be thrown away, and for shapes alone they load a compiler.
        weight = torch.empty(num_tasks, config.task_dim)
        self.task_embedding = nn.Embedding.from_pretrained(weight, freeze=False)
        self.encoder = normed_mlp(
            MAX_OBS_DIM + config.task_dim,
            config.encoder_units,
            NormedLinear(config.encoder_units[-1], config.latent_dim, SimNorm()),
        )
        self.reward_head = normed_mlp(
            self.input_dim, config.units, Linear(config.units[-1], config.num_bins)
        )
        ends = (-config.bin_range, config.bin_range)
        bins = torch.linspace(*ends, config.num_bins, device="cpu")  # else shapes load sympy
        self.register_buffer("bins", bins.to(weight.device), persistent=False)
        self.register_buffer("obs_mean", torch.zeros(MAX_OBS_DIM))
        self.register_buffer("obs_std", torch.ones(MAX_OBS_DIM))
        with global_draws_from(generator, "dynamics"):  # layers of torch's, such as a GRU
            self._build_dynamics()
        self._initialise(generator)

    # What a subclass defines.

    def _build_dynamics(self) -> None:
        raise NotImplementedError

    def next(self, z_BL: Tensor, e_BT: Tensor, a_BA: Tensor) -> Tensor:
        """Return the next latent [B, L]."""
        raise NotImplementedError

    def matching_loss(
        self, z_BL: Tensor, e_BT: Tensor, a_BA: Tensor, target_BL: Tensor, tau_B1: Tensor
    ) -> Tensor | None:
        """Return a loss [B] on the dynamics beside consistency, or None where there is none."""
        return None

    @property
    def num_calls(self) -> int:
        """Calls of its networks in one `next`: how often each of their weights is used."""
        return 1

    def next_and_given(
        self, z_BL: Tensor, given_BL: Tensor, e_BT: Tensor, a_BA: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the next latent, and again with what it takes over unchanged from `given`.

        That is for the consistency loss: where `given` is a constant, its gradient goes through
        what the model computes alone.
        """
        next_BL = self.next(z_BL, e_BT, a_BA)
        return next_BL, next_BL

    def unroll(self, z_BL: Tensor, e_BT: Tensor, a_HBA: Tensor) -> tuple[Tensor, Tensor]:
        """Return z_0 .. z_{H-1} along actions, which are constants, and z_1 .. z_H for the loss.

        The latter take the start of a flow as a constant. A flow starts at the latent itself, so
        the encoder could otherwise make that loss small by making all latents alike.
        """
        given_BL, starts, ends = z_BL.detach(), [], []
        for a_BA in a_HBA:
            starts.append(z_BL)
            z_BL, given_BL = self.next_and_given(z_BL, given_BL, e_BT, a_BA)
            ends.append(given_BL)
        return torch.stack(starts), torch.stack(ends)

    # What all have.

    def embed(self, task_B: Tensor) -> Tensor:
        """Return the embedding [B, T] of task ids, scaled down to a norm of at most 1."""
        e_BT = self.task_embedding(task_B)
        # The scale is a constant, as it is for TD-MPC2, which scales the weights themselves.
        return e_BT / e_BT.detach().norm(dim=-1, keepdim=True).clamp(min=1.0)

    def encode(self, obs_BO: Tensor, e_BT: Tensor) -> Tensor:
        """Return latents [B, L]: groups of 8 entries that are positive and sum to 1."""
        obs_BO = (obs_BO - self.obs_mean) / self.obs_std
        return self.encoder(torch.cat([obs_BO, e_BT], dim=-1))

    def set_observation_scale(self, mean: Tensor, std: Tensor) -> None:
        """Standardize the first entries of an observation by `mean` and `std` [their number]."""
        self.obs_mean[: len(mean)] = mean
        self.obs_std[: len(std)] = std.clamp(min=_MIN_STD)

    def reward_logits(self, z_BL: Tensor, e_BT: Tensor, a_BA: Tensor) -> Tensor:
        """Return the reward head's logits [B, K], over the bins of symlog rewards."""
        return self.reward_head(join(self.reward_head, z_BL, e_BT, a_BA))

    def reward(self, z_BL: Tensor, e_BT: Tensor, a_BA: Tensor) -> Tensor:
        """Return the predicted reward [B, 1] in symlog units."""
        return two_hot.read_out(self.reward_logits(z_BL, e_BT, a_BA), self.bins)

    def reward_loss(self, logits_BK: Tensor, r_B1: Tensor) -> Tensor:
        """Return the two-hot cross-entropy [B]; as published, all logits' error to r itself."""
        if not self.fidelity.reward_cross_entropy:
            return (logits_BK - r_B1).square().mean(-1)
        is_by_kernel = self.uses_kernels and logits_BK.is_cuda
        cross_entropy = losses.cross_entropy if is_by_kernel else two_hot.cross_entropy
        return cross_entropy(logits_BK, r_B1, self.config.bin_range)

    def consistency_loss(self, z_BL: Tensor, target_BL: Tensor) -> Tensor:
        """Return the mean squared error [B] of latents to targets, which are constants."""
        if self.uses_kernels and z_BL.is_cuda:
            return losses.square_error(z_BL, target_BL)
        return F.mse_loss(z_BL, target_BL, reduction="none").mean(-1)

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that an optimizer of the model is for."""
        fixed = None if self.fidelity.trained_task_embedding else self.task_embedding.weight
        return [parameter for parameter in self.parameters() if parameter is not fixed]

    def _initialise(self, generator: torch.Generator) -> None:
        initialise_truncated(self, generator)
        nn.init.uniform_(self.task_embedding.weight, -0.02, 0.02, generator=generator)
        nn.init.zeros_(self.reward_head[-1].weight)  # type: ignore[arg-type]
