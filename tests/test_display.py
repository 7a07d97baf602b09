"""What is drawn over and over on a terminal, and what others write there meanwhile."""

import contextlib
import io
import os
import signal

import pytest
from rich.text import Text

from pwmray.commands import say_in_handler
from pwmray.commands.display import Display
from tests.terminal import Terminal

UP = "\x1b[1A"  # the cursor goes to the line above, which is then erased
# Goes to the background as what is stopped by Ctrl-Z and goes on after `bg`.
LEFT_BEHIND = """
import os, subprocess, sys
from pwmray.commands.display import Display
shown = "drawn in sight"
with Display(sys.stdout, lambda: shown, auto_refresh=False) as display:
    display.refresh()
    shell = subprocess.Popen(["cat"], stdin=subprocess.PIPE, process_group=0)
    os.tcsetpgrp(0, shell.pid)
    shown = "drawn out of sight"
    display.refresh()
    display.console.print("a line")
    shown = "the last"
shell.communicate()
"""


class _Screen(io.StringIO):
    def isatty(self):
        return True

    def take(self):
        """Return what was written since the last time."""
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


@pytest.fixture
def display_of(monkeypatch):
    """Start a display of 80 columns that draws the last of `shown`, after its first drawing."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with contextlib.ExitStack() as started:

        def display_of(screen, shown):
            display = Display(screen, lambda: shown[-1], auto_refresh=False)
            display.start(refresh=True)
            started.callback(display.stop)
            screen.take()
            return display

        yield display_of


def test_drawing_covers_the_one_before(display_of):
    screen = _Screen()
    display_of(screen, ["a\nb\nc"]).refresh()
    assert screen.take().count(UP) == 2


def test_drawing_begins_below_what_a_signal_handler_said(display_of):
    screen = _Screen()
    display = display_of(screen, ["a\nb"])
    say_in_handler("interrupted")
    display.refresh()
    assert UP not in screen.take()
    display.refresh()
    assert screen.take().count(UP) == 1


def test_drawing_begins_below_what_was_written_while_the_process_was_stopped(display_of):
    screen = _Screen()
    display = display_of(screen, ["a\nb"])
    os.kill(os.getpid(), signal.SIGCONT)
    display.refresh()
    assert UP not in screen.take()
    display.refresh()
    assert screen.take().count(UP) == 1
    display.stop()
    assert signal.getsignal(signal.SIGCONT) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1  # none is left


def test_drawing_covers_the_one_before_as_a_narrower_window_wraps_it(display_of):
    screen = _Screen()
    shown = [f"{'a' * 70}\nb\n{'c' * 41}"]
    display = display_of(screen, shown)
    display.console.width = 40
    shown.append("one line")
    display.refresh()
    assert screen.take().count(UP) == 4
    display.console.width = 80
    display.refresh()
    assert screen.take().count(UP) == 0


def test_drawing_covers_lines_that_were_as_wide_as_the_window_was(display_of):
    screen = _Screen()
    shown = [Text("a" * 70, no_wrap=True, overflow="crop")]  # as a table is cut at the edge
    display = display_of(screen, shown)
    display.console.width = 40
    display.refresh()
    assert screen.take().count(UP) == 1


def test_display_in_the_background_draws_nothing_until_its_end(tmp_path):
    with Terminal(tmp_path, "-c", LEFT_BEHIND) as terminal:
        assert terminal.wait() == 0
    assert terminal.text.replace("\n", "") == "drawn in sighta linethe last"
