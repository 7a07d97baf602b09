"""One trial as Ray Tune sees it; the trial itself knows nothing of Ray.

Tune starts more processes than it uses, so torch is loaded only with the first trial.
"""

import functools
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from pwmray import registry
from pwmray.failures import share_of
from pwmray.gauges import TrialGauges, tags_of
from pwmray.hold import FolderGoneError, RunningElsewhereError
from pwmray.placement import bundle
from pwmray.system import quieten_dm_control

if TYPE_CHECKING:
    from pwmray.config import TrialConfig
    from pwmray.trial import Trial

NOT_SEEN_ON = "not_seen_on"  # the machine that found no folder of the trial
PIECE_SECONDS = "piece_seconds"  # of a row that is reported: how long the trial took for it
_KINDS_OF_EPISODES = 3  # of a trial: those during training, the final ones and the planner's


class TrialTrainable(tune.Trainable):
    """Run one trial, a curve row a step; the process is kept and reused for the next trial.

    The config has one key, grid: see `grid_of`. `open` may be overridden, to run another kind of
    trial.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Remember the trial; Tune may yet hand it to another process and kill this one."""
        quieten_dm_control()
        self._grid = config["grid"]
        self._trial: Trial | None = None

    def open(self, grid: dict[str, Any]) -> "Trial":
        """Return the trial, claimed; raise RunningElsewhereError where another process has it."""
        import torch

        from pwmray.config import TrialConfig
        from pwmray.trial import Trial

        config = TrialConfig.from_dict(json.loads(grid["trial"]))
        return Trial(
            config,
            Path(grid["folder"]),
            Path(grid["data"]),
            functools.partial(_environments, num_threads=config.runtime.num_cpus),
            torch.device("cuda" if grid["use_gpu"] else "cpu"),
            grid["fingerprint"],
        )

    def step(self) -> dict[str, Any]:
        """Do the trial's next piece; the first call claims it and builds or resumes it."""
        try:
            if self._trial is None:
                self._trial = self.open(self._grid)
                grid, begun = self._grid, (self._trial.epoch, self._trial.train_seconds)
                self._gauges = TrialGauges(grid["tags"], grid["epochs"], grid["use_gpu"], begun)
            started = time.perf_counter()
            row = self._trial.advance()
            seconds = time.perf_counter() - started
        except RunningElsewhereError as error:
            blind = socket.gethostname() if isinstance(error, FolderGoneError) else None
            return {"done": True, "elsewhere": str(error), NOT_SEEN_ON: blind}
        self._gauges.show(row)
        return {**row, PIECE_SECONDS: seconds, "done": self._trial.is_finished}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another trial in this process."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Release the trial."""
        if self._trial is not None:
            self._gauges.clear()
            self._trial.close()
            self._trial = None


def grid_of(
    config: "TrialConfig",
    folder: Path,
    data_path: Path,
    sweep: str,
    title: str,
    machine: Mapping[str, float],
    offered: Mapping[str, float],
) -> dict[str, Any]:
    """Return what a TrialTrainable has to know of its trial, and the resources to ask Ray for.

    The config is passed as JSON, since Tune walks through every value that it is given. `title` and
    the tags are for dashboards; `machine` has the resources of Ray's largest machine, `offered`
    those of all machines together.
    """
    return {
        "trial": json.dumps(config.to_dict()),
        "epochs": config.epochs,
        "fingerprint": config.fingerprint,
        "title": title,
        "tags": tags_of(title, sweep, config),
        "folder": str(folder),
        "data": str(data_path),
        "use_gpu": offered.get("GPU", 0) > 0,
        "bundle": bundle(config.runtime, share_of(registry.read(folder)), machine, offered),
    }


@functools.lru_cache(maxsize=_KINDS_OF_EPISODES)
def _environments(task: str, num_episodes: int, num_threads: int) -> Any:
    """Return this process's environments of a task: reused while trials of that task come.

    Of all 30 tasks they would have 0.9 GB in each process; to build them anew takes 60 ms.
    """
    from pwmray.envs.vector import make_vector

    return make_vector(task, num_episodes, num_threads)
