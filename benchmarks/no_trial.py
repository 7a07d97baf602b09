"""A trial that only does what a sweep requires of one, to measure everything else.

Every worker process imports this module, so it does not import torch: a hundred copies would need
too much memory, and a trial that does nothing does not use it.
"""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pwmray import provenance, registry, results
from pwmray.hold import Hold
from pwmray.registry import EVALUATIONS_FILE, Status
from pwmray.trainable import TrialTrainable

SECONDS = "PWMRAY_TRIAL_SECONDS"  # that a trial sleeps; workers have the driver's environment


class NoTrial:
    """A trial that is over at once, and leaves what a sweep needs of one."""

    def __init__(self, grid: dict[str, Any]):
        self._folder = Path(grid["folder"])
        runtime: Any = SimpleNamespace(**json.loads(grid["trial"])["runtime"])
        self._hold = Hold(self._folder, runtime)
        self.is_finished, self.epoch, self.train_seconds = False, 0, 0.0
        registry.record(self._folder, Status.RUNNING, epoch=0, **provenance.process())

    def advance(self) -> dict[str, Any]:
        """Come to the end."""
        time.sleep(float(os.environ.get(SECONDS, "0")))
        row = {"trial": self._folder.name, "actor": "policy", "episode": 0, "seed": 1}
        rows = [{**row, "return": 1.0, "length": 500}]
        results.write_rows(self._folder / EVALUATIONS_FILE, rows, results.EVALUATIONS)
        done = {"epochs_reached": 1, "train_seconds": 0.0, "evaluation_seconds": 0.0}
        registry.record(self._folder, Status.COMPLETED, **done)
        registry.record(self._folder, Status.EVALUATED, return_mean=1.0, **done)
        self.is_finished = True
        return {"epoch": 1, "return_mean": 1.0}

    def close(self) -> None:
        """Give the folder back."""
        self._hold.close()


class NoTrainable(TrialTrainable):
    """Runs such trials."""

    def open(self, grid: dict[str, Any]) -> Any:
        """Return the trial, claimed."""
        return NoTrial(grid)
