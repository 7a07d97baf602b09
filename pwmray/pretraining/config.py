"""What defines a pretraining: its tasks, its world model with loss and data, its settings."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pwmray.algorithm.pretrain import PretrainConfig
from pwmray.checks import typed
from pwmray.config import PRETRAINED, TrialConfig
from pwmray.data.recipe import CollectionRecipe
from pwmray.fidelity import CORRECTED, FIDELITIES, PUBLISHED, Fidelity
from pwmray.models import WorldModelConfig
from pwmray.pretraining.folder import PRETRAINED_FOLDER
from pwmray.tasks import find_task
from pwmray.wording import unknown

FORMAT = "pwmray-pretraining-1"
# What a trial may set for itself: how the flow is integrated, and the scale that the file brings.
FREE = ("integrator", "num_substeps", "standardize")
_WHAT = "setting of the scale's pretrain"
_SETTINGS = dataclasses.asdict(PretrainConfig())
# The learner's settings that a pretraining reads: of one that is not here, it would not be known
# with which value a world model was made.
_LOSS = (
    "wm_horizon",
    "discount",
    "model_lr",
    "model_clip",
    "consistency_weight",
    "matching_weight",
    "reward_weight",
    "matmul",
)
_OF_A_KIND = ("matching_weight",)  # of these: that of a flow's loss alone


@dataclass(frozen=True)
class PretrainingConfig:
    """Everything that defines a pretrained world model."""

    tasks: tuple[str, ...]
    trial: TrialConfig  # whose world model, loss, data and fidelity it has; its task is not used
    settings: PretrainConfig = field(default_factory=PretrainConfig)
    seed: int = 0

    @classmethod
    def of(
        cls, trial: TrialConfig, pretrain: Mapping[str, Any], seed: int = 0
    ) -> "PretrainingConfig":
        """Return the pretraining of a trial's world model, by its loss, data and fidelity.

        `pretrain` is a scale's: the tasks and PretrainConfig's fields; `seed` is the pretraining's.
        Raises ValueError naming a key or a value in it that is not valid.
        """
        return cls(check_tasks(pretrain), trial, _read_settings(pretrain), seed)

    @classmethod
    def behind(cls, trial: TrialConfig, scale: Mapping[str, Any]) -> "PretrainingConfig":
        """Return the pretraining that a trial at a scale takes its world model from.

        Loss, data and whatever a trial is free to set are the scale's own, as they are for the
        command that pretrains; the trial says the kind and the sizes, and the fidelity. Of several
        seeds it is the one that the trial names, else 0.
        """
        pretrain = read_pretrain(scale)
        required = {"task": check_tasks(pretrain)[0], "seed": 0, "epochs": 1}
        kind = {"world_model.kind": trial.world_model.kind}
        plain = TrialConfig.from_flat({**scale["set"], **required, **kind})
        free = {
            name: value
            for name, value in dataclasses.asdict(plain.world_model).items()
            if name in FREE
        }
        world_model = dataclasses.replace(trial.world_model, **free)
        described = dataclasses.replace(plain, world_model=world_model, fidelity=trial.fidelity)
        return cls.of(described, pretrain, trial.pretraining_seed)

    def is_found(self, scale: Mapping[str, Any]) -> bool:
        """Tell whether trials at a scale, of its kind, sizes, fidelity and seed, start from it."""
        word = f"{PRETRAINED}:{self.seed}" if self.seed else PRETRAINED
        trial = dataclasses.replace(self.trial, world_model_from=word)
        return self.behind(trial, scale).fingerprint == self.fingerprint

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
        """Under which it is trained: published where the dynamics exist under that alone.

        The trial's other switches are its own: a trial that corrects one of them starts from the
        model of one that does not. The MLP models that the published learner started from were
        trained by TD-MPC2, whose losses are the corrected ones.
        """
        is_published_flow = (
            self.world_model.kind == "flow" and not self.trial.fidelity.tangent_velocity
        )
        return FIDELITIES[PUBLISHED if is_published_flow else CORRECTED]

    @property
    def fingerprint(self) -> str:
        """16 hex digits over what defines the world model."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return what defines the world model as nested plain data."""
        learner = dataclasses.asdict(self.trial.learner)
        return {
            "format": FORMAT,
            "tasks": self.tasks,
            "world_model": dataclasses.asdict(self.world_model),
            "loss": {name: learner[name] for name in _LOSS},
            "data": self.data.definition,
            "fidelity": dataclasses.asdict(self.fidelity),
            "settings": dataclasses.asdict(self.settings),
            "seed": self.seed,
        }

    @property
    def shared(self) -> dict[str, Any]:
        """What pretrainings of two kinds must share to be a matched pair, beside data and length.

        What is a kind's own, such as its widths, is left out.
        """
        settings = dataclasses.asdict(self.settings)
        del settings["iterations"]
        learner = dataclasses.asdict(self.trial.learner)
        return {
            **settings,
            **{name: learner[name] for name in _LOSS if name not in _OF_A_KIND},
            "standardize": self.world_model.standardize,
            "wrap_angles": self.world_model.wrap_angles,
            "seed": self.seed,
        }

    @property
    def label(self) -> str:
        """Return a readable name."""
        seed = f", seed {self.seed}" if self.seed else ""
        return f"{self.world_model.kind} world model, {self.fidelity.name}{seed}"

    def folder(self, results_dir: Path) -> Path:
        """Return where its files lie."""
        return results_dir / PRETRAINED_FOLDER / self.fingerprint


def read_pretrain(scale: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how a scale pretrains; raise ValueError for one that does not say so."""
    if not isinstance(scale.get("pretrain"), Mapping):
        raise ValueError(
            f"the scale's pretrain is {scale.get('pretrain')!r}; it must be a mapping that has "
            f"tasks and may have {', '.join(_SETTINGS)}"
        )
    return scale["pretrain"]


def check_tasks(pretrain: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a scale's tasks to pretrain on; raise ValueError where they are no names of tasks."""
    if "tasks" not in pretrain:
        raise ValueError("the scale's pretrain lacks tasks, the names of the tasks to train on")
    tasks = typed(_WHAT, "tasks", pretrain["tasks"], tuple)
    if not tasks:
        raise ValueError("the scale's pretrain has no tasks; it must name one or more")
    for task in tasks:
        find_task(task)
    return tasks


def _read_settings(pretrain: Mapping[str, Any]) -> PretrainConfig:
    given = {name: value for name, value in pretrain.items() if name != "tasks"}
    for name in given:
        if name not in _SETTINGS:
            raise ValueError(unknown(_WHAT, name, ("tasks", *_SETTINGS)))
    types = {name: type(default) for name, default in _SETTINGS.items()}
    settings = PretrainConfig(**{n: typed(_WHAT, n, v, types[n]) for n, v in given.items()})
    settings.check()
    return settings
