"""An epoch recorded and replayed: state, fallback, and the comparison that decides.

A recording needs a GPU; here others stand in for it, a faithful one and faulty ones.
"""

import contextlib
import copy
import dataclasses
import gc
import logging
import weakref

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from pwmray.algorithm import replay
from pwmray.algorithm.epoch import make_epoch
from pwmray.build import build_learner
from pwmray.config import TrialConfig
from pwmray.kernels import branches
from pwmray.variants import VARIANTS
from tests.learners import CHANGES, make_learner, windows
from tests.tiny import SETTINGS

EPOCHS = (0.0, 0.25, 0.5, 0.75)


def faithful(work, generators):
    return work


def broken(work, generators):
    raise RuntimeError("operation not permitted\nwhen stream is capturing")


def idle(work, generators):
    """Return a recording that holds the metrics and changes nothing."""
    metrics = {name: value.clone() for name, value in work().items()}
    return lambda: metrics


def stale_rates(work, generators):
    """Return what a recording would be whose learning rates were numbers, not tensors."""

    def run():
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = torch.tensor(1e-3)
        return work()

    optimizers = stale_rates.optimizers
    return run


class Setup:
    """A learner, its draws, and the work of an epoch."""

    def __init__(self, variant="fullflow"):
        self.learner = make_learner(variant)
        self.draws = torch.Generator().manual_seed(7)
        self.windows = torch.Generator().manual_seed(8)
        self.optimizers = list(self.learner.optimizers.values())

    def work(self):
        sample = windows(int(torch.randint(2**31, (), generator=self.windows)))
        return self.learner.run_epoch(sample, self.draws)

    def replayed(self, record, **more):
        tensors = [*self.learner.parameters(), *self.learner.buffers()]
        generators = [self.draws, self.windows]
        given = (self.work, self.optimizers, tensors, generators)
        self.made = replay.replayed(*given, [record], **more)
        return self.made.run

    def train(self, run):
        for progress in EPOCHS:
            self.learner.set_schedules(progress)
            metrics = run()
        return metrics


def state_of(setup):
    return {
        "learner": copy.deepcopy(setup.learner.state_dict()),
        "adam": [t.clone() for t in replay.optimizer_tensors(setup.optimizers)],
        "draws": [setup.draws.get_state(), setup.windows.get_state()],
    }


@pytest.mark.parametrize("record", [faithful, broken, idle])
@pytest.mark.parametrize("begun", [False, True], ids=["fresh", "resumed"])
def test_training_is_the_same_with_and_without_a_recording(record, begun):
    plain, other = Setup(), Setup()
    for setup in (plain, other) if begun else ():
        setup.train(setup.work)

    expected = plain.train(plain.work)
    found = other.train(other.replayed(record))

    # A rate in a tensor is rounded to float32.
    assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert_close(state_of(other), state_of(plain), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("record", [faithful, broken])
def test_making_a_recording_changes_nothing(record):
    setup = Setup()
    setup.train(setup.work)
    before = state_of(setup)
    setup.replayed(record)
    assert_close(state_of(setup), before, rtol=0, atol=0)


def test_recording_that_fails_is_named_in_one_line(caplog):
    setup = Setup()
    setup.replayed(broken)
    (record,) = caplog.records
    assert record.getMessage() == (
        "cuda_graph=off: operation not permitted when stream is capturing"
    )
    assert setup.made.cuda_graph == "off: operation not permitted when stream is capturing"


def test_recording_that_memory_was_short_for_says_so(caplog):
    def short(work, generators):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    setup = Setup()
    assert setup.replayed(short) == setup.work
    assert setup.made.cuda_graph == "off: CUDA out of memory. Tried to allocate 20.00 MiB."
    assert "cuda_graph=off: CUDA out of memory" in caplog.text


def test_recording_that_computes_something_else_is_not_used(caplog):
    setup = Setup()
    run = setup.replayed(idle)
    assert run == setup.work
    assert "a replay differs from an ordinary epoch by" in caplog.text


@pytest.mark.parametrize(
    ("record_in_turn", "said"),
    [(faithful, "partly off: no branches"), (broken, "off: no branches")],
)
def test_epoch_whose_branches_cannot_be_recorded_is_recorded_in_turn(
    record_in_turn, said, monkeypatch, caplog
):
    def record(work, generators):
        with branches.Beside(torch.device("cuda")):
            return record_in_turn(work, generators)

    def fail(device, name):
        raise RuntimeError("no branches")

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(branches, "_side_stream", fail)
    monkeypatch.setattr(replay, "record_graph", record)
    setup = Setup()
    tensors = [*setup.learner.parameters(), *setup.learner.buffers()]
    given = (setup.work, setup.optimizers, tensors, [setup.draws, setup.windows])
    records = (replay.record_graph, replay.record_in_turn)
    made = replay.replayed(*given, records, setup.learner.set_schedules)
    assert made == (setup.work, said)
    assert [r.getMessage() for r in caplog.records] == [f"cuda_graph={said}"]
    with pytest.raises(RuntimeError, match="no branches"):
        branches.Beside(torch.device("cuda"))  # as before


def test_recording_with_a_number_where_a_rate_should_be_is_found_out(caplog):
    setup = Setup()
    stale_rates.optimizers = setup.optimizers
    setup.learner.set_schedules(0.9)
    assert setup.replayed(stale_rates) == setup.work
    assert "a replay differs" in caplog.text


def test_recording_with_a_number_in_place_of_what_a_schedule_sets_is_found_out(caplog):
    setup = Setup()

    def set_penalty(progress):
        setup.learner.action_penalty.fill_(1 - progress)

    def with_number(work, generators):
        recorded = setup.learner.action_penalty.item()

        def run():
            setup.learner.action_penalty.fill_(recorded)
            return work()

        return run

    setup.learner.config = dataclasses.replace(setup.learner.config, action_penalty=1.0)
    assert setup.replayed(with_number, schedule=set_penalty) == setup.work
    assert "a replay differs" in caplog.text
    setup.replayed(faithful, schedule=set_penalty)
    assert setup.made.cuda_graph == "on"


def test_recording_that_is_used_says_how_far_it_is_from_an_ordinary_epoch(caplog):
    caplog.set_level(logging.INFO)
    setup = Setup()
    setup.replayed(faithful)
    assert "cuda_graph=on difference=0.0e+00" in caplog.text
    assert setup.made.cuda_graph == "on"


def test_rates_of_a_recording_are_tensors_that_schedules_fill():
    setup = Setup()
    setup.replayed(faithful)
    rate = setup.learner.optimizers["actor"].param_groups[0]["lr"]
    setup.learner.set_schedules(0.5)
    first, last = setup.learner.config.actor_lr, setup.learner.config.final_lr
    assert rate.item() == pytest.approx((first + last) / 2)


def test_file_of_a_recorded_run_has_plain_numbers():
    setup = Setup()
    setup.train(setup.replayed(faithful))
    (group,) = replay.portable_state(setup.learner.optimizers["critic"])["param_groups"]
    assert type(group["lr"]) is float
    assert group["capturable"] is False


def test_rates_are_plain_numbers_again_where_a_recording_failed():
    setup = Setup()
    setup.replayed(broken)
    for optimizer in setup.optimizers:
        (group,) = optimizer.param_groups
        assert (type(group["lr"]), group["capturable"]) == (float, False)


def test_epoch_on_a_cpu_is_the_update():
    plain, other = make_learner("baseline"), make_learner("baseline")
    epoch = make_epoch(other, Windows(), torch.Generator().manual_seed(1))
    draws, same = torch.Generator().manual_seed(1), Windows()
    for progress in EPOCHS:
        assert_close(epoch(progress), plain.update(same.sample, draws, progress), rtol=0, atol=0)


class Windows:
    """A sampler without files behind it."""

    is_mapped = False

    def __init__(self):
        self.sample, self.generator = windows(3), torch.Generator()


class Forbidden(TorchDispatchMode):
    """Refuse what would wait for a GPU, or move numbers to it, in the middle of an epoch."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "lift_fresh")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        assert name not in self.WAITING, f"{name} would wait for the device"
        entries = args[1] if name in ("index", "index_put_") else ()
        assert not any(e is not None and e.dtype == torch.bool for e in entries), "entries by mask"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("fidelity", ["corrected", "published"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_in_an_epoch_waits_for_the_device(variant, fidelity):
    flat = {"variant": variant, "task": "reacher-easy", "seed": 3, "epochs": 1}
    flat |= {**SETTINGS, **CHANGES, "fidelity": fidelity, "world_model.wrap_angles": True}
    learner = build_learner(TrialConfig.from_flat(flat))
    sample, draws = windows(3), torch.Generator().manual_seed(1)
    learner.update(sample, draws, 0.0)  # the optimizers' first step makes their state
    learner.set_schedules(0.5)
    batches = {size: sample(size) for size in (16,)}
    with Forbidden():
        learner.run_epoch(batches.__getitem__, draws)


@pytest.mark.parametrize("is_mapped", [False, True])
def test_on_a_cpu_nothing_is_recorded_and_nothing_said(is_mapped, caplog):
    setup = Setup()
    generators = [setup.draws, setup.windows]
    made = replay.replayed_on_gpu(
        setup.work, setup.learner, setup.optimizers, generators, is_mapped
    )
    assert made == (setup.work, "off")
    assert not caplog.messages


def test_nothing_of_the_ordinary_epochs_is_alive_when_recording_begins():
    """A node of autograd that lived on would hold their stream: the recording would fail."""
    setup = Setup()
    parameters = list(setup.learner.parameters())

    def node(parameter):
        return parameter.view_as(parameter).grad_fn.next_functions[0][0]

    def record(work, generators):
        for parameter in parameters:
            node(parameter).metadata["alive"] = True
        assert not any("alive" in node(parameter).metadata for parameter in parameters)
        return work

    setup.replayed(record)


class Graph:
    """What `record_graph` needs of a CUDA graph."""

    def register_generator_state(self, generator):
        pass

    def replay(self):
        pass


class Stream:
    def wait_stream(self, other):
        pass


def test_what_a_recording_reads_lives_as_long_as_it_does(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: contextlib.nullcontext())
    setup = Setup()
    recorded, seen = replay.record_graph(setup.work, [setup.draws]), weakref.ref(setup)
    assert recorded().keys() == setup.work().keys()
    del setup
    gc.collect()
    assert seen() is not None
    del recorded
    gc.collect()
    assert seen() is None
