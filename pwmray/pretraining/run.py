"""The run of a pretraining, which fills its folder (see pwmray.pretraining.folder)."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pwmray import checkpoint_file, learner_code, results
from pwmray.algorithm.compiling import compile_networks
from pwmray.algorithm.pretrain import Pretrainer
from pwmray.commands import Progress
from pwmray.data.sources import join_fingerprints
from pwmray.data.store import CONSTANT_DEVIATION, Store, observation_moments
from pwmray.formats import OtherCodeError
from pwmray.models import WORLD_MODELS
from pwmray.models.checkpoints import describe_world_model, load_world_model, save_world_model
from pwmray.pretraining.config import FORMAT, PretrainingConfig
from pwmray.pretraining.folder import (
    BEST_FILE,
    CLAIM_FILE,
    CURVE_FILE,
    LAST_FILE,
    RESUME_FILE,
    ElsewhereError,
    best_iteration,
    by_iteration,
    delete_leftovers,
    describe,
    holder_of,
    is_done,
)
from pwmray.registry import claim
from pwmray.room import with_room
from pwmray.seeding import generator
from pwmray.tasks import TASKS
from pwmray.tensorboard_file import write_events

_POLL_SECONDS = 0.2

log = logging.getLogger(__name__)


def pretrain(
    config: PretrainingConfig,
    folder: Path,
    stores: Sequence[Store],
    device: torch.device,
    progress: Progress,
    phase: str = "",
) -> None:
    """Train to the last iteration from wherever the folder stands, and write both checkpoints.

    `phase` names, in what it leaves about itself, the set of pretrainings that asked for it first.
    Does nothing where another process has come to the end meanwhile. Where the disk is full it
    waits for room. Raises ElsewhereError when another process works in the folder or takes it over,
    ValueError when it was begun on other data or best.ckpt is gone and cannot be made again,
    FloatingPointError when the loss is not finite; the last good checkpoints stay.
    """
    with _claimed(folder) as held:
        delete_leftovers(folder)
        if (folder / LAST_FILE).exists() and not (folder / RESUME_FILE).exists():
            _restore_best(folder)
        if is_done(folder):
            return
        code = learner_code.describe(world_model=config.world_model.kind)
        begun = describe(folder, phase, config.label, config.to_dict(), code)
        _Run(config, folder, stores, device, begun, held).finish(progress)


def _claimed(folder: Path) -> claim.Claim:
    """Take the folder; raise ElsewhereError naming the process that has it."""
    path = folder / CLAIM_FILE
    while (held := claim.acquire(path)) is None:
        holder = holder_of(folder)
        if holder is not None:  # else it was given back between the two looks
            raise ElsewhereError(
                f"another process pretrains in {folder}: {holder}; wait for it, or stop it, and "
                "run this again"
            )
        time.sleep(_POLL_SECONDS)  # a claim that looks stale is watched before it is taken over
    return held


def _restore_best(folder: Path) -> None:
    """Make a best.ckpt that is gone from last.ckpt; raise ValueError where another was better."""
    if (folder / BEST_FILE).exists():
        return
    last = load_world_model(folder / LAST_FILE)
    path = folder / CURVE_FILE
    rows = results.read_table(path).to_pylist() if path.exists() else []
    if best_iteration(rows) != last.iterations:
        raise ValueError(_lost(folder))
    best = dataclasses.replace(last, training={**last.training, **_selected(BEST_FILE)})
    save_world_model(folder / BEST_FILE, best)


def _lost(folder: Path) -> str:
    return (
        f"{folder / BEST_FILE} is gone, and of the iterations before the newest nothing is left: "
        f"copy it back, or delete {folder} to train anew"
    )


def _selected(name: str) -> dict[str, str]:
    """Return which of its run a checkpoint is, best or last, as its file tells it."""
    return {"selected": Path(name).stem}


class _Run:
    """The files of a pretraining around its loop."""

    def __init__(
        self,
        config: PretrainingConfig,
        folder: Path,
        stores: Sequence[Store],
        device: torch.device,
        begun: float,
        held: claim.Claim,
    ):
        self._config, self._folder = config, folder
        self._data_fingerprint = join_fingerprints([store.fingerprint for store in stores])
        self._begun, self._held = begun, held
        model = WORLD_MODELS[config.world_model.kind](
            config.world_model, generator(config.seed, "initialisation"), fidelity=config.fidelity
        )
        if config.world_model.standardize:
            model.set_observation_scale(*_joint_scale(stores, config.world_model.wrap_angles))
        learner, runtime = config.trial.learner, config.trial.runtime
        self._pretrainer = Pretrainer(
            model, stores, config.settings, learner, config.seed, device, runtime.cuda_graph
        )
        if runtime.compile:
            compile_networks(model, [self._pretrainer.optimizer])
        self._rows: list[dict[str, Any]] = []
        self._best = math.inf
        self._seconds = 0.0
        self._resume(device)
        self._check_best()

    def finish(self, progress: Progress) -> None:
        settings, pretrainer = self._config.settings, self._pretrainer
        while pretrainer.iteration < settings.iterations:
            progress(self._config.label, pretrainer.iteration, settings.iterations)
            left = settings.iterations - pretrainer.iteration
            started = time.perf_counter()
            training = pretrainer.train(min(settings.check_every, left))
            self._seconds += time.perf_counter() - started
            self._check(training)
        self._save(LAST_FILE)
        (self._folder / RESUME_FILE).unlink(missing_ok=True)

    def _check(self, training: dict[str, float]) -> None:
        held_out = self._pretrainer.held_out_losses()
        rows = {"training": training, "held_out": held_out}
        reached = {"iteration": self._pretrainer.iteration, "seconds": self._seconds}
        for episodes, losses in rows.items():
            self._rows.append({**reached, "episodes": episodes, **losses})
        path = self._folder / CURVE_FILE
        self._write(lambda: results.write_rows(path, self._rows, results.PRETRAINING))
        by_step = by_iteration(self._rows)
        self._write(lambda: write_events(self._folder, by_step, "iteration", self._begun))
        if held_out["world_model_loss"] < self._best:
            self._best = held_out["world_model_loss"]
            self._save(BEST_FILE)
        state = {
            "pretrainer": self._pretrainer.state(),
            "rows": self._rows,
            "best": self._best,
            "data": self._data_fingerprint,
        }
        self._write(lambda: checkpoint_file.write(self._folder / RESUME_FILE, FORMAT, state))

    def _save(self, name: str) -> None:
        config = self._config
        task_set = "mt30" if config.tasks == tuple(TASKS) else ",".join(config.tasks)
        checkpoint = describe_world_model(
            self._pretrainer.model,
            config.fidelity.name,
            task_set,
            config.tasks,
            self._pretrainer.iteration,
            self._data_fingerprint,
            config.settings.iterations,
            {**config.shared, **_selected(name)},
        )
        self._write(lambda: save_world_model(self._folder / name, checkpoint))

    def _write(self, write: Callable[[], None]) -> None:
        """Write once the disk has room; raise ElsewhereError where another process took over."""

        def attempt() -> None:
            if not self._held.is_held:  # it was paused for so long that it counted as gone
                raise ElsewhereError(f"{self._folder} was taken over by {holder_of(self._folder)}")
            write()

        try:
            with_room(attempt, self._folder, self._config.trial.runtime.disk_wait_seconds)
        except OSError as error:
            if error.filename is None:
                error.filename = str(self._folder)
            raise

    def _check_best(self) -> None:
        """Raise ValueError where best.ckpt is gone, unless the newest state is the best one."""
        if not self._rows or (self._folder / BEST_FILE).exists():
            return
        if best_iteration(self._rows) != self._pretrainer.iteration:
            raise ValueError(_lost(self._folder))
        self._save(BEST_FILE)

    def _resume(self, device: torch.device) -> None:
        path = self._folder / RESUME_FILE
        if not path.exists():
            return
        try:
            state = checkpoint_file.read(path, FORMAT, device)
            with checkpoint_file.fitting(path):
                self._pretrainer.load_state(state["pretrainer"])
        except OtherCodeError as error:
            raise ValueError(f"{error}; delete it to begin again") from error
        except ValueError as error:
            log.warning("pretraining=%s starts again: %s", self._folder.name, error)
            return
        begun_on = state.get("data", self._data_fingerprint)  # earlier versions did not say
        if begun_on != self._data_fingerprint:
            raise ValueError(
                f"{path} was trained on data with fingerprint {begun_on}, but the data now has "
                f"{self._data_fingerprint}: bring the old data back, or delete {self._folder} to "
                "begin again"
            )
        self._rows, self._best = state["rows"], state["best"]
        self._seconds = self._rows[-1].get("seconds", 0.0)


def _joint_scale(stores: Sequence[Store], wrap_angles: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation of the padded observations over all tasks' rows alike.

    A task narrower than the widest counts as zeros in the entries that it lacks. The deviation of
    an entry that is constant over all tasks is given as 1, so that dividing by it is safe.
    """
    widest = max(store.obs.shape[1] for store in stores)
    share = np.array([store.num_rows for store in stores], np.float64)[:, None]
    share /= share.sum()
    means, variances = np.zeros((2, len(stores), widest))
    for store, mean, variance in zip(stores, means, variances, strict=True):
        width = store.obs.shape[1]
        mean[:width], variance[:width] = observation_moments(store, wrap_angles)
    mean = (share * means).sum(axis=0)
    # The law of total variance: within the tasks and between them.
    std = np.sqrt((share * (variances + (means - mean) ** 2)).sum(axis=0))
    std[std < CONSTANT_DEVIATION] = 1.0
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()
