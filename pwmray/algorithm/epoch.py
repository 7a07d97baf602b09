"""How an epoch is run: as it is written, its networks compiled, recorded as a CUDA graph."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from pwmray.algorithm import replay
from pwmray.algorithm.compiling import compile_networks
from pwmray.algorithm.pwm import Learner, Metrics
from pwmray.data.sampler import WindowSampler


class Epoch(NamedTuple):
    """What runs one epoch, called with the share of the trial's epochs done, and how.

    `kernels` and `cuda_graph` are on, off, or `off: ` and why what was asked for cannot be.
    """

    run: Callable[[float], Metrics]
    kernels: str
    cuda_graph: str

    def __call__(self, progress: float) -> Metrics:
        return self.run(progress)


def make_epoch(
    learner: Learner,
    sampler: WindowSampler,
    noise: torch.Generator,
    compiled: bool = False,
    recorded: bool = True,
) -> Epoch:
    """Return what runs one epoch of `learner`: its `update`, as fast as this machine can.

    `noise` is the generator of `update`. Networks are compiled if `compiled`; on a GPU the epoch
    is recorded unless `recorded` is False. What cannot be done is left out and said in the log.
    The learner, its optimizers and the generators are afterwards as they were, but for what
    `set_schedules` sets, and every epoch anew.
    """
    kernels = compile_networks(learner, learner.optimizers.values()) if compiled else "off"

    def work() -> Metrics:
        return learner.run_epoch(sampler.sample, noise)

    replayed = replay.Replay(work, "off")
    if recorded:
        optimizers, generators = list(learner.optimizers.values()), [noise, sampler.generator]
        replayed = replay.replayed_on_gpu(
            work, learner, optimizers, generators, sampler.is_mapped, learner.set_schedules
        )

    def epoch(progress: float) -> Metrics:
        learner.set_schedules(progress)
        return replayed.run()

    return Epoch(epoch, kernels, replayed.cuda_graph)
