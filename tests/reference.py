"""The corrected update written out: plain, slow, one step and one critic at a time.

Every faster path is compared with it. It draws from the generator in the order of the learner's.
"""

import torch
import torch.nn.functional as F

from pwmray.models import two_hot


class Reference:
    """Update the modules of a learner, which must be its own copy, with plain Adam."""

    def __init__(self, learner):
        self.config, self.model = learner.config, learner.world_model
        self.policy, self.critics = learner.policy, learner.critics
        self.mask_A, self.task = learner.mask_A, learner.task
        self.trains_model = "model" in learner.optimizers
        _check_integrator(self.model.config)
        self.mean, self.var, self.count = 0.0, 1.0, 1e-4
        self.adams = {
            "model": torch.optim.Adam(self.model.parameters(), betas=(0.9, 0.999), foreach=False),
            "actor": torch.optim.Adam(self.policy.parameters(), betas=(0.7, 0.95), foreach=False),
            "critic": torch.optim.Adam(self.critics.parameters(), betas=(0.7, 0.95), foreach=False),
        }

    def update(self, sample, generator, progress):
        """Run one epoch."""
        config = self.config
        for name, first in (
            ("model", config.model_lr),
            ("actor", config.actor_lr),
            ("critic", config.critic_lr),
        ):
            rate = first + (config.final_lr - first) * progress
            self.adams[name].param_groups[0]["lr"] = rate
        for _ in range(config.wm_iterations if self.trains_model else 0):
            e = self.model.embed(self.task).expand(config.wm_batch_size, -1)
            self._update_model(sample(config.wm_batch_size), e, generator)
        obs = sample(config.policy_batch_size).obs_HBO[0]
        penalty = config.action_penalty * (1 - progress)
        self._update_critics(*self._update_policy(obs, generator, penalty), generator)

    def pretrain(self, batch, task, generator):
        """Take one step of a pretraining, on windows of the tasks with these indices."""
        self.adams["model"].param_groups[0]["lr"] = self.config.model_lr
        self._update_model(batch, self.model.embed(task), generator)

    def _update_model(self, batch, e, generator):
        config, model = self.config, self.model
        horizon, size = batch.r_HB1.shape[:2]
        tau = torch.rand(horizon, size, 1, generator=generator, device=e.device)
        z = model.encode(batch.obs_HBO[0], e)
        given, loss = z.detach(), 0.0
        for t in range(horizon):
            a, r = batch.a_HBA[t], batch.r_HB1[t]
            target = model.encode(batch.obs_HBO[t + 1], e).detach()
            code = two_hot.two_hot(r, model.config.num_bins, model.config.bin_range)
            logits = model.reward_logits(z, e, a)
            reward = -(code * logits.log_softmax(-1)).sum(-1).mean()
            matching = model.matching_loss(z.detach(), e, a, target, tau[t])
            end, given = self._next(z, given, e, a)
            z = end
            step = config.consistency_weight * F.mse_loss(given, target)
            step = step + config.reward_weight * reward
            if matching is not None:
                step = step + config.matching_weight * matching.mean()
            loss = loss + config.discount**t * step / horizon
        self._step("model", model, loss, config.model_clip)

    def _next(self, z, given, e, a):
        """Return the next latent, and as it is with the start of its flow taken from `given`."""
        end = self.model.next(z, e, a)
        if self.model.config.kind == "mlp":
            return end, end
        # What the flow adds to its start, as it is before it is put back onto the simplex.
        moved = self._integrate(z, e, a) - z
        start = (given + moved).unflatten(-1, (-1, 8)).clamp(min=1e-6)
        return end, (start / start.sum(-1, keepdim=True)).flatten(-2)

    def _integrate(self, z, e, a):
        """Heun's method written out."""
        config, size = self.model.config, 1 / self.model.config.num_substeps
        for k in range(config.num_substeps):
            first = self.model.velocity(z, e, a, z.new_full((len(z), 1), k * size))
            guess = z + size * first
            second = self.model.velocity(guess, e, a, z.new_full((len(z), 1), (k + 1) * size))
            z = z + size * (first + second) / 2
        return z

    def _update_policy(self, obs, generator, penalty):
        config, model = self.config, self.model
        e = model.embed(self.task).detach().expand(len(obs), -1)
        z = model.encode(obs, e).detach()
        shape = (config.horizon, len(obs), len(self.mask_A))
        noise = torch.randn(shape, generator=generator, device=obs.device)
        zs, rewards, values, total, squares = [], [], [], 0.0, 0.0
        for t in range(config.horizon):
            floor, log_std = self.policy.min_log_std, self.policy.log_std
            std = torch.where(log_std < floor, floor, log_std).exp()
            u = self.policy.pre_squash(z.detach(), std * noise[t] * self.mask_A, self.mask_A)
            u = u * self.mask_A
            a = u.tanh()
            squares = squares + u.square().sum(-1).mean() / config.horizon
            r = model.reward(z, e, a)
            total = total + config.discount**t * r
            zs.append(z.detach())
            rewards.append(r.detach())
            z = model.next(z, e, a)
            values.append(self._value(z))
        total = total + config.discount**config.horizon * values[-1]
        loss = -total.mean() / self._scale(total.detach()) + penalty * squares
        self._step("actor", self.policy, loss, config.actor_clip)
        self.policy.log_std.data.clamp_(min=self.policy.min_log_std)
        return zs, rewards, [value.detach() for value in values]

    def _update_critics(self, zs, rewards, values, generator):
        config, targets = self.config, []
        y = values[-1]
        for r, v in zip(reversed(rewards), reversed(values), strict=True):
            y = r + config.discount * ((1 - config.td_lambda) * v + config.td_lambda * y)
            targets.insert(0, y)
        z, y = torch.cat(zs), torch.cat(targets).squeeze(-1)
        for _ in range(config.critic_iterations):
            order = torch.randperm(len(y), generator=generator, device=y.device)
            for rows in order.chunk(config.critic_batches):
                errors = [self._critic(i, z[rows]) - y[rows] for i in range(self._num_critics)]
                loss = torch.stack([error.square().mean() for error in errors]).mean()
                self._step("critic", self.critics, loss, config.critic_clip)

    @property
    def _num_critics(self):
        return self.critics.config.num_critics

    def _critic(self, index, z):
        """One critic's values: (Linear, Mish, LayerNorm) for each hidden layer, then Linear."""
        c, num_hidden = self.critics, len(self.critics.norm_weights)
        for layer in range(num_hidden):
            z = F.mish(z @ c.weights[layer][index] + c.biases[layer][index])
            scale, shift = c.norm_weights[layer][index, 0], c.norm_biases[layer][index, 0]
            z = F.layer_norm(z, z.shape[-1:], scale, shift)
        return (z @ c.weights[-1][index] + c.biases[-1][index]).squeeze(-1)

    def _value(self, z):
        values = [self._critic(index, z) for index in range(self._num_critics)]
        return torch.stack(values).min(0).values.unsqueeze(-1)

    def _scale(self, returns):
        """Take the returns into the running variance; return its root."""
        mean, var, n = returns.mean(), returns.var(correction=0), returns.numel()
        total, delta = self.count + n, mean - self.mean
        spread = delta**2 * self.count * n / total
        self.var = (self.var * self.count + var * n + spread) / total
        self.mean, self.count = self.mean + delta * n / total, total
        return (self.var + 1e-5) ** 0.5

    def _step(self, name, module, loss, clip):
        for part in (self.model, self.policy, self.critics):
            part.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        self.adams[name].step()


def _check_integrator(config):
    integrator = getattr(config, "integrator", "heun")
    if integrator != "heun":
        raise ValueError(
            f"world_model.integrator is {integrator!r}; the reference integrates with heun alone"
        )
