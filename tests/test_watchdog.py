"""A trial that hangs is ended, recorded with where it hung, and resumed."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pwmray import registry, watchdog
from pwmray.registry import Status
from pwmray.watchdog import STACKS_FILE, Watchdog, has_hung, take_stacks
from tests.started_sweeps import curves, trial_statuses

HANGING = Path(__file__).parent / "hanging.py"
# Hangs in C, with Python's lock held. Watched only there: who stands still elsewhere ends, too.
STUCK = """
import re, sys
from pathlib import Path
from pwmray.watchdog import Watchdog
def get_stuck():
    with Watchdog(Path(sys.argv[1]), 0.5):
        re.match(r"(a+)+$", "a" * 60 + "b")
print("alive", flush=True)
get_stuck()
"""


@pytest.fixture
def asked(monkeypatch):
    """Return what watchdogs ask of Python: limits, None for no more, by the time that is `now`.

    Real ones would end the tests' own process wherever it stands still for a moment.
    """

    def watch(limit, file, exit):
        assert exit
        asked.limits.append(limit)

    asked = SimpleNamespace(limits=[], now=1000.0)
    python = SimpleNamespace(
        dump_traceback_later=watch, cancel_dump_traceback_later=lambda: asked.limits.append(None)
    )
    monkeypatch.setattr(watchdog, "faulthandler", python)
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: asked.now))
    return asked


def test_process_that_hangs_in_c_is_ended_and_says_where(tmp_path):
    path = tmp_path / STACKS_FILE
    command = [sys.executable, "-c", STUCK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "alive\n")
    assert has_hung(tmp_path)
    stacks = take_stacks(tmp_path)
    assert stacks.startswith("Timeout (0:00:00.5")
    assert "get_stuck" in stacks
    assert list(tmp_path.iterdir()) == []


def test_limit_grows_with_the_longest_pause_and_ends_with_the_work(tmp_path, asked):
    watched = Watchdog(tmp_path / STACKS_FILE, 0.2)
    with watched:
        for pause in (0.1, 0.4, 0.3):
            asked.now += pause
            watched.beat()
    assert asked.limits == pytest.approx([0.2, 1.0, 4.0, 4.0, None])
    assert not has_hung(tmp_path)
    watched.close()
    assert not has_hung(tmp_path)
    assert take_stacks(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_beats_in_quick_succession_cost_no_thread_each(tmp_path, asked):
    with Watchdog(tmp_path / STACKS_FILE, 30.0) as watched:
        for _ in range(7):
            asked.now += 0.3
            watched.beat()
    assert asked.limits == pytest.approx([30.0, 30.0, None])


def test_sign_of_life_after_the_work_starts_no_watch(tmp_path, asked):
    with Watchdog(tmp_path / STACKS_FILE, 0.2) as watched:
        pass
    asked.now += 0.3
    watched.beat()  # as what a trial still writes then, in a process that goes on
    assert asked.limits == [0.2, None]
    watched.close()
    assert asked.limits == [0.2, None, None]


@pytest.mark.slow
def test_trial_that_hangs_is_resumed_while_the_others_go_on(tmp_path, undisturbed):
    done = subprocess.run(
        [sys.executable, str(HANGING)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert trial_statuses(tmp_path) == ["EVALUATED"] * 4
    records = [registry.read(path) for path in (tmp_path / "results" / "trials").iterdir()]
    (record,) = [record for record in records if record.count(Status.FAILED)]
    assert (record.last("failure"), record.last("retry")) == ("hang", "hang")
    assert record.last("reason") == "it hung: no sign of life for 0:00:30"
    assert "in step" in record.last("traceback")
    assert "after hang" in done.stdout
    assert not list((tmp_path / "results").rglob(".*.tmp"))
    assert curves(tmp_path) == undisturbed
