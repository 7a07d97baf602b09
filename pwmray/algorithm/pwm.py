"""The three updates of one epoch: world model, policy through the model, critics.

Shapes: H horizon (of the model's windows or of the policy's rollout), B batch, O observation, A
action, L latent, T task embedding, K reward bins; time-major, rewards carry a trailing 1.
Formulas: PWM (Georgiev et al., arXiv 2407.02466) with the world-model losses of TD-MPC2 (Hansen et
al., arXiv 2310.16828).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pwmray.algorithm import replay
from pwmray.algorithm.clipped_step import Adam, clip_and_step
from pwmray.algorithm.learner_config import LearnerConfig
from pwmray.algorithm.returns import ReturnScale, discounts, td_lambda
from pwmray.algorithm.world_model_loss import world_model_loss
from pwmray.data.angles import wrap
from pwmray.data.sampler import Batch
from pwmray.kernels.branches import Beside
from pwmray.models import CriticEnsemble, Policy, WorldModel
from pwmray.precision import BFLOAT16, autocast
from pwmray.tasks import Task

Metrics = dict[str, Tensor]


class Rollout(NamedTuple):
    """What the policy's update imagines, detached for the critics, and the actions taken."""

    z: Tensor  # z_0 .. z_{H-1}: [H, B, L]
    r: Tensor  # symlog rewards [H, B, 1]
    next_v: Tensor  # V(z_1) .. V(z_H) [H, B, 1]
    a: tuple[Tensor, ...]  # the actions, H times [B, A]: leaves, where gradients are on


class Imagined(NamedTuple):
    """A rollout of the policy, and what its step needs."""

    returns_B1: Tensor  # the objective, with its gradient
    rollout: Rollout
    noise_HBA: Tensor


class Learner(nn.Module):
    """A world model, a policy and critics with their optimizers; `update` is one epoch."""

    mask_A: Tensor  # 1 for the actions that the policy may take, else 0
    wrapped: Tensor  # the observation's entries that are taken modulo a turn
    task: Tensor  # its index, a scalar
    action_penalty: Tensor  # its weight in this epoch, a scalar
    stale_gradient: Tensor  # of the task embedding, where that is not trained

    def __init__(
        self,
        config: LearnerConfig,
        world_model: WorldModel,
        policy: Policy,
        critics: CriticEnsemble,
        task: Task,
        trains_world_model: bool = True,
    ):
        super().__init__()
        self.config = config
        self.fidelity = world_model.fidelity
        self.world_model = world_model
        self.policy = policy
        self.critics = critics
        self.return_scale = ReturnScale()
        num_actions = task.action_dim if self.fidelity.masked_actions else policy.log_std.numel()
        mask_A = (torch.arange(policy.log_std.numel()) < num_actions).float()
        self.register_buffer("mask_A", mask_A, persistent=False)
        self.register_buffer("task", torch.tensor(task.index), persistent=False)
        self.register_buffer("action_penalty", torch.zeros(()), persistent=False)
        # A tensor: a list would be moved to the device whenever it is used.
        wrapped = task.winding_angles if world_model.config.wrap_angles else ()
        self.register_buffer("wrapped", torch.tensor(wrapped, dtype=torch.long), persistent=False)
        if not self.fidelity.trained_task_embedding:
            stale = torch.zeros_like(world_model.task_embedding.weight)
            self.register_buffer("stale_gradient", stale)
        self.optimizers = _optimizers(config, world_model, policy, critics)
        if not trains_world_model:
            del self.optimizers["model"]

    def update(
        self, sample: Callable[[int], Batch], generator: torch.Generator, progress: float
    ) -> Metrics:
        """Run one epoch and return its mean losses as tensors on the device.

        `sample` draws windows of `window_horizon` steps, as many as it is asked for; `generator`
        makes the policy's noise, flow times and minibatches; `progress` is the share of the
        trial's epochs done, [0, 1).
        """
        self.set_schedules(progress)
        return self.run_epoch(sample, generator)

    def set_schedules(self, progress: float) -> None:
        """Set what falls over a trial's epochs: the learning rates and the action penalty."""
        config = self.config
        self.action_penalty.fill_(config.action_penalty * (1 - progress))
        first = {"model": config.model_lr, "actor": config.actor_lr, "critic": config.critic_lr}
        for name, optimizer in self.optimizers.items():
            rate = first[name] + (config.final_lr - first[name]) * progress
            replay.set_rate(optimizer, rate)

    def run_epoch(self, sample: Callable[[int], Batch], generator: torch.Generator) -> Metrics:
        """Run one epoch with the schedules as they are.

        Its work does not depend on the numbers that it computes and it never waits for the device,
        so that on a GPU it can be recorded once and replayed (pwmray.algorithm.replay).
        """
        config = self.config
        metrics, batch = {}, None
        if "model" in self.optimizers:
            num_steps, num_windows = config.wm_iterations, config.wm_batch_size
            if not self.fidelity.world_model_batches:
                num_steps, num_windows = 1, config.policy_batch_size
            steps = []
            for _ in range(num_steps):
                batch = sample(num_windows)
                steps.append(self.update_world_model(batch, generator))
            metrics = _mean(steps)
        if batch is None or self.fidelity.world_model_batches:
            batch = sample(config.policy_batch_size)
        obs_BO = batch.obs_HBO[0]
        noise_HBA = self.draw_noise(obs_BO, generator)
        with Beside(obs_BO.device):  # the critics' fit, which reads them, is of the same branch
            orders = self.draw_orders(config.horizon * len(obs_BO), generator, obs_BO)
        imagined = self.imagine(obs_BO, noise_HBA)
        # Neither reads what the other changes.
        with Beside(obs_BO.device) as fitting:
            critic_metrics = self.fit_critics(imagined.rollout, orders)
        actor_metrics = self.improve_policy(imagined)
        fitting.join()
        return metrics | actor_metrics | critic_metrics

    @property
    def window_horizon(self) -> int:
        """Environment steps of the windows that `update` samples."""
        is_own = self.fidelity.world_model_batches
        return self.config.wm_horizon if is_own else self.config.horizon

    def update_world_model(self, batch: Batch, generator: torch.Generator) -> Metrics:
        """Take one gradient step on consistency, reward and (flow) matching losses."""
        loss, metrics = self.world_model_loss(batch, generator)
        norm = self._step("model", loss, self.config.model_clip)
        return metrics | {"world_model_gradient_norm": norm}

    def world_model_loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        """Return the weighted loss of this trial's task and its parts."""
        e_BT = self._embedding(batch.obs_HBO.shape[1])
        return world_model_loss(self.world_model, self.config, batch, e_BT, generator)

    def imagine(self, obs_BO: Tensor, noise_HBA: Tensor) -> Imagined:
        """Roll the policy with the noise [H, B, A] through the frozen model, from `obs`."""
        self.world_model.requires_grad_(False)
        self.critics.requires_grad_(False)
        embedding = self.world_model.task_embedding.weight
        embedding.requires_grad_(self._keeps_stale_gradient)
        with autocast(self.config.matmul, obs_BO.device):
            returns_B1, rollout = self._roll_out(obs_BO, noise_HBA)
        self.world_model.requires_grad_(True)
        self.critics.requires_grad_(True)
        return Imagined(returns_B1, rollout, noise_HBA)

    def improve_policy(self, imagined: Imagined) -> Metrics:
        """Take one gradient step on the imagined return; the critics' weights are not read."""
        returns_B1, rollout, noise_HBA = imagined
        self.return_scale.update(returns_B1.detach())
        loss = -returns_B1.mean() / self.return_scale.std
        loss.backward()
        if self._keeps_stale_gradient:
            # The published actor's backward leaves it there: most of the norm that is clipped.
            embedding = self.world_model.task_embedding.weight
            assert embedding.grad is not None
            self.stale_gradient += embedding.grad
            embedding.grad = None
        # The policy sees detached latents: its gradient flows through the actions alone, and once
        # theirs are known, through all the policy's calls at once.
        gradient_HBA = torch.stack([a_BA.grad for a_BA in rollout.a])  # type: ignore[misc]
        with autocast(self.config.matmul, noise_HBA.device):
            a_HBA, u_HBA = self.policy.sample(rollout.z, noise_HBA, self.mask_A)
        loss, surrogate = loss.detach(), (a_HBA * gradient_HBA).sum()
        if self.config.action_penalty:
            penalty = self.action_penalty * u_HBA.square().sum(-1).mean()
            loss, surrogate = loss + penalty.detach(), surrogate + penalty
        norm = self._step("actor", surrogate, self.config.actor_clip)
        self.policy.keep_exploring()
        return {
            "actor_loss": loss,
            "actor_gradient_norm": norm,
            "imagined_return": returns_B1.detach().mean(),
        }

    def fit_critics(self, rollout: Rollout, orders: Sequence[Tensor]) -> Metrics:
        """Fit the critics to TD(lambda) targets; a pass over the rollout's rows for each order."""
        config = self.config
        trace = config.td_lambda if self.fidelity.td_lambda else 0.0
        given = (rollout.r, rollout.next_v, config.discount, trace)
        targets = td_lambda(*given, self.critics.uses_kernels)
        z_NL, y_N = rollout.z.flatten(0, 1), targets.flatten()
        if config.matmul == BFLOAT16:  # once, not with every minibatch
            z_NL = z_NL.to(torch.bfloat16)
        metrics = []
        with autocast(config.matmul, y_N.device):
            copies = self.critics.copy_weights()
        for z_RL, y_R in _minibatches((z_NL, y_N), orders, config.critic_batches):
            with autocast(config.matmul, y_N.device):
                error_C = self.critics.differentiate_error(z_RL, y_R, copies)
            norm = clip_and_step(self.optimizers["critic"], config.critic_clip, copies)
            metrics.append({"critic_loss": error_C, "critic_gradient_norm": norm})
        return _mean(metrics)

    @torch.no_grad()
    def act(self, obs_BO: Tensor) -> Tensor:
        """Return the deterministic actions [B, A] for padded observations [B, O]."""
        return self.policy.act(self.encode(obs_BO), self.mask_A)

    def encode(self, obs_BO: Tensor) -> Tensor:
        """Return the latents [B, L] of observations as the environment gives them."""
        if self.wrapped.numel():
            angles = wrap(obs_BO.index_select(1, self.wrapped))
            obs_BO = obs_BO.index_copy(1, self.wrapped, angles)
        return self.world_model.encode(obs_BO, self._embedding(len(obs_BO)))

    @torch.no_grad()
    def predict_return(self, obs_BO: Tensor) -> Tensor:
        """Return the return [B, 1] that the deterministic policy is imagined to get from `obs`.

        That is the discounted sum of symlog rewards, with the critics' value after the horizon.
        """
        shape = (self.config.horizon, len(obs_BO), self.mask_A.numel())
        return self._roll_out(obs_BO, obs_BO.new_zeros(shape))[0]

    def draw_noise(self, obs_BO: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the policy's noise [H, B, A] of a rollout from `obs`."""
        shape = (self.config.horizon, len(obs_BO), self.mask_A.numel())
        return _normal(shape, generator, obs_BO)

    def draw_orders(self, num_rows: int, generator: torch.Generator, like: Tensor) -> list[Tensor]:
        """Return the order of a rollout's rows in each pass of the critics' fit."""
        num_passes, device = self.config.critic_iterations, like.device
        if not self.fidelity.shuffled_critic_batches:
            return [torch.arange(num_rows, device=device)] * num_passes
        return [
            torch.randperm(num_rows, generator=generator, device=device) for _ in range(num_passes)
        ]

    def _act(self, z_BL: Tensor, noise_BA: Tensor) -> Tensor:
        """Return the noisy actions [B, A], detached: a leaf, where gradients are on."""
        with torch.no_grad():
            a_BA = self.policy(z_BL, noise_BA, self.mask_A)
        return a_BA.requires_grad_(torch.is_grad_enabled())

    def _roll_out(self, obs_BO: Tensor, noise_HBA: Tensor) -> tuple[Tensor, Rollout]:
        """Roll the policy through the model; return the objective [B, 1] and the rollout."""
        model, config = self.world_model, self.config
        e_BT = self._embedding(len(obs_BO))
        zs, actions = [self.encode(obs_BO)], []
        for noise_BA in noise_HBA:
            actions.append(self._act(zs[-1].detach(), noise_BA))
            zs.append(model.next(zs[-1], e_BT, actions[-1]))
        with Beside(obs_BO.device) as valuing:
            with torch.no_grad():
                next_v_HB1 = self.critics.minimum(torch.stack(zs[1:]))
            last_v_B1, gradient_BL = self._value(zs[-1])
        z_HBL = torch.stack(zs[:-1])
        e_HBT = e_BT.expand(config.horizon, *e_BT.shape)
        r_HB1 = model.reward(z_HBL, e_HBT, torch.stack(actions))
        valuing.join()
        if gradient_BL is not None:
            # Not in the branch: autograd goes back on that stream, where the critics are fitted.
            last_v_B1 = _Differentiated.apply(zs[-1], last_v_B1, gradient_BL)
        weight_HB1 = discounts(config.horizon, config.discount, r_HB1).unsqueeze(-1)
        terminal = config.horizon + (0 if self.fidelity.terminal_discount else 1)
        returns_B1 = (weight_HB1 * r_HB1).sum(0) + config.discount**terminal * last_v_B1
        return returns_B1, Rollout(z_HBL.detach(), r_HB1.detach(), next_v_HB1, tuple(actions))

    def _value(self, z_BL: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return V(z) [B, 1] and its gradient: the critics may change before it is wanted."""
        if not torch.is_grad_enabled():
            return self.critics.minimum(z_BL), None
        leaf_BL = z_BL.detach().requires_grad_()
        v_B1 = self.critics.minimum(leaf_BL)
        v_B1.sum().backward()
        return v_B1.detach(), leaf_BL.grad

    @property
    def _keeps_stale_gradient(self) -> bool:
        """Whether the policy's step leaves a gradient that the model's next step is clipped by."""
        return "model" in self.optimizers and not self.fidelity.trained_task_embedding

    def _embedding(self, batch_size: int) -> Tensor:
        return self.world_model.embed(self.task).expand(batch_size, -1)

    def _step(self, name: str, loss: Tensor, clip: float) -> Tensor:
        """Take one clipped gradient step; return the norm before clipping."""
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if name == "model" and not self.fidelity.trained_task_embedding:
            norm = self._clip_with_stale_gradient(clip)
            optimizer.step()
            return norm
        return clip_and_step(optimizer, clip)

    def _clip_with_stale_gradient(self, clip: float) -> Tensor:
        """Clip as published: the embedding's gradient adds up, scaled down with the others."""
        embedding = self.world_model.task_embedding.weight
        assert embedding.grad is not None
        embedding.grad += self.stale_gradient
        norm = nn.utils.clip_grad_norm_(self.world_model.parameters(), clip)
        self.stale_gradient.copy_(embedding.grad)
        embedding.grad = None
        return norm


class _Differentiated(torch.autograd.Function):
    """Rows of x, a value [B, 1] of each, and the value's gradient [B, L]."""

    @staticmethod
    def forward(ctx: Any, x_BL: Tensor, value_B1: Tensor, gradient_BL: Tensor) -> Tensor:
        ctx.save_for_backward(gradient_BL)
        return value_B1.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_B1: Tensor):
        (gradient_BL,) = ctx.saved_tensors
        return g_B1 * gradient_BL, None, None


def _optimizers(
    config: LearnerConfig, world_model: WorldModel, policy: Policy, critics: CriticEnsemble
) -> dict[str, Adam]:
    return {
        "model": Adam(world_model.trained_parameters(), config.model_lr, (0.9, 0.999)),
        "actor": Adam(policy.parameters(), config.actor_lr, (0.7, 0.95)),
        "critic": Adam(critics.parameters(), config.critic_lr, (0.7, 0.95)),
    }


def _normal(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)


def _minibatches(
    tensors: Sequence[Tensor], orders: Sequence[Tensor], num_each: int
) -> Iterator[tuple[Tensor, ...]]:
    """Yield minibatches of the tensors' rows, as many for each of the orders.

    A GPU gathers all at once, for which it has the memory, a CPU those of an order.
    """
    for joined in [torch.cat(list(orders))] if orders[0].is_cuda else orders:
        passes = [t.index_select(0, joined).split(len(orders[0])) for t in tensors]
        for rows in zip(*passes, strict=True):
            yield from zip(*(t.chunk(num_each) for t in rows), strict=True)


def _mean(metrics: list[Metrics]) -> Metrics:
    return {name: torch.stack([m[name] for m in metrics]).mean() for name in metrics[0]}
