"""A tiny sweep or search whose driver waits at a gate: python gated.py {tiny,tiny_search} ...

What a test does while the driver waits happens in the middle of the work, however slow the test or
the machine is.
"""

import os
import sys
import time
from collections import Counter
from pathlib import Path

from tests.held import start_script
from tests.waiting import wait_for

WHERE = "GATED_AT"  # environment variable: FIRST_ROW, THIRD_ROW or FIRST_END of a trial
FIRST_ROW, THIRD_ROW, FIRST_END = "row 1", "row 3", "end"
GATE, MARKER = Path("gate"), Path("at-the-gate")  # in the driver's folder
_WAIT_SECONDS = 600.0  # of a machine that does much else, too


def start_gated(folder, where, name, *options, **environment):
    """Start a sweep or search that waits at a trial's first row, its third, or after its end."""
    (folder / GATE).touch()
    return start_script(folder, __file__, name, *options, **{WHERE: where}, **environment)


def wait_for_gate(folder, process):
    """Wait until the driver, a `process`, is at the gate; return the folder of the trial there.

    The driver goes on when the gate is opened. At a row, the trial's process is idle and holds its
    claim; after an end, everything about the trial is recorded. Other trials may go on meanwhile.
    """

    def is_there():
        is_marked = (folder / MARKER).exists()
        assert is_marked or process.poll() is None, process.communicate()
        return is_marked

    wait_for(is_there, _WAIT_SECONDS)
    return Path((folder / MARKER).read_text())


def open_gate(folder):
    (folder / GATE).unlink()


def _wait(trial):
    draft = MARKER.with_suffix(".draft")
    draft.write_text(trial.config["grid"]["folder"])
    draft.rename(MARKER)
    deadline = time.monotonic() + _WAIT_SECONDS
    while GATE.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def _put_gate(where):
    from pwmray.driver.tune_callbacks import Listening

    ended, num_rows, begin_step = [], Counter(), Listening.on_step_begin

    def on_trial_result(self, iteration, trials, trial, result, **info):
        num_rows[trial] += 1
        if where == f"row {num_rows[trial]}" and not MARKER.exists() and not result.get("done"):
            _wait(trial)

    def on_trial_complete(self, iteration, trials, trial, **info):
        ended.append(trial)

    def on_step_begin(self, *arguments, **info):
        begin_step(self, *arguments, **info)
        if where == FIRST_END and not MARKER.exists() and ended:
            _wait(ended[0])

    Listening.on_trial_result = on_trial_result
    Listening.on_trial_complete = on_trial_complete
    Listening.on_step_begin = on_step_begin


if __name__ == "__main__":
    from tests.tiny import sweep
    from tests.tiny_search import search

    _put_gate(os.environ[WHERE])
    {"tiny": sweep, "tiny_search": search}[sys.argv.pop(1)].main()
