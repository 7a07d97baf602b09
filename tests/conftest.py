"""Settings that must be made before any test imports torch or dm_control."""

import os

# Two threads for tensors this small only wait for each other: minutes on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test here draws; dm_control would look for a screen when it is imported.
os.environ.setdefault("MUJOCO_GL", "disable")
# Commands are printed as they are, whether or not ./run started pytest.
os.environ.pop("PWMRAY_RUN", None)

import signal
from collections import Counter

import pytest
import torch

from pwmray.kernels import build
from tests.held import put_hold

# Begun last, one of them would run alone at the end.
LONGEST_FILES = (
    "test_launch", "test_fault_rounds", "test_slurm_sweeps", "test_hosts", "test_wandb",
    "test_search_on_ray", "test_search",
    "test_disk", "test_drivers", "test_dashboard_in_browser", "test_watchdog", "test_trial",
    "test_reference", "test_update_benchmark", "test_compiling", "test_pretrained",
    "test_many_panels", "test_cost_figures",
)  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give a file's tests to one process (`pytest -n 2`): they share what it set up once."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # they are in order
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(config, items):
    """Put the longest files first where several processes share them, then those of most tests."""
    if not hasattr(config, "workerinput"):
        return
    num_tests = Counter(item.path for item in items)
    ranks = {name: rank for rank, name in enumerate(LONGEST_FILES)}
    last = len(ranks)
    items.sort(key=lambda i: (ranks.get(i.path.stem, last), -num_tests[i.path], i.path))


@pytest.fixture(autouse=True)
def numbers():
    """Give each test torch as it starts: training sets it up for all of the process."""
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(autouse=True)
def signals():
    """Refuse a test after which a signal does what it did not before: to those that follow, too."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    left = [signal.getsignal(number) for number in numbers]
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    assert left == before


@pytest.fixture
def one_machine():
    """Let Ray have one machine of one CPU, for what asks it without a Ray."""
    with pytest.MonkeyPatch.context() as patch:  # a test may undo those of its own
        patch.setattr("pwmray.driver.connect.machines", lambda: [{"CPU": 1.0}])
        yield


@pytest.fixture
def hold(tmp_path):
    """Hold the trials of a `start_held` here, so that none ends before this file is deleted."""
    return put_hold(tmp_path / "results")


@pytest.fixture
def short_episodes(monkeypatch):
    """Evaluate for 50 steps: whole episodes take nine tenths of a tiny trial's time."""
    monkeypatch.setattr("pwmray.algorithm.evaluate.EPISODE_STEPS", 50)


@pytest.fixture
def built_anew(tmp_path, monkeypatch):
    """Give the folder where compiled kernels are kept, still empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build.load.cache_clear()
    yield tmp_path / "cache" / "pwmray"
    build.load.cache_clear()


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
