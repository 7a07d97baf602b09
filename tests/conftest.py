"""Fixtures for all tests, after settings that must precede the import of torch or dm_control."""

import os

# Two threads for tensors this small only wait for each other: minutes on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test here draws; dm_control would look for a screen when it is imported.
os.environ.setdefault("MUJOCO_GL", "disable")
# Commands are printed as they are, whether or not ./run started pytest.
os.environ.pop("PWMRAY_RUN", None)

import signal
from collections import Counter
from pathlib import Path

import pytest
import torch

from pwmray import commands
from pwmray.kernels import build
from tests.held import STARTED, put_hold

# A shell has what it starts in the background ignore Ctrl-C, which tests send, also to what they
# start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# What tests start is this checkout, wherever they start it and whatever is installed.
PATHS = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ["PYTHONPATH"] = os.pathsep.join(PATHS)

NUM_THREADS = torch.get_num_threads()
# The longest first: one of them that began last would run alone at the end.
LONGEST_FILES = (
    "test_launch", "test_slurm_sweeps", "test_fault_rounds", "test_search_on_ray", "test_wandb",
    "test_search", "test_dashboard_in_browser", "test_drivers", "test_interruption", "test_disk",
    "test_hosts", "test_watchdog", "test_data_making", "test_prerequisites", "test_trial",
    "test_reference", "test_update_benchmark", "test_compiling", "test_pretrained",
    "test_many_panels", "test_cost_figures",
)  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give all tests of a file to one process (`pytest -n 2`): they share its set-up."""
    from xdist.scheduler import LoadFileScheduling

    class OneAhead(LoadFileScheduling):
        """Give a process its next file as it begins the last test of one, which must know it."""

        def _reschedule(self, node):
            if self._pending_of(self.assigned_work[node]) <= 1:
                super()._reschedule(node)

    config.option.loadscopereorder = False  # they are in order
    return OneAhead(config, log)


def pytest_collection_modifyitems(config, items):
    """Sort the files for several processes: LONGEST_FILES first, then those with most tests."""
    if not hasattr(config, "workerinput"):
        return
    num_tests = Counter(item.path for item in items)
    ranks = {name: rank for rank, name in enumerate(LONGEST_FILES)}
    last = len(ranks)
    items.sort(key=lambda i: (ranks.get(i.path.stem, last), -num_tests[i.path], i.path))


@pytest.fixture(autouse=True)
def numbers():
    """Reset torch's settings of numbers, which training changes for the whole process."""
    torch.set_num_threads(NUM_THREADS)
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(autouse=True)
def signals():
    """Fail a test that leaves a signal handler behind, and restore the handlers."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCONT)
    before = [signal.getsignal(number) for number in numbers]
    hang_up = signal.getsignal(signal.SIGHUP)
    yield
    # Once a process was told to end it ignores SIGHUP; what later tests start would inherit that.
    left_hang_up = signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, hang_up)
    left = [signal.getsignal(number) for number in numbers]
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    assert left == before
    assert left_hang_up in (hang_up, signal.SIG_IGN)


@pytest.fixture(autouse=True)
def python_ends_as_usual():
    """A Ray that hangs as a test leaves it must not end the tests themselves, as if they passed."""
    yield
    was_set = commands.ENDS_AT_ONCE.is_set()
    commands.ENDS_AT_ONCE.clear()
    assert not was_set


@pytest.fixture(autouse=True)
def nothing_goes_on():
    """End the sweeps that a test left as it failed: they would slow down those after it."""
    yield
    while STARTED:
        with STARTED.pop() as process:
            process.kill()


@pytest.fixture
def one_machine():
    """Pretend that Ray has one machine with one CPU, for tests that start no Ray."""
    with pytest.MonkeyPatch.context() as patch:  # of its own: a test may undo its monkeypatch
        patch.setattr("pwmray.driver.connect.machines", lambda: [{"CPU": 1.0}])
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The data of all tiny trials on pendulum-spin, which no test changes."""
    from pwmray.data.collected import ensure_data
    from pwmray.envs.vector import make_vector
    from tests.made_trials import make_config

    config = make_config()
    return ensure_data(config.task, config.data, tmp_path_factory.mktemp("data"), make_vector)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The curves of the tiny sweep's first four trials, in whose way nothing came."""
    from tests.started_sweeps import curves, run

    folder = tmp_path_factory.mktemp("undisturbed")
    code, _, err = run(folder, "--scale", "tiny", "--limit", "4")
    assert code == 0, err
    return curves(folder)


@pytest.fixture
def hold(tmp_path):
    """Make the trials of a `start_held` here wait until this file is deleted."""
    return put_hold(tmp_path / "results")


@pytest.fixture
def short_episodes(monkeypatch):
    """Evaluate for 50 steps: whole episodes would take nine tenths of a tiny trial's time."""
    monkeypatch.setattr("pwmray.algorithm.evaluate.EPISODE_STEPS", 50)


@pytest.fixture
def built_anew(tmp_path, monkeypatch):
    """Return the folder for compiled kernels, which does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build.load.cache_clear()
    yield tmp_path / "cache" / "pwmray"
    build.load.cache_clear()


@pytest.fixture(scope="module")
def browser():
    """Return a real browser for a file's tests; without one they are skipped, or fail."""
    from tests.browser import open_browser

    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def slurm():
    """Yield a real Slurm for a file's tests; without one they are skipped, or fail."""
    from tests.minislurm import start_or_skip

    yield from start_or_skip()
