"""Train a world model alone, on the data of several tasks.

The loss is the learner's own; the rate is constant. Episodes are split by task: those held out
say which iteration's model is best. Everything follows from the seed, and a run that is stopped
goes on exactly from `state`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pwmray.algorithm import replay
from pwmray.algorithm.clipped_step import Adam, clip_and_step
from pwmray.algorithm.learner_config import LearnerConfig
from pwmray.algorithm.world_model_loss import world_model_loss
from pwmray.checks import check_least, check_positive, check_share
from pwmray.data.multitask import MultitaskSampler, split_episodes
from pwmray.data.store import Store
from pwmray.models import WorldModel
from pwmray.seeding import derive_seed, generator, restore

Losses = dict[str, float]


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of a pretraining beside the learner's; the defaults are PWM's."""

    iterations: int = 200_000
    batch_size: int = 1024
    held_out_share: float = 0.05  # of each task's episodes
    held_out_batches: int = 8  # the same windows at every check
    check_every: int = 1000  # iterations between looks at the episodes held out

    def check(self) -> None:
        """Raise ValueError naming the first setting outside its range."""
        counts = ("iterations", "batch_size", "held_out_batches", "check_every")
        check_least("pretrain", self, 1, *counts)
        check_positive("pretrain", self, "held_out_share")
        check_share("pretrain", self, "held_out_share")


class Pretrainer:
    """A world model in training: `train` some iterations, then look at `held_out_losses`."""

    def __init__(
        self,
        model: WorldModel,
        stores: Sequence[Store],
        config: PretrainConfig,
        learner: LearnerConfig,
        seed: int,
        device: torch.device,
        recorded: bool = True,
    ):
        self._recorded = recorded  # on a GPU, as a CUDA graph
        self.model, self.config, self.iteration = model.to(device), config, 0
        self._learner, self._seed, self._device = learner, seed, device
        names = ("pretrain-windows", "pretrain-times")
        self._generators = {name: generator(seed, name, device) for name in names}
        draws = generator(seed, "held-out")
        splits = [split_episodes(store, config.held_out_share, draws) for store in stores]
        self._sampler = MultitaskSampler(
            stores,
            [split.training for split in splits],
            learner.wm_horizon,
            device,
            self._generators["pretrain-windows"],
            model.config.wrap_angles,
        )
        self._held_out = self._sampler.among(
            [split.held_out for split in splits], generator(seed, "held-out-windows", device)
        )
        self._parameters = model.trained_parameters()
        self.optimizer = Adam(self._parameters, learner.model_lr, (0.9, 0.999))
        self._run: replay.Work | None = None  # made by the first training, after a resume

    def train(self, num_iterations: int) -> Losses:
        """Take gradient steps; return the mean of each part of the loss over them.

        Raises FloatingPointError when one is not finite; the model is then of no use.
        """
        if self._run is None:
            self._run = self._step
            if self._recorded:
                generators = list(self._generators.values())
                self._run = replay.replayed_on_gpu(
                    self._step, self.model, [self.optimizer], generators, self._sampler.is_mapped
                ).run
        history = []
        for _ in range(num_iterations):
            history.append(self._run())
            self.iteration += 1
        return self._finite_means(history)

    def _step(self) -> dict[str, torch.Tensor]:
        loss, metrics = self._loss(self._sampler, self._generators["pretrain-times"])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_and_step(self.optimizer, self._learner.model_clip)
        return metrics

    @torch.no_grad()
    def held_out_losses(self) -> Losses:
        """Return each part of the loss on the episodes held out: the same windows every time.

        Raises FloatingPointError when one is not finite, as a last step can leave it.
        """
        self._held_out.generator.manual_seed(derive_seed(self._seed, "held-out-windows"))
        times = generator(self._seed, "held-out-times", self._device)
        batches = range(self.config.held_out_batches)
        return self._finite_means([self._loss(self._held_out, times)[1] for _ in batches])

    def state(self) -> dict[str, Any]:
        """Return everything that a later run needs to go on exactly."""
        return {
            "iteration": self.iteration,
            "model": self.model.state_dict(),
            "optimizer": replay.portable_state(self.optimizer),
            "generators": {name: g.get_state() for name, g in self._generators.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.iteration = state["iteration"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, stream in self._generators.items():
            restore(stream, state["generators"][name], name)

    def _loss(self, sampler: MultitaskSampler, times: torch.Generator):
        batch, task_B = sampler.sample(self.config.batch_size)
        e_BT = self.model.embed(task_B)
        return world_model_loss(self.model, self._learner, batch, e_BT, times)

    def _finite_means(self, history: list[dict[str, torch.Tensor]]) -> Losses:
        means = {n: float(torch.stack([row[n] for row in history]).mean()) for n in history[0]}
        for name, value in means.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"diverged: {name} is {value} by iteration {self.iteration}"
                )
        return means
