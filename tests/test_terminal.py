"""Commands in a terminal, which print otherwise than into a file."""

import re
import signal
from pathlib import Path

import pytest

from pwmray.registry import Status
from pwmray.registry import read as read_record
from pwmray.results import read_table
from tests.terminal import Terminal

ROOT = Path(__file__).parents[1]
TINY, SEARCH = (ROOT / "tests" / name for name in ("tiny.py", "tiny_search.py"))
# Says that it works, then works until it is ended; what it prints then is printed nowhere.
WORKING = """
import sys, time
from pwmray.commands import run_command
from pwmray.driver.interruption import Interruption
def work():
    with Interruption():
        try:
            print("working", flush=True)
            while True:  # in pieces: a signal just before a sleep is heeded after it
                time.sleep(0.05)
        finally:
            for stream in (sys.stdout, sys.stderr):
                print("ending", file=stream, flush=True)
            open("ended", "w")
sys.exit(run_command(work))
"""
# Goes on when its terminal is closed, as in the background of one, until it prints elsewhere.
STAYING = """
import os, signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from pwmray.driver.interruption import Interruption
nowhere = os.open(os.devnull, os.O_RDONLY)
with Interruption() as interruption:
    print("working", flush=True)
    while not os.path.sameopenfile(1, nowhere):
        time.sleep(0.05)
        getattr(interruption, sys.argv[1])()
    print("done", flush=True)
"""
SHOWING = """
import time
from pwmray.commands import show_progress
with show_progress("data") as show:
    show("training and collecting in rounds, 30 tasks", 1, 2)
    time.sleep(100)
"""
ONCE = """
from pwmray.commands import show_progress
with show_progress("data") as show:
    show("all", 1, 2)
"""
BACKGROUND = f"""
import subprocess, sys
sys.exit(subprocess.run([sys.executable, "-c", {ONCE!r}], process_group=0).returncode)
"""
INTO_FILE = """
import os
from pwmray.commands import show_progress
os.dup2(os.open("file", os.O_WRONLY | os.O_CREAT), 1)
with show_progress("data") as show:
    print("a line")
"""


def statuses(folder):
    return read_table(folder / "results" / "tiny" / "trials.arrow")["status"].to_pylist()


@pytest.mark.parametrize(("columns", "width"), [(40, 80), (80, 80), (200, 100)])
def test_summary_is_as_wide_as_its_terminal_within_what_can_be_read(tmp_path, columns, width):
    command = ROOT / "analysis" / "summarize.py", "phase6_epochs", "--results"
    tables = ROOT / "docs" / "phase6_laptop" / "tables"
    with Terminal(tmp_path, *command, tables, columns=columns) as terminal:
        assert terminal.wait() == 0
    assert max(map(len, terminal.text.splitlines())) == width


@pytest.mark.slow
def test_sweep_in_a_terminal_shows_what_runs_and_what_is_done(tmp_path):
    with Terminal(tmp_path, TINY, "--limit", "2", "--wandb", "off") as terminal:
        assert terminal.wait() == 0
    for text in ("[12] running", "done pendulum-spin-baseline", "2 of 2 trials done"):
        assert re.search(text, terminal.text)
    assert not terminal.hides_cursor
    assert statuses(tmp_path) == [Status.EVALUATED] * 2


@pytest.mark.parametrize(
    ("kind", "columns", "shown"),
    [("xterm", 80, " 50%"), ("xterm", 40, " 50%"), ("dumb", 80, "30 tasks, 1/2")],
)
def test_progress_suits_the_terminal_and_leaves_the_cursor_to_it(tmp_path, kind, columns, shown):
    with Terminal(tmp_path, "-c", SHOWING, columns=columns, TERM=kind) as terminal:
        terminal.wait_for(shown)
    assert not terminal.hides_cursor


def test_progress_of_what_runs_in_the_background_leaves_alone_what_is_typed(tmp_path):
    with Terminal(tmp_path, "-c", BACKGROUND) as terminal:
        assert terminal.wait() == 0
    assert "data: all, 1/2" in terminal.text


def test_output_into_a_file_stays_there_while_a_terminal_shows_progress(tmp_path):
    with Terminal(tmp_path, "-c", INTO_FILE) as terminal:
        assert terminal.wait() == 0
    assert (tmp_path / "file").read_text() == "a line\n"


def test_work_whose_terminal_is_closed_ends_in_good_order(tmp_path):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under `nohup`
    with Terminal(tmp_path, "-c", WORKING) as terminal:
        terminal.wait_for("working\n")
        terminal.close()
        assert terminal.process.wait(200) == 129
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize("looks", ["listen", "may_go_on"])
def test_work_in_the_background_of_a_terminal_that_is_closed_goes_on(tmp_path, looks):
    with Terminal(tmp_path, "-c", STAYING, looks) as terminal:
        terminal.wait_for("working\n")
        terminal.close()
        assert terminal.process.wait(60) == 0


def test_work_that_is_told_before_its_terminal_is_closed_prints_nothing_more_there(tmp_path):
    with Terminal(tmp_path, "-c", WORKING) as terminal:
        terminal.wait_for("working\n")
        terminal.process.send_signal(signal.SIGHUP)
        assert terminal.wait() == 129
    assert "ending" not in terminal.text


@pytest.mark.slow
def test_sweep_whose_terminal_is_closed_leaves_its_trials_stopped(tmp_path):
    with Terminal(tmp_path, TINY, "--scale", "longer", "--limit", "2") as terminal:
        terminal.wait_for("2 running")
        terminal.close()
        assert terminal.process.wait(200) == 129
    assert statuses(tmp_path) == [Status.CANCELLED] * 2


@pytest.mark.slow
def test_search_whose_terminal_is_closed_ends_in_good_order(tmp_path):
    with Terminal(tmp_path, SEARCH) as terminal:
        terminal.wait_for("1 of 5")
        terminal.close()
        assert terminal.process.wait(200) == 129
    assert not list(tmp_path.glob("results/tiny_search/**/claim.json"))
    found = [read_record(folder).status for folder in tmp_path.glob("results/trials/*")]
    assert Status.CANCELLED in found
    assert Status.RUNNING not in found
