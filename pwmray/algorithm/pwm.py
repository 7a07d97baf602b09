"""The three updates of one epoch: world model, policy through the model, critics.

Shapes: H horizon (of the model's windows or of the policy's rollout), B batch, O observation, A
action, L latent, T task embedding, K reward bins; time-major, rewards carry a trailing 1.
Formulas: PWM (Georgiev et al., arXiv 2407.02466) with the world-model losses of TD-MPC2 (Hansen et
al., arXiv 2310.16828).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pwmray.algorithm.returns import ReturnScale, discounts, td_lambda
from pwmray.checks import check_least, check_positive, check_share
from pwmray.data.sampler import Batch
from pwmray.models import CriticEnsemble, Policy, WorldModel
from pwmray.models.world_model import consistency

Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class LearnerConfig:
    """Settings of the update; the defaults are PWM's for the multitask suite."""

    horizon: int = 16  # environment steps that the policy imagines
    wm_horizon: int = 16  # environment steps of data that the model is unrolled along
    discount: float = 0.99
    td_lambda: float = 0.95
    policy_batch_size: int = 512
    wm_batch_size: int = 256
    wm_iterations: int = 8  # world-model steps an epoch
    critic_iterations: int = 8  # passes over the rollout's states an epoch
    critic_batches: int = 4  # minibatches a pass
    model_lr: float = 3e-4
    actor_lr: float = 5e-4
    critic_lr: float = 5e-4
    final_lr: float = 1e-5  # every rate falls linearly to this over the trial's epochs
    model_clip: float = 20.0  # gradient norms
    actor_clip: float = 1.0
    critic_clip: float = 100.0
    consistency_weight: float = 20.0
    matching_weight: float = 20.0  # flow matching, on the scale of consistency
    reward_weight: float = 0.1

    def check(self) -> None:
        """Raise ValueError naming the first setting outside its range."""
        check_least("learner", self, 1, *_COUNTS)
        check_share("learner", self, "discount", "td_lambda")
        check_positive("learner", self, *_POSITIVE)


_COUNTS = (
    "horizon",
    "wm_horizon",
    "policy_batch_size",
    "wm_batch_size",
    "wm_iterations",
    "critic_iterations",
    "critic_batches",
)
_POSITIVE = (
    "model_lr",
    "actor_lr",
    "critic_lr",
    "final_lr",
    "model_clip",
    "actor_clip",
    "critic_clip",
    "consistency_weight",
    "matching_weight",
    "reward_weight",
)


class Rollout(NamedTuple):
    """What the policy's update imagines, detached, for the critics."""

    z: Tensor  # z_0 .. z_{H-1}: [H, B, L]
    r: Tensor  # symlog rewards [H, B, 1]
    next_v: Tensor  # V(z_1) .. V(z_H) [H, B, 1]


class Learner(nn.Module):
    """A world model, a policy and critics with their optimizers; `update` is one epoch."""

    mask_A: Tensor  # 1 for the actions that the task has, else 0
    task: Tensor  # its index, a scalar

    def __init__(
        self,
        config: LearnerConfig,
        world_model: WorldModel,
        policy: Policy,
        critics: CriticEnsemble,
        task_index: int,
        action_dim: int,
    ):
        super().__init__()
        self.config = config
        self.world_model = world_model
        self.policy = policy
        self.critics = critics
        self.return_scale = ReturnScale()
        mask_A = (torch.arange(policy.log_std.numel()) < action_dim).float()
        self.register_buffer("mask_A", mask_A, persistent=False)
        self.register_buffer("task", torch.tensor(task_index), persistent=False)
        self.optimizers = _optimizers(config, world_model, policy, critics)

    def update(
        self, sample: Callable[[int], Batch], generator: torch.Generator, progress: float
    ) -> Metrics:
        """Run one epoch and return its mean losses as tensors on the device.

        `sample` draws a batch of a given size, `generator` makes the policy's noise, flow times
        and minibatches, `progress` is the share of the trial's epochs done, [0, 1).
        """
        self._set_learning_rates(progress)
        config = self.config
        metrics = [
            self.update_world_model(sample(config.wm_batch_size), generator)
            for _ in range(config.wm_iterations)
        ]
        actor_metrics, rollout = self.update_policy(
            sample(config.policy_batch_size).obs_HBO[0], generator
        )
        return _mean(metrics) | actor_metrics | self.update_critics(rollout, generator)

    def update_world_model(self, batch: Batch, generator: torch.Generator) -> Metrics:
        """Take one gradient step on consistency, reward and (flow) matching losses."""
        loss, metrics = self.world_model_loss(batch, generator)
        norm = self._step("model", self.world_model, loss, self.config.model_clip)
        return metrics | {"world_model_gradient_norm": norm}

    def world_model_loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        """Return the weighted loss and its parts; each part is a mean over t of gamma^t terms."""
        model, config = self.world_model, self.config
        e_BT = self._embedding(batch.obs_HBO.shape[1])
        zs_HBL = self._unroll(batch, e_BT)
        starts_HBL, ends_HBL = zs_HBL[:-1], zs_HBL[1:]
        e_HBT = e_BT.expand(len(batch.a_HBA), *e_BT.shape)
        with torch.no_grad():
            # The same online encoder makes the targets, as in TD-MPC2.
            target_HBL = model.encode(batch.obs_HBO[1:], e_HBT)
        weight_H1 = discounts(len(batch.a_HBA), config.discount, zs_HBL)
        losses = {
            "consistency_loss": consistency(ends_HBL, target_HBL),
            "reward_loss": model.reward_loss(
                model.reward_logits(starts_HBL, e_HBT, batch.a_HBA), batch.r_HB1
            ),
        }
        tau_HB1 = _uniform(batch.r_HB1.shape, generator, batch.r_HB1)
        matching = model.matching_loss(starts_HBL, e_HBT, batch.a_HBA, target_HBL, tau_HB1)
        if matching is not None:
            losses["matching_loss"] = matching
        losses = {name: (weight_H1 * loss_HB).mean() for name, loss_HB in losses.items()}
        weights = {
            "consistency_loss": config.consistency_weight,
            "reward_loss": config.reward_weight,
            "matching_loss": config.matching_weight,
        }
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        metrics = {name: loss.detach() for name, loss in losses.items()}
        return total, metrics | {"world_model_loss": total.detach()}

    def update_policy(self, obs_BO: Tensor, generator: torch.Generator) -> tuple[Metrics, Rollout]:
        """Take one gradient step on the imagined return, through the frozen model."""
        self.world_model.requires_grad_(False)
        self.critics.requires_grad_(False)
        returns_B1, rollout = self._imagine(obs_BO, generator)
        self.return_scale.update(returns_B1.detach())
        loss = -returns_B1.mean() / self.return_scale.std
        norm = self._step("actor", self.policy, loss, self.config.actor_clip)
        self.world_model.requires_grad_(True)
        self.critics.requires_grad_(True)
        metrics = {
            "actor_loss": loss.detach(),
            "actor_gradient_norm": norm,
            "imagined_return": returns_B1.detach().mean(),
        }
        return metrics, rollout

    def update_critics(self, rollout: Rollout, generator: torch.Generator) -> Metrics:
        """Fit the critics to TD(lambda) targets in shuffled minibatches."""
        config = self.config
        targets = td_lambda(rollout.r, rollout.next_v, config.discount, config.td_lambda)
        z_NL, y_N = rollout.z.flatten(0, 1), targets.flatten()
        metrics = []
        for _ in range(config.critic_iterations):
            order = torch.randperm(len(y_N), generator=generator, device=y_N.device)
            for rows in order.chunk(config.critic_batches):
                loss = (self.critics(z_NL[rows]) - y_N[rows]).square().mean()
                norm = self._step("critic", self.critics, loss, config.critic_clip)
                metrics.append({"critic_loss": loss.detach(), "critic_gradient_norm": norm})
        return _mean(metrics)

    @torch.no_grad()
    def act(self, obs_BO: Tensor) -> Tensor:
        """Return the deterministic actions [B, A] for padded observations [B, O]."""
        z_BL = self.world_model.encode(obs_BO, self._embedding(len(obs_BO)))
        return self.policy.act(z_BL, self.mask_A)

    def _unroll(self, batch: Batch, e_BT: Tensor) -> Tensor:
        """Return z_0 .. z_H [H + 1, B, L] along the data's actions."""
        zs = [self.world_model.encode(batch.obs_HBO[0], e_BT)]
        for a_BA in batch.a_HBA:
            zs.append(self.world_model.next(zs[-1], e_BT, a_BA))
        return torch.stack(zs)

    def _imagine(self, obs_BO: Tensor, generator: torch.Generator) -> tuple[Tensor, Rollout]:
        """Roll the policy through the model; return the objective [B, 1] and the rollout."""
        model, config = self.world_model, self.config
        e_BT = self._embedding(len(obs_BO))
        with torch.no_grad():
            zs = [model.encode(obs_BO, e_BT)]
        shape = (config.horizon, len(obs_BO), self.mask_A.numel())
        actions = []
        for noise_BA in _normal(shape, generator, obs_BO):
            # The policy sees a detached latent: its gradient flows through the actions alone.
            actions.append(self.policy(zs[-1].detach(), noise_BA, self.mask_A))
            zs.append(model.next(zs[-1], e_BT, actions[-1]))
        z_HBL = torch.stack(zs[:-1])
        e_HBT = e_BT.expand(config.horizon, *e_BT.shape)
        r_HB1 = model.reward(z_HBL, e_HBT, torch.stack(actions))
        with torch.no_grad():
            next_v_HB1 = self.critics.minimum(torch.stack(zs[1:]))
        weight_HB1 = discounts(config.horizon, config.discount, r_HB1).unsqueeze(-1)
        last_v_B1 = config.discount**config.horizon * self.critics.minimum(zs[-1])
        returns_B1 = (weight_HB1 * r_HB1).sum(0) + last_v_B1
        return returns_B1, Rollout(z_HBL.detach(), r_HB1.detach(), next_v_HB1)

    def _embedding(self, batch_size: int) -> Tensor:
        return self.world_model.embed(self.task).expand(batch_size, -1)

    def _step(self, name: str, module: nn.Module, loss: Tensor, clip: float) -> Tensor:
        """Take one clipped gradient step; return the norm before clipping."""
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        return norm

    def _set_learning_rates(self, progress: float) -> None:
        config = self.config
        first = {"model": config.model_lr, "actor": config.actor_lr, "critic": config.critic_lr}
        for name, optimizer in self.optimizers.items():
            rate = first[name] + (config.final_lr - first[name]) * progress
            optimizer.param_groups[0]["lr"] = rate


def _optimizers(
    config: LearnerConfig, world_model: WorldModel, policy: Policy, critics: CriticEnsemble
) -> dict[str, torch.optim.Adam]:
    def adam(module: nn.Module, lr: float, betas: tuple[float, float]) -> torch.optim.Adam:
        return torch.optim.Adam(module.parameters(), lr=lr, betas=betas, fused=True)

    return {
        "model": adam(world_model, config.model_lr, (0.9, 0.999)),
        "actor": adam(policy, config.actor_lr, (0.7, 0.95)),
        "critic": adam(critics, config.critic_lr, (0.7, 0.95)),
    }


def _normal(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)


def _uniform(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)


def _mean(metrics: list[Metrics]) -> Metrics:
    return {name: torch.stack([m[name] for m in metrics]).mean() for name in metrics[0]}
