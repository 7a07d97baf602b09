"""What a running trial shows on Ray's metrics endpoint, for Prometheus and Grafana.

Ray exports what a process has set, every 10 seconds, for as long as the process lives, and has no
way to take a series back. A worker runs many trials, so an ended trial's gauges become NaN, which
Grafana draws as nothing and every comparison in PromQL drops; the worker's end removes them.
"""

import functools
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pwmray.config import TrialConfig

TAGS = ("trial", "sweep", "task", "variant", "seed")
EPOCH = "pwmray_epoch"
PROGRESS = "pwmray_progress_ratio"
SPEED = "pwmray_epochs_per_second"
RETURN = "pwmray_return"
GPU_MEMORY = "pwmray_gpu_memory_bytes"
GAUGES = {
    EPOCH: "epochs trained",
    PROGRESS: "epochs trained, of the trial's epochs",
    SPEED: "epochs a second of training, since the last row of the curve",
    RETURN: "mean return of the last evaluation",
    GPU_MEMORY: "memory of the GPU that the trial's process holds",
}


def tags_of(title: str, sweep: str, config: "TrialConfig") -> dict[str, str]:
    """Return what tells a trial's gauges from those of others."""
    values = (title, sweep, config.task, config.variant, str(config.seed))
    return dict(zip(TAGS, values, strict=True))


class TrialGauges:
    """One trial's gauges: `show` each row of its curve, `clear` when it ends.

    It goes on from `begun`, the epochs and the seconds of training done when it was taken up.
    """

    def __init__(
        self, tags: Mapping[str, str], num_epochs: int, on_gpu: bool, begun: tuple[int, float]
    ):
        self._tags, self._num_epochs, self._on_gpu = dict(tags), num_epochs, on_gpu
        self._started = time.monotonic()
        self._last = begun
        self._shown: dict[str, Any] = {}

    def show(self, row: Mapping[str, Any]) -> None:
        """Set the gauges from what a trial's step returned: epoch, return and, in a curve, seconds.

        A trial that ends before Ray would export it costs nothing: it is not shown.
        """
        values = self._values(row)
        if time.monotonic() - self._started < _export_seconds():
            return
        for name, value in values.items():
            self._shown[name] = gauge = _gauge(name)
            gauge.set(value, tags=self._tags)

    def clear(self) -> None:
        """Leave no value of the trial behind."""
        for gauge in self._shown.values():
            gauge.set(float("nan"), tags=self._tags)
        self._shown = {}

    def _values(self, row: Mapping[str, Any]) -> dict[str, float]:
        values = {EPOCH: row["epoch"], PROGRESS: row["epoch"] / self._num_epochs}
        values[RETURN] = row["return_mean"]
        if "seconds" in row:
            epochs, seconds = row["epoch"] - self._last[0], row["seconds"] - self._last[1]
            self._last = row["epoch"], row["seconds"]
            values[SPEED] = epochs / seconds if seconds > 0 else float("nan")
        if self._on_gpu:
            import torch

            values[GPU_MEMORY] = torch.cuda.memory_reserved()
        return values


@functools.cache
def _gauge(name: str) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(name, GAUGES[name], TAGS)


def _export_seconds() -> float:
    import ray

    return ray._config.metrics_report_interval_ms() / 1000
