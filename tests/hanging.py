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
    """Environments whose first step never comes back and keeps Python's lock meanwhile."""

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def step(self, actions):
        re.match(r"(a+)+$", "a" * 60 + "b")


class HangingTrainable(TrialTrainable):
    """Let the trial that finds the marker remove it, and hang."""

    def open(self, grid):
        trial = super().open(grid)
        marker = Path(grid["folder"]).parent.parent / MARKER
        if (trial.config.variant, trial.config.epochs) == ("baseline", 6) and marker.exists():
            marker.unlink()
            make = trial._make_environments
            trial._make_environments = lambda *arguments: Stuck(make(*arguments))
        return trial


if __name__ == "__main__":
    results = Path("results").resolve()
    results.mkdir()
    (results / MARKER).touch()
    made = plan.make(sweep, "restless", sweep.trials("restless")[:NUM_TRIALS], results)
    data = Path("data").resolve()
    command = "python hanging.py"
    sys.exit(launch.run(made, data, None, command, Mode.OFF, trainable=HangingTrainable))
