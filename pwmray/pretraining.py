"""One pretraining: what defines it, its folder, and the run that fills it.

`results/pretrained/<fingerprint>/` holds `best.ckpt` (lowest loss on the episodes held out),
`last.ckpt`, `curve.arrow` and, until it is done, `resume.ckpt`.
"""

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pwmray import checkpoint_file, claim, results
from pwmray.algorithm.pretrain import PretrainConfig, Pretrainer
from pwmray.config import TrialConfig
from pwmray.data.collect import CollectionRecipe
from pwmray.data.store import Store, observation_statistics
from pwmray.fidelity import Fidelity
from pwmray.models import WORLD_MODELS, WorldModelConfig
from pwmray.models.checkpoints import describe_world_model, save_world_model
from pwmray.seeding import generator
from pwmray.tasks import TASKS, find_task

FORMAT = "pwmray-pretraining-1"
BEST_FILE, LAST_FILE, CURVE_FILE = "best.ckpt", "last.ckpt", "curve.arrow"
_RESUME_FILE = "resume.ckpt"
# The learner's settings that a world model's loss depends on.
_LOSS = (
    "wm_horizon",
    "discount",
    "model_lr",
    "model_clip",
    "consistency_weight",
    "matching_weight",
    "reward_weight",
)

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PretrainingConfig:
    """Everything that defines a pretrained world model."""

    tasks: tuple[str, ...]
    trial: TrialConfig  # whose world model, loss, data and fidelity it has; its task is not used
    settings: PretrainConfig = field(default_factory=PretrainConfig)
    seed: int = 0

    @classmethod
    def of(cls, trial: TrialConfig, scale: dict[str, Any]) -> "PretrainingConfig":
        """Return the pretraining that a trial takes its world model from, at a scale.

        `scale` is the scale's "pretrain": the tasks and PretrainConfig's fields.
        """
        settings = {name: value for name, value in scale.items() if name != "tasks"}
        config = cls(tuple(scale["tasks"]), trial, PretrainConfig(**settings))
        config.settings.check()
        for task in config.tasks:
            find_task(task)
        return config

    @property
    def world_model(self) -> WorldModelConfig:
        """Return its kind and sizes."""
        return self.trial.world_model

    @property
    def data(self) -> CollectionRecipe:
        """Return how the data of each of its tasks is collected."""
        return self.trial.data

    @property
    def fidelity(self) -> Fidelity:
        """Under which it is trained: the trial's where the dynamics exist under that alone.

        The MLP models that the published learner started from were trained by TD-MPC2, whose
        losses are the corrected ones.
        """
        is_published_flow = (
            self.world_model.kind == "flow" and not self.trial.fidelity.tangent_velocity
        )
        return self.trial.fidelity if is_published_flow else Fidelity()

    @property
    def fingerprint(self) -> str:
        """16 hex digits over what defines the world model."""
        learner = dataclasses.asdict(self.trial.learner)
        defining = {
            "format": FORMAT,
            "tasks": self.tasks,
            "world_model": dataclasses.asdict(self.world_model),
            "loss": {name: learner[name] for name in _LOSS},
            "data": dataclasses.asdict(self.data),
            "fidelity": dataclasses.asdict(self.fidelity),
            "settings": dataclasses.asdict(self.settings),
            "seed": self.seed,
        }
        text = json.dumps(defining, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """Return a readable name."""
        return f"{self.world_model.kind} world model, {self.fidelity.name}"

    def folder(self, results_dir: Path) -> Path:
        """Return where its files lie."""
        return results_dir / "pretrained" / self.fingerprint


def is_done(folder: Path) -> bool:
    """Whether a pretraining has come to its end."""
    return (folder / LAST_FILE).exists()


def pretrain(
    config: PretrainingConfig,
    folder: Path,
    stores: Sequence[Store],
    device: torch.device,
    progress: Progress,
) -> None:
    """Train to the last iteration from wherever the folder stands, and write both checkpoints.

    Raises ValueError when another process works in the folder, FloatingPointError when the loss
    is not finite; the last good checkpoints stay.
    """
    held = claim.acquire(folder / "claim")
    if held is None:
        raise ValueError(f"another process pretrains in {folder}")
    with held:
        _Run(config, folder, stores, device).finish(progress)


class _Run:
    """The files of a pretraining around its loop."""

    def __init__(
        self, config: PretrainingConfig, folder: Path, stores: Sequence[Store], device: torch.device
    ):
        self._config, self._folder, self._stores = config, folder, stores
        model = WORLD_MODELS[config.world_model.kind](
            config.world_model, generator(config.seed, "initialisation"), fidelity=config.fidelity
        )
        if config.world_model.standardize:
            model.set_observation_scale(*_joint_scale(stores, config.world_model.wrap_angles))
        learner = config.trial.learner
        self._pretrainer = Pretrainer(model, stores, config.settings, learner, config.seed, device)
        self._rows: list[dict[str, Any]] = []
        self._best = math.inf
        self._resume(device)

    def finish(self, progress: Progress) -> None:
        settings, pretrainer = self._config.settings, self._pretrainer
        while pretrainer.iteration < settings.iterations:
            progress(self._config.label, pretrainer.iteration, settings.iterations)
            left = settings.iterations - pretrainer.iteration
            training = pretrainer.train(min(settings.check_every, left))
            self._check(training)
        self._save(LAST_FILE)
        (self._folder / _RESUME_FILE).unlink(missing_ok=True)

    def _check(self, training: dict[str, float]) -> None:
        held_out = self._pretrainer.held_out_losses()
        rows = {"training": training, "held_out": held_out}
        for episodes, losses in rows.items():
            self._rows.append(
                {"iteration": self._pretrainer.iteration, "episodes": episodes, **losses}
            )
        results.write_rows(self._folder / CURVE_FILE, self._rows, results.PRETRAINING)
        if held_out["world_model_loss"] < self._best:
            self._best = held_out["world_model_loss"]
            self._save(BEST_FILE)
        state = {"pretrainer": self._pretrainer.state(), "rows": self._rows, "best": self._best}
        checkpoint_file.write(self._folder / _RESUME_FILE, FORMAT, state)

    def _save(self, name: str) -> None:
        config = self._config
        task_set = "mt30" if config.tasks == tuple(TASKS) else ",".join(config.tasks)
        data = "+".join(store.fingerprint for store in self._stores)
        checkpoint = describe_world_model(
            self._pretrainer.model,
            config.fidelity.name,
            task_set,
            config.tasks,
            self._pretrainer.iteration,
            hashlib.sha256(data.encode()).hexdigest()[:16],
        )
        save_world_model(self._folder / name, checkpoint)

    def _resume(self, device: torch.device) -> None:
        path = self._folder / _RESUME_FILE
        if not path.exists():
            return
        try:
            state = checkpoint_file.read(path, FORMAT, device)
        except ValueError as error:
            log.warning("pretraining=%s starts again: %s", self._folder.name, error)
            return
        self._pretrainer.load_state(state["pretrainer"])
        self._rows, self._best = state["rows"], state["best"]


def _joint_scale(stores: Sequence[Store], wrap_angles: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation of the padded observations over all tasks' rows alike."""
    widest = max(store.obs.shape[1] for store in stores)
    moments = torch.zeros(2, widest, dtype=torch.float64)
    for store in stores:
        mean, std = map(torch.from_numpy, observation_statistics(store, wrap_angles))
        first, second = mean.double(), std.double().square() + mean.double().square()
        moments[:, : len(mean)] += torch.stack([first, second]) / len(stores)
    mean, second = moments
    return mean.float(), (second - mean.square()).clamp(min=0).sqrt().float()
