"""Act by planning: MPPI over the world model, the policy as prior, the critics as terminal value.

Shapes: N episodes, S samples, P policy trajectories, E elites, H horizon, O observation, A action,
L latent; plans are time-major. Source: `_plan` of TD-MPC2 (Hansen et al., arXiv 2310.16828), with
its settings; the comments mark where this learner departs from it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pwmray.algorithm.pwm import Learner
from pwmray.algorithm.returns import discounts
from pwmray.checks import check_least, check_positive

MAX_ROWS = 2**16  # imagined states held at once: about 0.5 GB a layer of 1,792 units


@dataclass(frozen=True)
class PlannerConfig:
    """Settings of the search; the defaults are TD-MPC2's."""

    horizon: int = 3  # environment steps
    num_iterations: int = 6
    num_samples: int = 512  # action sequences an iteration, policy trajectories included
    num_elites: int = 64  # the best of them, from which mean and sd follow
    num_policy_trajectories: int = 24
    temperature: float = 0.5  # elites weigh exp(temperature * value)
    min_std: float = 0.05  # in units of the action, [-1, 1]
    max_std: float = 2.0  # also the first iteration's

    def check(self) -> None:
        """Raise ValueError naming the first setting outside its range."""
        check_least("planner", self, 1, "horizon", "num_iterations", "num_samples", "num_elites")
        check_least("planner", self, 0, "num_policy_trajectories")
        check_positive("planner", self, "temperature", "min_std", "max_std")
        for name in ("num_elites", "num_policy_trajectories"):
            if getattr(self, name) > self.num_samples:
                raise ValueError(
                    f"planner.{name} is {getattr(self, name)}; it must be at most "
                    f"planner.num_samples, {self.num_samples}"
                )
        if self.min_std > self.max_std:
            raise ValueError(
                f"planner.min_std is {self.min_std}; it must be at most planner.max_std, "
                f"{self.max_std}"
            )


class Planner:
    """An act with a memory: each step's search starts from the last step's plan.

    Call it once an environment step with the observations [N, O] of the same N episodes in
    lockstep, from their first step on. Actions follow from the learner, the observations and
    `generator` (on the learner's device). `max_rows` bounds memory and changes no plan.
    """

    def __init__(
        self,
        config: PlannerConfig,
        learner: Learner,
        generator: torch.Generator,
        max_rows: int = MAX_ROWS,
    ):
        self.config = config
        self.mean_HNA: Tensor | None = None  # of the last search; none before an episode's first
        self._learner = learner
        self._generator = generator
        self._num_together = max(1, max_rows // (config.horizon * config.num_samples))  # episodes

    @torch.no_grad()
    def __call__(self, obs_NO: Tensor) -> Tensor:
        """Return actions [N, A] in [-1, 1], 0 in the dimensions that the task lacks."""
        z_NL = self._learner.encode(obs_NO)
        prior_HNPA = self._policy_plans(z_NL)
        mean_HNA, std_HNA = self._start(z_NL)
        for _ in range(self.config.num_iterations):
            a_HNSA = torch.cat([prior_HNPA, self._sample(mean_HNA, std_HNA)], dim=2)
            a_HNEA, weight_NE = self._select(z_NL, a_HNSA)
            mean_HNA, std_HNA = self._fit(a_HNEA, weight_NE)
        self.mean_HNA = mean_HNA
        # TD-MPC2 draws an elite by its weight in evaluation too, and leaves out the noise alone.
        choice_N1 = torch.multinomial(weight_NE, 1, generator=self._generator)
        return a_HNEA[0].take_along_dim(choice_N1.unsqueeze(-1), dim=1).squeeze(1)

    def _start(self, z_NL: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first mean, the last plan moved on by a step, and sd [H, N, A]."""
        mask_A, horizon = self._learner.mask_A, self.config.horizon
        mean_HNA = z_NL.new_zeros(horizon, len(z_NL), len(mask_A))
        if self.mean_HNA is not None:
            mean_HNA[:-1] = self.mean_HNA[1:]
        return mean_HNA, torch.full_like(mean_HNA, self.config.max_std)

    def _sample(self, mean_HNA: Tensor, std_HNA: Tensor) -> Tensor:
        """Draw action sequences [H, N, S - P, A]."""
        num = self.config.num_samples - self.config.num_policy_trajectories
        noise = self._normal(mean_HNA.shape[1], num)
        a = (mean_HNA.unsqueeze(2) + std_HNA.unsqueeze(2) * noise).clamp(-1, 1)
        return a * self._learner.mask_A

    def _policy_plans(self, z_NL: Tensor) -> Tensor:
        """Return what the policy, with its noise, does in the model [H, N, P, A]."""
        learner, num = self._learner, self.config.num_policy_trajectories
        z_NPL = z_NL.unsqueeze(1).expand(-1, num, -1)
        e_NPT = self._embedding(z_NPL)
        actions = []
        for noise_NPA in self._normal(len(z_NL), num):
            if actions:
                z_NPL = learner.world_model.next(z_NPL, e_NPT, actions[-1])
            actions.append(learner.policy(z_NPL, noise_NPA, learner.mask_A))
        return torch.stack(actions)

    def _select(self, z_NL: Tensor, a_HNSA: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best sequences [H, N, E, A] and their weights [N, E], which sum to 1."""
        parts = zip(
            z_NL.split(self._num_together), a_HNSA.split(self._num_together, dim=1), strict=True
        )
        value_NS = torch.cat([self._value(*part) for part in parts])
        value_NE, elite_NE = value_NS.topk(self.config.num_elites, dim=1)
        weight_NE = torch.softmax(self.config.temperature * value_NE, dim=1)
        return a_HNSA.take_along_dim(elite_NE[None, :, :, None], dim=2), weight_NE

    def _value(self, z_NL: Tensor, a_HNSA: Tensor) -> Tensor:
        """Return sum_t gamma^t r_t + gamma^H V(z_H) [N, S], in symlog-reward units throughout."""
        model, discount = self._learner.world_model, self._learner.config.discount
        zs = [z_NL.unsqueeze(1).expand(-1, a_HNSA.shape[2], -1)]
        e_NST = self._embedding(zs[0])
        for a_NSA in a_HNSA:
            zs.append(model.next(zs[-1], e_NST, a_NSA))
        z_HNSL, e_HNST = torch.stack(zs[:-1]), e_NST.expand(len(a_HNSA), *e_NST.shape)
        r_HNS1 = model.reward(z_HNSL, e_HNST, a_HNSA)
        weight_H111 = discounts(len(a_HNSA), discount, r_HNS1)[..., None, None]
        # The least critic, where TD-MPC2 averages two: it is the objective that the policy was
        # trained on, so that a plan return differs by the planning alone, and a maximum over
        # hundreds of samples would find what one critic overestimates.
        last_v_NS1 = self._learner.critics.minimum(zs[-1])
        value_NS1 = (weight_H111 * r_HNS1).sum(0) + discount ** len(a_HNSA) * last_v_NS1
        return value_NS1.squeeze(-1)

    def _fit(self, a_HNEA: Tensor, weight_NE: Tensor) -> tuple[Tensor, Tensor]:
        """Return the elites' weighted mean and sd [H, N, A]."""
        weight_NE1, mask_A = weight_NE.unsqueeze(-1), self._learner.mask_A
        mean_HNA = (weight_NE1 * a_HNEA).sum(2)
        std_HNA = (weight_NE1 * (a_HNEA - mean_HNA.unsqueeze(2)).square()).sum(2).sqrt()
        return mean_HNA, std_HNA.clamp(self.config.min_std, self.config.max_std) * mask_A

    def _embedding(self, rows: Tensor) -> Tensor:
        """Return the task's embedding for each of `rows` [..., any]."""
        model = self._learner.world_model
        return model.embed(self._learner.task).expand(*rows.shape[:-1], -1)

    def _normal(self, num_episodes: int, num: int) -> Tensor:
        """Draw standard normal noise [H, N, num, A]."""
        mask_A = self._learner.mask_A
        shape = (self.config.horizon, num_episodes, num, len(mask_A))
        return torch.randn(
            shape, generator=self._generator, device=mask_A.device, dtype=mask_A.dtype
        )
