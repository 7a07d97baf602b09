"""What is set for a process that trains."""

import ctypes
import subprocess
import sys

import pytest
import torch

from pwmray.devices import set_up_torch

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
