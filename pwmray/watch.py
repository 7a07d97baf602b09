"""Tune's callback: what happens in the trials, passed on to the display and the tables."""

import time
from typing import Any

from ray import tune

from pwmray.progress import SweepProgress
from pwmray.tables import Tables

_TABLES_SECONDS = 5.0  # between two writings of the sweep's tables


class TuneWatch(tune.Callback):
    """Keep the display and the sweep's tables up to date while Tune runs."""

    def __init__(self, progress: SweepProgress, tables: Tables):
        self._progress = progress
        self._tables = tables
        self._written_at = 0.0

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._progress.start(_fingerprint(trial))

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict, **info: Any
    ) -> None:
        if "return_mean" in result:
            self._progress.report(_fingerprint(trial), result["epoch"], result["return_mean"])
        self._write_tables()

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._progress.finish(_fingerprint(trial), trial.last_result)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._progress.fail(_fingerprint(trial))

    def _write_tables(self) -> None:
        if time.monotonic() - self._written_at >= _TABLES_SECONDS:
            self._tables.write()
            self._written_at = time.monotonic()


def _fingerprint(trial: Any) -> str:
    return trial.config["grid"]["fingerprint"]
