"""The tiny sweep, whose trials wait half way while a file exists: python held.py.

The driver goes on working meanwhile; in gated.py it is the driver that waits.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.tiny import sweep

HOLD = "hold"  # the file, in the results folder
EPOCH = 2  # at which trials wait: that of a tiny trial's first row, which is not its last
WHERE = "HELD_AT"  # environment variable that gives another epoch
STARTED: list[subprocess.Popen] = []  # by the test that runs


def put_hold(results):
    """Make the trials of a results folder wait; return the file that ends this when deleted."""
    results.mkdir(exist_ok=True)
    (results / HOLD).touch()
    return results / HOLD


def start_script(folder, path, *options, **environment):
    """Start a script of these tests with `folder` as its working directory; return its process."""
    paths = {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, path, *options],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **paths, **environment},
    )  # fmt: skip
    STARTED.append(process)
    return process


def start_held(folder, *options, **environment):
    """Start the tiny sweep, whose trials wait while the file `HOLD` exists."""
    return start_script(folder, __file__, *options, **environment)


def heed_hold(epoch: int) -> None:
    """Make the trials that this process's sweep runs wait at `epoch` while `HOLD` exists."""
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
