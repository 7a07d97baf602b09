"""The tiny sweep with a trial that hangs the first time it runs: python hanging.py MARKER."""

import re
import sys
from pathlib import Path

from pwmray import plan
from pwmray.driver import launch
from pwmray.tracking.recording import Mode
from pwmray.trainable import TrialTrainable
from tests.tiny import sweep

NUM_TRIALS = 4
MARKER = "hangs"  # a file in the results folder


class Stuck:
    """Environments whose first step never comes back and keeps Python's lock meanwhile.

    The watchdog forgets the pauses that a slow machine made, which would have it wait for longer.
    """

    def __init__(self, inner, watchdog):
        self._inner, self._watchdog = inner, watchdog

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def step(self, actions):
        self._watchdog._longest = 0.0
        self._watchdog._arm()
        re.match(r"(a+)+$", "a" * 60 + "b")


class HangingTrainable(TrialTrainable):
    """Let the trial that finds the marker remove it, and hang."""

    def open(self, grid):
        trial = super().open(grid)
        marker = Path(grid["folder"]).parent.parent / MARKER
        if (trial.config.variant, trial.config.epochs) == ("baseline", 6) and marker.exists():
            marker.unlink()
            make, watchdog = trial._make_environments, trial._hold.watchdog
            trial._make_environments = lambda *arguments: Stuck(make(*arguments), watchdog)
        return trial


if __name__ == "__main__":
    results = Path("results").resolve()
    results.mkdir()
    (results / MARKER).touch()
    made = plan.make(sweep, "restless", sweep.trials("restless")[:NUM_TRIALS], results)
    data = Path("data").resolve()
    command = "python hanging.py"
    sys.exit(launch.run(made, data, None, command, Mode.OFF, trainable=HangingTrainable))
