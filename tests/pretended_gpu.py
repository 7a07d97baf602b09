"""A GPU where there is none: torch's meta device, whose tensors have no numbers, and no Triton.

Functions that do nothing stand in for Triton's kernels. What a recording would run side by side
runs one after the other, but `streams` knows what comes after what.
"""

import collections
import contextlib
import importlib
import inspect
import sys
import types

import pytest
import torch
from torch.utils._pytree import tree_leaves

from benchmarks.workload import random_store
from pwmray import kernels
from pwmray.algorithm import agreement, pretrain, replay
from pwmray.algorithm.clipped_step import Adam
from pwmray.algorithm.compiling import compile_networks, reason_against
from pwmray.kernels import branches
from tests.learners import UNEVEN, make_learner

GPU = torch.device("meta")
TASK, NUM_EPISODES = "reacher-easy", 4
IN_TRITON = (
    "rows_gpu", "norms_gpu", "values_gpu", "adam_gpu", "flow_gpu", "action_gpu", "losses_gpu",
)  # fmt: skip
SETTINGS = {**UNEVEN, "learner.horizon": 2, "learner.wm_horizon": 2, "learner.wm_iterations": 1}


class Streams:
    """Streams of a recording, and how many launches of each every one comes after.

    These are vector clocks: a launch comes after another exactly if its stream knows of it.
    """

    def __init__(self):
        self.names = ["epoch"]  # within branches of branches
        self.known = collections.defaultdict(collections.Counter)
        self.in_turn = collections.Counter()  # the longest chain of launches that ends on each
        self.joined = {}  # where in the epoch's chain each branch was joined first

    @property
    def name(self):
        return self.names[-1]

    def launch(self):
        """Return the stream of one more launch, and its number there."""
        self.known[self.name][self.name] += 1
        self.in_turn[self.name] += 1
        return self.name, self.known[self.name][self.name]

    def wait(self, one, other):
        self.known[one] |= self.known[other]
        self.in_turn[one] = max(self.in_turn[one], self.in_turn[other])

    def know(self, launch):
        """Tell whether the next launch comes after that one."""
        stream, number = launch
        return self.known[self.name][stream] >= number


class Branch:
    """What stands in for `branches.Beside`."""

    streams = Streams()

    def __init__(self, device, name=""):
        self.name = name

    def __enter__(self):
        assert self.name not in Branch.streams.names
        Branch.streams.wait(self.name, Branch.streams.name)
        Branch.streams.names.append(self.name)
        return self

    def __exit__(self, *error):
        Branch.streams.names.pop()

    def join(self):
        Branch.streams.joined.setdefault(self.name, Branch.streams.in_turn["epoch"])
        Branch.streams.wait(Branch.streams.name, self.name)


class Kernel:
    """A kernel that looks at what it is given, and at the grid."""

    num_calls = 0
    hear = staticmethod(lambda kernel, launch, given: None)  # called for each launch

    def __init__(self, function):
        self.function = function
        self._signature = inspect.signature(function)

    def __getitem__(self, grid):
        assert all(isinstance(size, int) and size > 0 for size in grid)
        return self

    def __call__(self, *given, num_warps=4):
        bound = self._signature.bind(*given)
        tensors = [t for t in tree_leaves(given) if isinstance(t, torch.Tensor)]
        assert all(t.is_cuda and t.is_contiguous() for t in tensors)
        Kernel.num_calls += 1
        Kernel.hear(self, Branch.streams.launch(), bound.arguments)


def is_view(function):
    """Tell whether an operation is no kernel: it returns the memory that it is given."""
    return function.is_view or function.overloadpacket.__name__ in ("detach", "_unsafe_view")


def is_step(function):
    """Tell whether an operation is torch's step of Adam, which the device does not know."""
    return function.overloadpacket is torch.ops.aten._fused_adam_


def next_power_of_2(number):
    return 1 << (number - 1).bit_length()


def pretend(monkeypatch):
    """Let the meta device pass for a GPU with Triton, until the test ends."""
    triton, language = types.ModuleType("triton"), types.ModuleType("triton.language")
    triton.jit, triton.language = Kernel, language
    triton.cdiv, triton.next_power_of_2 = lambda a, b: -(-a // b), next_power_of_2
    language.constexpr = lambda value: value
    for name in IN_TRITON:
        path = f"{kernels.__name__}.{name}"
        monkeypatch.setitem(sys.modules, path, None)  # all to be put back
        monkeypatch.setattr(kernels, name, None, raising=False)
        del sys.modules[path]
        with pytest.MonkeyPatch.context() as alone:  # torch looks for Triton, too
            alone.setitem(sys.modules, "triton", triton)
            alone.setitem(sys.modules, "triton.language", language)
            importlib.import_module(path)
    is_on = [False]

    @contextlib.contextmanager
    def autocast(device_type, dtype=None, enabled=True):
        is_on.append(enabled)
        yield
        is_on.pop()

    monkeypatch.setattr(torch, "autocast", autocast)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: is_on[-1])
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda _: torch.bfloat16)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda t: t.device.type == GPU.type))
    reason_against(GPU)  # it calls a kernel, the first time in a process
    monkeypatch.setattr(Kernel, "num_calls", 0)
    monkeypatch.setattr(Branch, "streams", Streams())
    for name in ("__init__", "__enter__", "__exit__", "join"):
        monkeypatch.setattr(branches.Beside, name, getattr(Branch, name))
    monkeypatch.setattr(agreement, "checks", lambda *_: {})  # of numbers, which there are none of


def on_gpu(variant, **settings):
    """A learner on the device, whose optimizers have made a step, as a recording finds it."""
    with GPU:
        learner = make_learner(variant, **SETTINGS, **settings)
    optimizers = list(learner.optimizers.values())
    assert compile_networks(learner, optimizers) == "on"
    begin(optimizers)
    return learner


def begin(optimizers: list[Adam]):
    replay.prepare_rates(optimizers, GPU)
    for optimizer in optimizers:
        for parameter in optimizer.param_groups[0]["params"]:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.zeros((), device=GPU), **moments}


def make_pretrainer(monkeypatch, learner, batch_size):
    """A pretraining of the learner's world model, whose optimizer has made a step."""
    make = pretrain.generator  # the device has no generators of its own
    monkeypatch.setattr(pretrain, "generator", lambda seed, name, device=None: make(seed, name))
    settings = pretrain.PretrainConfig(batch_size=batch_size, held_out_share=0.3)
    stores, config = [random_store(TASK, NUM_EPISODES)] * 2, learner.config
    pretrainer = pretrain.Pretrainer(learner.world_model, stores, settings, config, 0, GPU)
    assert compile_networks(pretrainer.model, [pretrainer.optimizer]) == "on"
    begin([pretrainer.optimizer])
    return pretrainer
