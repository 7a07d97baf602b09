"""What is set for a process that trains."""

import ctypes
import subprocess
import sys

import pytest
import torch

from pwmray import precision
from pwmray.devices import set_up_torch
from pwmray.driver import connect

GPU = torch.device("cuda")

# Page faults of a block of 64 MiB freed and taken again: glibc alone maps it anew each time. The
# heap finds room for it in the first rounds.
PROGRAM = """
import resource, torch
from pwmray.devices import set_up_torch
set_up_torch(torch.device("cpu"), 1)
for _ in range(5):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_large_blocks_are_kept_for_the_next_use():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1000  # of 16,384


@pytest.mark.parametrize(
    ("most", "calls"),  # most: the largest mmap threshold (-3) that the C library takes
    [
        (2**30, [(-3, 2**30), (-1, 2**30)]),
        (2**25, [(-3, 2**30), (-3, 2**25), (-1, 2**30)]),
        (0, [(-3, 2**30), (-3, 2**25)]),
    ],
)
def test_freed_blocks_are_kept_by_every_c_library_as_far_as_it_goes(most, calls, monkeypatch):
    made = []

    class Library:
        @staticmethod
        def mallopt(what, size):
            made.append((what, size))
            return int(what != -3 or size <= most)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library)
    set_up_torch(torch.device("cpu"), torch.get_num_threads())
    assert made == calls


@pytest.fixture
def gpu(monkeypatch):
    """A GPU as far as `set_up_torch` looks: what it asks of its memory, in turn."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append("empty_cache"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", asked.append)
    monkeypatch.setattr(precision, "set_matmul", lambda *_: None)
    return asked


def test_trial_on_a_gpu_begins_without_the_memory_of_the_one_before_it(gpu):
    set_up_torch(GPU, torch.get_num_threads())
    assert gpu == ["empty_cache", GPU]


def test_memory_of_a_gpu_that_nothing_has_used_is_left_alone(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    set_up_torch(GPU, torch.get_num_threads())
    assert not gpu


OLD = "The NVIDIA driver on your system is too old (found version 12020).\nPlease update it."


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError(OLD), "is too old (found version 12020). Please update it.; install"),
        (AssertionError("Torch not compiled with CUDA enabled"), "not compiled with CUDA enabled"),
        (None, "it finds none"),
    ],
)
def test_gpu_that_torch_cannot_use_is_named_in_one_line(error, said, monkeypatch):
    def init():
        if error:
            raise error

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    start = f"torch {torch.__version__} cannot use the GPU that Ray found here: "
    for begin in (
        lambda: set_up_torch(GPU, torch.get_num_threads()),
        lambda: connect.check_gpus(None, {"CPU": 2.0, "GPU": 1.0}),
    ):
        with pytest.raises(ValueError) as caught:
            begin()
        assert str(caught.value).startswith(start)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_driver_leaves_the_gpus_of_a_cluster_to_the_trials(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    connect.check_gpus("host:6379", {"GPU": 8.0})
    connect.check_gpus(None, {"CPU": 2.0})
