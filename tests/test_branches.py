"""What a recording runs side by side, on a pretended GPU: nothing touches what others still use.

Of two launches that share memory, one of them writing, one must come after the other. Nor may
memory be given away too early: torch hands what is free to whoever asks next on the stream that had
it, even while a launch on another stream has yet to read it.
"""

import ast
import collections
import contextlib
import functools
import inspect
import textwrap
from typing import NamedTuple

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.workload import random_store
from pwmray.data.sampler import WindowSampler
from pwmray.kernels import branches
from pwmray.kernels.branches import Beside
from pwmray.precision import BFLOAT16, FLOAT32
from tests.pretended_gpu import (
    GPU,
    NUM_EPISODES,
    TASK,
    Branch,
    Kernel,
    is_step,
    is_view,
    make_pretrainer,
    on_gpu,
    pretend,
)

FROZEN = {"world_model_from": "nowhere", "finetune_wm": False}


class Stream(NamedTuple):
    name: str


class Block:
    """A place in memory: the stream that asked for it, and who used it since it was written."""

    def __init__(self, storage, stream=None):
        self.storage = StorageWeakRef(storage)
        self.stream = stream  # None: it was there before
        self.written, self.read = [], []  # the last launch that wrote, and those that read since


class Memory(TorchDispatchMode):
    """Follow the device's memory from launch to launch; `races` are pairs that are not safe."""

    def __init__(self):
        super().__init__()
        self.races = collections.Counter()
        self._blocks = {}  # by identity of storage
        self._free = collections.defaultdict(list)  # by stream

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        found = None if is_step(function) else function(*args, **kwargs)
        if is_view(function):
            return found
        arguments = function._schema.arguments
        given = dict(zip((a.name for a in arguments), args, strict=False)) | kwargs
        written = {a.name for a in arguments if a.alias_info and a.alias_info.is_write}
        launch = Branch.streams.launch(), name
        self._use(launch, given, written)
        made = [s for s in list_storages(found) if s._cdata not in self._blocks]
        for storage in made:
            self._give(launch, storage)
        if "empty" not in name:
            self._use(launch, {"": found}, {""})
        return found

    def hear(self, kernel, launch, given):
        """Follow a launch of a kernel of our own."""
        name = kernel.function.__name__
        self._use((launch, name), given, list_written(kernel.function))

    def _use(self, launch, given, written):
        self._sweep()
        blocks = {}
        for argument, value in given.items():
            for storage in list_storages(value):
                block = self._blocks.setdefault(storage._cdata, Block(storage))
                blocks[block] = blocks.get(block, False) or argument in written
        for block, is_written in blocks.items():
            self._check("use", launch, [*block.written, *block.read * is_written])
            if is_written:
                block.written, block.read = [launch], []
            else:
                block.read.append(launch)

    def _give(self, launch, storage):
        """Follow a place that is given to a new tensor: any that is free on its stream."""
        stream = Branch.streams.name
        self._blocks[storage._cdata] = Block(storage, stream)
        for block in self._free.pop(stream, ()):
            if not self._check("memory", launch, block.written + block.read):
                self._free[stream].append(block)

    def _check(self, what, launch, others):
        unsafe = [other for other in others if not Branch.streams.know(other[0])]
        self.races.update((what, launch[1], other[1]) for other in unsafe)
        return not unsafe

    def _sweep(self):
        for key in [key for key, block in self._blocks.items() if block.storage.expired()]:
            block = self._blocks.pop(key)
            self._free[block.stream].append(block)


def list_storages(value):
    tensors = [t for t in tree_leaves(value) if isinstance(t, torch.Tensor) and t.device == GPU]
    return [tensor.untyped_storage() for tensor in tensors]


@functools.cache
def list_written(function):
    """Return the parameters of a kernel into which it stores, itself or through another one."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    origins = {a.arg: {a.arg} for a in tree.args.args}  # the parameters that a name comes from

    def find(node):
        names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
        return set().union(*(origins.get(name, ()) for name in names))

    written = set()
    nodes = [node for node in ast.walk(tree) if hasattr(node, "lineno")]
    for node in sorted(nodes, key=lambda node: node.lineno):
        if isinstance(node, ast.Assign):
            for target in (n for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)):
                origins[target.id] = origins.get(target.id, set()) | find(node.value)
        if isinstance(node, ast.Call):
            written |= set().union(*map(find, list_stored(node, function)))
    return written


def list_stored(call, function):
    """Return those arguments of a call into which it stores."""
    if isinstance(call.func, ast.Attribute):
        return call.args[:1] if call.func.attr in ("store", "atomic_add") else []
    inner = function.__globals__.get(call.func.id)
    if not isinstance(inner, Kernel):
        return []
    written = list_written(inner.function)
    given = zip(inspect.signature(inner.function).parameters, call.args, strict=False)
    by_name = ((keyword.arg, keyword.value) for keyword in call.keywords)
    return [value for name, value in [*given, *by_name] if name in written]


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    pretend(monkeypatch)


@pytest.fixture
def races(monkeypatch):
    def races(work):
        memory = Memory()
        monkeypatch.setattr(Kernel, "hear", memory.hear)
        with memory:
            work()
        known = Branch.streams.known
        assert all(known["epoch"][name] == known[name][name] for name in known)  # all are joined
        return dict(memory.races)

    return races


@pytest.mark.parametrize(
    ("variant", "settings"),
    [
        ("baseline", {"learner.matmul": BFLOAT16}),
        ("fullflow", {"learner.matmul": BFLOAT16}),
        ("baseline", {"learner.matmul": BFLOAT16, **FROZEN}),
        ("fullflow", {"learner.matmul": FLOAT32, **FROZEN}),
        ("flowpolicy", {"learner.matmul": FLOAT32, "fidelity": "published"}),
        ("flowwm", {"learner.matmul": BFLOAT16, "fidelity": "published"}),
    ],
)
def test_epoch_keeps_what_runs_side_by_side_apart(variant, settings, races):
    learner, draws = on_gpu(variant, **settings), torch.Generator()
    store, horizon = random_store(TASK, NUM_EPISODES), learner.window_horizon
    sampler = WindowSampler(store, horizon, GPU, draws, place="memory")
    assert races(lambda: learner.run_epoch(sampler.sample, draws)) == {}
    assert len(Branch.streams.known) > 1


@pytest.mark.parametrize("variant", ["baseline", "fullflow"])
def test_pretraining_keeps_what_runs_side_by_side_apart(variant, races, monkeypatch):
    learner = on_gpu(variant, **{"learner.matmul": BFLOAT16})
    pretrainer = make_pretrainer(monkeypatch, learner, 8)
    assert races(pretrainer._step) == {}
    assert len(Branch.streams.known) > 1


@pytest.mark.parametrize("is_joined", [False, True])
def test_result_that_is_used_before_the_branch_is_joined_is_found(is_joined, races):
    def work():
        with Beside(GPU) as beside:
            x = torch.ones(3, device=GPU)
        if is_joined:
            beside.join()
        x.neg()
        beside.join()

    assert races(work) == ({} if is_joined else {("use", "neg", "ones"): 1})


@pytest.mark.parametrize("is_joined", [False, True])
def test_change_of_what_a_branch_reads_is_found(is_joined, races):
    def work():
        x = torch.ones(3, device=GPU)
        with Beside(GPU) as beside:
            x.neg()
        if is_joined:
            beside.join()
        x.add_(1)
        beside.join()

    assert races(work) == ({} if is_joined else {("use", "add_", "neg"): 1})


@pytest.mark.parametrize("is_kept", [False, True])
def test_memory_that_is_given_away_while_a_branch_reads_it_is_found(is_kept, races):
    def work():
        x = torch.ones(3, device=GPU)
        with Beside(GPU) as beside:
            x.neg()
        kept = x
        if not is_kept:
            del kept, x
        torch.empty(3, device=GPU)
        beside.join()

    assert races(work) == ({} if is_kept else {("memory", "empty", "neg"): 1})


def test_branch_begins_after_what_came_before_it_and_ends_where_it_is_joined(monkeypatch):
    monkeypatch.undo()  # the class itself, where something is recorded
    told, current = [], [Stream("epoch")]

    @contextlib.contextmanager
    def on(stream):
        current.append(stream)
        yield
        current.pop()

    def wait(one, other):
        told.append((one, other))

    monkeypatch.setattr(Stream, "wait_stream", wait, raising=False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(branches, "_side_stream", lambda device, name: Stream(name))
    with Beside(torch.device("cuda"), "side") as beside:
        told.append(current[-1])
    told.append(current[-1])
    beside.join()
    epoch, side = Stream("epoch"), Stream("side")
    assert told == [(side, epoch), side, epoch, (epoch, side)]
