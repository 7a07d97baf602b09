"""Settings that must be made before any test imports torch or dm_control."""

import os

# Two threads for tensors this small only wait for each other: minutes on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test here draws; dm_control would look for a screen when it is imported.
os.environ.setdefault("MUJOCO_GL", "disable")

import pytest
import torch


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give a file's tests to one process (`pytest -n 2`): they share what it set up once."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


@pytest.fixture(autouse=True)
def numbers():
    """Give each test torch as it starts: training sets it up for all of the process."""
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="module")
def browser():
    """Give a file's tests a real browser; where there is none they are skipped, or fail."""
    from tests.browser import open_browser

    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def slurm():
    """Give a file's tests a real Slurm; where there is none they are skipped, or fail."""
    from tests.minislurm import start_or_skip

    yield from start_or_skip()
