"""How an epoch is run: as written, with compiled networks, recorded as a CUDA graph."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from pwmray.algorithm import replay
from pwmray.algorithm.compiling import compile_networks
from pwmray.algorithm.pwm import Learner, Metrics
from pwmray.data.sampler import WindowSampler


class Epoch(NamedTuple):
    """Runs one epoch when called with the share of the trial's epochs done, and says how.

    `kernels` and `cuda_graph` are "on", "off", or "off: " and why it is not on, as was asked;
    either may be "partly off: ", too.
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
    """Return a function that does what `learner.update` does, as fast as this machine can.

    `noise` is the generator of `update`. `compiled` asks for kernels, `recorded` for a CUDA graph
    on a GPU; what cannot be done is left out, and the log says why. Leaves the learner, its
    optimizers and the generators as they were, except for what `set_schedules` sets at each epoch.
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
