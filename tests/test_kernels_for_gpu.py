"""The kernels for a GPU, on a CPU by Triton's interpreter; skipped where Triton is not installed.

In processes of their own: Triton reads how it is to run when it is imported.
"""

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="no Triton")

# Every tensor claims to be on a GPU, so that a learner takes the path that it takes there.
PROGRAM = """
import copy, sys
import torch
torch.Tensor.is_cuda = property(lambda self: True)
from pwmray.algorithm import compiling, replay
from tests.test_gpu import UNEVEN, step_difference
from tests.test_reference import make_learner, windows
from pwmray.kernels import adam_gpu, norms_gpu
norms_gpu._NARROW = (1024, 4, 792)  # many rows a program: the interpreter takes one at a time
steps, step = [], adam_gpu.step
adam_gpu.step = lambda *given: steps.append(1) or step(*given)
plain = make_learner(sys.argv[1], **UNEVEN)
ours, before = copy.deepcopy(plain), copy.deepcopy(plain)
compiling.compile_networks(ours, ours.optimizers.values())
replay.prepare_rates(ours.optimizers.values(), torch.device("cpu"))
draws = [torch.Generator().manual_seed(1) for _ in range(2)]
samples = [windows(5), windows(5)]
for epoch in range(2):
    for learner, sample, own in zip((ours, plain), samples, draws):
        learner.update(sample, own, epoch / 2)
assert steps
print(step_difference(ours, plain, before))
"""


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["baseline", "fullflow"])
def test_updates_by_kernels_for_a_gpu_are_the_plain_ones(variant):
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, variant],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5
