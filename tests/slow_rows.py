"""The tiny sweep with rows that take longer than Tune by itself gives a process to end in."""

import sys
import time
from pathlib import Path

from pwmray import plan
from pwmray.driver import launch
from pwmray.files import replacing
from pwmray.tracking.recording import Mode
from pwmray.trainable import TrialTrainable
from tests.tiny import sweep

ROW_SECONDS = 15.0
NUM_TRIALS = 3
MARKER = "in-a-row"  # a file in the results folder


class SlowTrainable(TrialTrainable):
    """Let every row but a trial's first take long; the marker names a trial that begins one."""

    def open(self, grid):
        trial = super().open(grid)
        train = trial._train_to_next_row
        marker = Path(grid["folder"]).parent.parent / MARKER

        def train_to_next_row():
            if trial.epoch > 0:
                with replacing(marker) as draft:
                    draft.write_text(grid["fingerprint"])
                time.sleep(ROW_SECONDS)
            return train()

        trial._train_to_next_row = train_to_next_row
        return trial


if __name__ == "__main__":
    results = Path("results").resolve()
    made = plan.make(sweep, "rare", sweep.trials("rare")[:NUM_TRIALS], results)
    command = "python slow_rows.py"
    data = Path("data").resolve()
    sys.exit(launch.run(made, data, None, command, Mode.OFF, trainable=SlowTrainable))
