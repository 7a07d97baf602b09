"""Collect data in rounds: train an agent on what there is, let it act for more, and so on.

What fixed behaviours reach by luck alone, such as a balanced cartpole, a few rounds reach on
purpose: the data then shows what is worth doing. All of it follows from the task and the recipe.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pwmray.algorithm.evaluate import COLLECTION_GROUP, GroupedAct, policy_actor
from pwmray.build import build_learner
from pwmray.commands import Progress
from pwmray.config import TrialConfig
from pwmray.data import collect as collecting
from pwmray.data.collect import Episodes, MakePolicy, MakeVector
from pwmray.data.collector import COLLECTOR
from pwmray.data.recipe import CollectionRecipe
from pwmray.data.sampler import WindowSampler
from pwmray.data.store import Store, observation_statistics
from pwmray.seeding import generator

_CPU = torch.device("cpu")
_EPISODE_EPOCHS = 2  # an episode costs about as much as so many epochs


def collect(
    task: str,
    recipe: CollectionRecipe,
    make_vector: MakeVector,
    progress: Progress | None = None,
    make_policy: MakePolicy | None = None,
) -> Episodes:
    """Collect the episodes of fixed behaviours and then those of the recipe's rounds.

    `make_policy` is for the fixed behaviours that need one; the rounds train their own. 14 rounds
    take about 75 seconds of one core. Raises ValueError if the training diverges.
    """
    episodes = collecting.collect(task, recipe, make_vector, progress, make_policy)
    if not recipe.num_rounds:
        return episodes
    collector = Collector(task, recipe)
    for round_number in range(1, recipe.num_rounds + 1):
        report = _Report(recipe, round_number, progress)
        collector.train(episodes, report)
        more = collecting.collect(
            task, recipe, make_vector, report.hear_steps, collector.make_policy, round_number
        )
        episodes = collecting.join([episodes, more])
    return episodes


class Collector:
    """The agent that learns from round to round, on the CPU in one thread."""

    def __init__(self, task: str, recipe: CollectionRecipe):
        # How numbers round depends on these, and a task's data is to be the same in any process.
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        torch.set_float32_matmul_precision("highest")
        self._recipe = recipe
        self.config = collector_config(task, recipe)
        self._learner = build_learner(self.config)
        self._generators = {
            name: generator(recipe.seed, f"rounds/{name}") for name in ("windows", "noise")
        }

    def train(self, episodes: Episodes, report: "_Report") -> None:
        """Train a round's epochs on all episodes so far, at rates that do not fall."""
        store, config = _as_store(self.config.task, episodes), self.config
        statistics = observation_statistics(store, config.world_model.wrap_angles)
        self._learner.world_model.set_observation_scale(*map(torch.from_numpy, statistics))
        sampler = WindowSampler(
            store,
            self._learner.window_horizon,
            _CPU,
            self._generators["windows"],
            wrap_angles=config.world_model.wrap_angles,
        )
        for epoch in range(self._recipe.epochs_per_round):
            metrics = self._learner.update(sampler.sample, self._generators["noise"], 0.0)
            report.hear_epochs(epoch + 1)
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise ValueError(
                    f"the agent that collects data of {config.task} diverged: {name} is {value}"
                )

    def make_policy(self, num_episodes: int) -> GroupedAct:
        """Return the deterministic policy as it is now."""
        return GroupedAct(policy_actor(self._learner.act, COLLECTION_GROUP), num_episodes, _CPU)


def collector_config(task: str, recipe: CollectionRecipe) -> TrialConfig:
    """Return the collecting agent's config as a trial's; its epochs are those of all rounds."""
    settings: dict[str, Any] = {k: v for k, v in COLLECTOR.items() if k != "version"}
    epochs = recipe.num_rounds * recipe.epochs_per_round
    return TrialConfig.from_flat({**settings, "task": task, "seed": recipe.seed, "epochs": epochs})


class _Report:
    """Progress of one round as a part of all: one activity, so that the time left is of all."""

    def __init__(self, recipe: CollectionRecipe, round_number: int, progress: Progress | None):
        self._progress = progress
        self._epochs = recipe.epochs_per_round
        self._episodes = recipe.episodes_per_round * _EPISODE_EPOCHS
        self._before = (round_number - 1) * (self._epochs + self._episodes)
        self._total = recipe.num_rounds * (self._epochs + self._episodes)

    def hear_epochs(self, done: int) -> None:
        if self._progress is not None:
            what = "training and collecting in rounds"
            self._progress(what, self._before + done, self._total)

    def hear_steps(self, _: str, done: int, total: int) -> None:
        self.hear_epochs(self._epochs + self._episodes * done // total)


def _as_store(task: str, episodes: Episodes) -> Store:
    """Return episodes in memory as an open file of them."""
    num_episodes, num_rows = episodes.reward.shape
    lengths = np.full(num_episodes, num_rows)
    return Store(
        path=Path(f"episodes of {task}"),
        task=task,
        obs=episodes.obs.reshape(-1, episodes.obs.shape[-1]),
        action=episodes.action.reshape(-1, episodes.action.shape[-1]),
        reward=episodes.reward.reshape(-1),
        episode_lengths=lengths,
        episode_starts=np.cumsum(lengths) - lengths,
        behaviours=episodes.behaviours,
        recipe={},
        fingerprint="",
        remake="",
    )
