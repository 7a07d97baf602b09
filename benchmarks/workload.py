"""What `update.py` times: an epoch or a pretraining iteration of ours, and the tests' plain one.

Both sides begin with the same weights and draw the same windows of the same random rows.
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pwmray import flops
from pwmray.algorithm.compiling import compile_networks
from pwmray.algorithm.epoch import make_epoch
from pwmray.algorithm.pretrain import PretrainConfig, Pretrainer
from pwmray.algorithm.pwm import Learner
from pwmray.build import build_learner
from pwmray.config import TrialConfig
from pwmray.data.multitask import MultitaskSampler, split_episodes
from pwmray.data.sampler import WindowSampler
from pwmray.data.store import Store
from pwmray.seeding import generator
from pwmray.tasks import TASKS, find_task

FROZEN, FINETUNED, PRETRAIN = "frozen", "finetuned", "pretrain"
METHODOLOGIES = (FROZEN, FINETUNED, PRETRAIN)
EPOCH_BATCH, PRETRAIN_BATCH = 256, PretrainConfig().batch_size
TASK, NUM_EPISODES, NUM_ROWS = "cheetah-run", 200, 501
NUM_EPISODES_IN_PRETRAINING = 4  # of each task
SEED = 0
REFERENCE = Path(__file__).resolve().parent.parent / "tests" / "reference.py"


@dataclasses.dataclass(frozen=True)
class Case:
    """One update: a variant of a size, and what is trained how."""

    size: str
    variant: str
    methodology: str
    batch_size: int
    wm_iterations: int
    matmul: str
    num_episodes: int = NUM_EPISODES  # of a trial's task

    @property
    def config(self) -> TrialConfig:
        """The trial that would make this update."""
        flat = {
            "task": TASK,
            "seed": SEED,
            "epochs": 1,
            "size": self.size,
            "variant": self.variant,
            "learner.policy_batch_size": self.batch_size,
            "learner.wm_batch_size": self.batch_size,
            "learner.wm_iterations": self.wm_iterations,
            "learner.matmul": self.matmul,
            "world_model_from": "nowhere",  # no file is read: what the weights are costs nothing
            "finetune_wm": self.methodology != FROZEN,
        }
        return TrialConfig.from_flat(flat)

    @property
    def name(self) -> str:
        """A readable name, also for files."""
        return f"{self.size}-{self.variant}-{self.methodology}"

    @cached_property
    def gflop(self) -> float:
        """The operations of one update, 1e9."""
        if self.methodology == PRETRAIN:
            return flops.count_pretraining_flops(self.config, self.batch_size) / 1e9
        return flops.count_update_flops(self.config).total / 1e9


class Side(NamedTuple):
    """One way to make a case's update."""

    update: Callable[[], object]
    module: nn.Module  # what it trains
    kernels: str = "off"  # as epoch.Epoch has them
    cuda_graph: str = "off"


def ours(case: Case, device: torch.device, compiled: bool) -> Side:
    """Return the update as the package makes it."""
    if case.methodology == PRETRAIN:
        return _our_pretraining(case, device, compiled)
    learner = build_learner(case.config).to(device)
    sampler, noise = _sampler(learner, case, device), generator(SEED, "noise", device)
    epoch = make_epoch(learner, sampler, noise, compiled)
    return Side(lambda: epoch(0.0), learner, epoch.kernels, epoch.cuda_graph)


def plain(case: Case, device: torch.device) -> Side:
    """Return the update of the tests' reference."""
    learner = build_learner(case.config).to(device)
    reference = _load_reference()(learner)
    if case.methodology == PRETRAIN:
        return _plain_pretraining(case, learner, reference, device)
    sampler, noise = _sampler(learner, case, device), generator(SEED, "noise", device)
    return Side(lambda: reference.update(sampler.sample, noise, 0.0), learner)


@torch.no_grad()
def difference(found: nn.Module, expected: nn.Module, before: Sequence[Tensor]) -> float:
    """Return how far apart two updates of the same weights `before` came, relative to the step.

    That is the ratio of two sums of absolute values over all weights. The largest difference of one
    of them would tell less, and so would a sum of squares: Adam moves a weight without a gradient
    as the rounding of its gradient happens to be.
    """
    ours, theirs = (
        torch.cat([parameter.flatten().double() for parameter in module.parameters()])
        for module in (found, expected)
    )
    start = torch.cat([parameter.flatten().double() for parameter in before])
    return float((ours - theirs).abs().sum() / (theirs - start).abs().sum())


def random_store(task_name: str, num_episodes: int) -> Store:
    """Return rows without any meaning in memory, with rewards in [0, 1)."""
    task, rng = find_task(task_name), np.random.default_rng(SEED)
    num_rows = num_episodes * NUM_ROWS
    return Store(
        path=Path(f"random rows of {task_name}"),
        task=task_name,
        obs=rng.standard_normal((num_rows, task.obs_dim), np.float32),
        action=np.tanh(rng.standard_normal((num_rows, task.action_dim), np.float32)),
        reward=rng.random(num_rows, np.float32),
        episode_lengths=np.full(num_episodes, NUM_ROWS),
        episode_starts=np.arange(num_episodes) * NUM_ROWS,
        behaviours=("random",) * num_episodes,
        recipe={},
        fingerprint="",
        remake="",
    )


def _sampler(learner: Learner, case: Case, device: torch.device) -> WindowSampler:
    store, windows = random_store(TASK, case.num_episodes), generator(SEED, "windows", device)
    return WindowSampler(store, learner.window_horizon, device, windows, place="memory")


def _our_pretraining(case: Case, device: torch.device, compiled: bool) -> Side:
    config, settings = case.config, PretrainConfig(batch_size=case.batch_size)
    model = build_learner(config).world_model
    pretrainer = Pretrainer(model, _stores(), settings, config.learner, SEED, device)
    kernels = compile_networks(model, [pretrainer.optimizer]) if compiled else "off"
    return Side(lambda: pretrainer.train(1), model, kernels)


def _plain_pretraining(case: Case, learner: Learner, reference: Any, device: torch.device) -> Side:
    # The streams and the split are those of Pretrainer: the comparison of weights would tell.
    stores, draws = _stores(), generator(SEED, "held-out")
    share = PretrainConfig().held_out_share
    episodes = [split_episodes(store, share, draws).training for store in stores]
    windows = generator(SEED, "pretrain-windows", device)
    times = generator(SEED, "pretrain-times", device)
    horizon = learner.config.wm_horizon
    sampler = MultitaskSampler(stores, episodes, horizon, device, windows, place="memory")
    return Side(
        lambda: reference.pretrain(*sampler.sample(case.batch_size), times), learner.world_model
    )


def _stores() -> list[Store]:
    return [random_store(name, NUM_EPISODES_IN_PRETRAINING) for name in TASKS]


@cache
def _load_reference() -> Any:
    """Return the class `Reference`; the tests are no package that a bare machine can import."""
    spec = importlib.util.spec_from_file_location("reference", REFERENCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Reference
