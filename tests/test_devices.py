"""What is set for a process that trains."""

import subprocess
import sys

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
