"""The tiny sweep, of which trials wait in their middle while there is a file: python held.py.

The driver works on meanwhile, which it does not at a gate.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.tiny import sweep

HOLD = "hold"  # in the results folder
EPOCH = 2  # of the first row of a tiny trial, which has another
WHERE = "HELD_AT"  # environment variable: another epoch


def put_hold(results):
    """Have trials of a results folder wait; return the file which is to be deleted then."""
    results.mkdir(exist_ok=True)
    (results / HOLD).touch()
    return results / HOLD


def start_script(folder, path, *options, **environment):
    """Start a script of these tests in a folder; return its process."""
    paths = {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, path, *options],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **paths, **environment},
    )  # fmt: skip


def start_held(folder, *options, **environment):
    """Start the tiny sweep, whose trials wait while its results folder has a `HOLD`."""
    return start_script(folder, __file__, *options, **environment)


def heed_hold(epoch: int) -> None:
    """Have trials of the sweep that this process runs wait at `epoch` while there is a `HOLD`."""
    from pwmray import trainable  # which loads Ray

    class HeldTrainable(trainable.TrialTrainable):
        def open(self, grid):
            trial = super().open(grid)
            train, hold = trial._train_to_next_row, Path(grid["folder"]).parent.parent / HOLD

            def train_to_next_row():
                while trial.epoch >= epoch and hold.exists():
                    time.sleep(0.05)
                return train()

            trial._train_to_next_row = train_to_next_row
            return trial

    trainable.TrialTrainable = HeldTrainable


if __name__ == "__main__":
    heed_hold(int(os.environ.get(WHERE, EPOCH)))
    sweep.main()
