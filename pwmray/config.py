"""One trial's configuration: every knob and its default once, its fingerprint, its methodology.

A config is built from flat keys, as sweeps write them: `epochs`, `world_model.kind`,
`learner.horizon`. A key with a kind in brackets, `world_model[flow].num_substeps`, applies only to
that kind, so that one scale can set up every variant. `variant` and `size` stand for several keys.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pwmray import fidelity as fidelities
from pwmray import variants
from pwmray.algorithm.learner_config import LearnerConfig
from pwmray.algorithm.planner import PlannerConfig
from pwmray.checks import check_defaults, check_least, typed
from pwmray.data.layouts import num_episode_rows
from pwmray.data.recipe import CollectionRecipe
from pwmray.evaluation import EvaluationConfig
from pwmray.fidelity import Fidelity
from pwmray.models import (
    KINDS,
    POLICIES,
    WORLD_MODELS,
    CriticConfig,
    PolicyConfig,
    WorldModelConfig,
    sizes,
)
from pwmray.models.checkpoints import digest
from pwmray.registry import flat_settings
from pwmray.runtime import RuntimeConfig
from pwmray.tasks import find_task
from pwmray.variants import SCRATCH, methodology_of, variant_of
from pwmray.wording import nearest, unknown

FORMAT = 3  # part of every fingerprint: raised when the meaning of a setting changes
# In a sweep: the file that its scale's pretraining makes, "pretrained:1" that of seed 1.
PRETRAINED = "pretrained"
_SHORTHANDS = ("variant", "size")  # keys of flat configs that stand for several others
_PRETRAINED_SEED = re.compile(rf"{PRETRAINED}(:(?P<seed>\d{{1,9}}))?", re.ASCII)
_KEY = re.compile(r"(?P<part>\w+)(\[(?P<kind>\w+)\])?(\.(?P<name>\w+))?")


@dataclass(frozen=True)
class TrialConfig:
    """Everything that defines one trial."""

    task: str
    seed: int
    epochs: int
    world_model: WorldModelConfig = field(default_factory=WORLD_MODELS["mlp"].Config)
    policy: PolicyConfig = field(default_factory=POLICIES["gaussian"].Config)
    critic: CriticConfig = field(default_factory=CriticConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    data: CollectionRecipe = field(default_factory=CollectionRecipe)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    fidelity: Fidelity = field(default_factory=Fidelity)
    world_model_from: str = SCRATCH  # or the checkpoint file of a pretrained world model
    finetune_wm: bool = True

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> "TrialConfig":
        """Build and check a config from flat keys; later keys win over earlier ones.

        Beside the config's own keys there are `variant`, which sets both kinds at once,
        `fidelity`, a preset's name, which sets every switch, and `size` (1, 5, 19, 48, 317 or
        "laptop"), which sets the widths of all parts. A switch or a width that is spelled out
        wins over the preset's or the size's, wherever it stands.

        Raises ValueError naming an unknown key and the nearest valid one, a missing key, a value
        of the wrong type or outside its range.
        """
        flat = spell_out(flat)
        keys = [(key, _parse(key), value) for key, value in flat.items()]
        kinds = {
            part: next((v for k, _, v in reversed(keys) if k == f"{part}.kind"), default)
            for part, default in (("world_model", "mlp"), ("policy", "gaussian"))
        }
        classes = {part: _part_class(part, kinds) for part in _PARTS}
        values: dict[str, dict[str, Any]] = {part: {} for part in classes}
        top: dict[str, Any] = {}
        for key, (part, kind, name), value in keys:
            if name is None:
                if kind is not None or part not in _TOP_TYPES:
                    raise ValueError(_unknown(key, kinds))
                top[part] = typed("config key", key, value, _TOP_TYPES[part])
            elif kind in (None, kinds.get(part)):
                values[part][name] = _setting(key, value, classes[part], kinds)
            else:  # it sets nothing here, but is to be one that its kind has
                others = {**kinds, part: kind}
                _setting(key, value, _part_class(part, others), others)
        _check_required(top)
        config = cls(**top, **{part: classes[part](**values[part]) for part in classes})
        config.check()
        return config

    @classmethod
    def from_dict(cls, nested: Mapping[str, Any]) -> "TrialConfig":
        """Build a config back from `to_dict`."""
        return cls.from_flat(dict(flat_settings(nested)))

    def to_dict(self) -> dict[str, Any]:
        """Return the config as nested plain data."""
        # dataclasses.asdict copies what cannot change, in five times as long.
        return {
            name: dict(_values_of(value)) if dataclasses.is_dataclass(value) else value
            for name, value in _values_of(self)
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits over what defines the trial, whatever machine it runs on."""
        defining = self.to_dict()
        del defining["runtime"]
        defining["data"] = self.data.definition
        # What the file holds counts, not where it lies. While there is none, the trial cannot run
        # and its fingerprint only tells it from others.
        if self.is_pretrained and not self.awaits_world_model:
            defining["world_model_from"] = self.world_model_digest
        text = json.dumps({"format": FORMAT, **defining}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @functools.cached_property
    def world_model_digest(self) -> str:
        """SHA-256 of what the checkpoint's file held when first asked; only where there is one."""
        return digest(Path(self.world_model_from))

    @property
    def variant(self) -> str:
        """The cell of the 2x2: world model and policy."""
        return variant_of(self.world_model.kind, self.policy.kind)

    @property
    def is_pretrained(self) -> bool:
        """Whether the world model comes from a checkpoint."""
        return self.world_model_from != SCRATCH

    @property
    def awaits_world_model(self) -> bool:
        """Whether the world model is a pretrained one whose file is not known yet."""
        return names_pretraining(self.world_model_from)

    @property
    def pretraining_seed(self) -> int:
        """Of the pretrained world model that is awaited: 0, or N of "pretrained:N"."""
        match = _PRETRAINED_SEED.fullmatch(self.world_model_from)
        return int(match["seed"] or 0) if match else 0

    @property
    def trains_world_model(self) -> bool:
        """Whether the world model is trained here."""
        return self.finetune_wm or not self.is_pretrained

    @property
    def methodology(self) -> str:
        """How the world model came to be and whether it is trained here."""
        return methodology_of(self.world_model_from, self.finetune_wm)

    @property
    def label(self) -> str:
        """A readable name: unique within a sweep over these four, not beyond it."""
        return f"{self.task}-{self.variant}-{self.epochs}-seed{self.seed}"

    def check(self) -> None:
        """Raise ValueError for the first value that cannot be run."""
        find_task(self.task)
        check_least("", self, 1, "epochs")
        check_least("", self, 0, "seed")
        for part in _PARTS:
            check = getattr(getattr(self, part), "check", None)
            if check is not None:
                check()
        if not self.is_pretrained and not self.finetune_wm:
            raise ValueError(
                "finetune_wm is False and world_model_from is 'scratch': nothing would ever train "
                "the world model; name a checkpoint or set finetune_wm to True"
            )
        windows = "wm_horizon" if self.fidelity.world_model_batches else "horizon"
        self.learner.check_data(windows, self.data.source, num_episode_rows(self.data.source))


def names_pretraining(text: str) -> bool:
    """Tell whether a `world_model_from` is "pretrained" or "pretrained:N", and no file."""
    return _PRETRAINED_SEED.fullmatch(text) is not None


def spell_out(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return flat settings with `variant`, `size` and `fidelity` as the keys they stand for.

    Raises ValueError for a value that none of them has.
    """
    return fidelities.expand(sizes.expand(variants.expand(flat)))


def valid_keys(kinds: Mapping[str, str]) -> list[str]:
    """Return every flat key that a config with these kinds of world model and policy takes."""
    keys = list(_TOP_TYPES)
    for part in _PARTS:
        keys += [f"{part}.{f.name}" for f in dataclasses.fields(_part_class(part, kinds))]
    return keys


_FIELDS = {f.name: f for f in dataclasses.fields(TrialConfig)}
_TOP_TYPES: dict[str, type] = {
    name: f.type for name, f in _FIELDS.items() if f.type in (str, int, float, bool)
}  # type: ignore[assignment]
_PARTS = tuple(name for name in _FIELDS if name not in _TOP_TYPES)


def _part_class(part: str, kinds: Mapping[str, str]) -> type:
    if part not in KINDS:
        return _FIELDS[part].default_factory  # type: ignore[return-value]
    registry, kind = KINDS[part], kinds[part]
    if kind not in list(registry):  # by equality: a person's list has no hash
        raise ValueError(unknown(f"{part}.kind", kind, registry))
    check_defaults(registry[kind].Config)
    return registry[kind].Config


@functools.cache
def _parse(key: str) -> tuple[str, str | None, str | None]:
    match = _KEY.fullmatch(key)
    if match is None or (match["name"] and match["part"] not in _PARTS):
        raise ValueError(_unknown(key, {"world_model": "flow", "policy": "flow"}))
    if match["kind"] is not None and match["kind"] not in KINDS.get(match["part"], {}):
        kinds = KINDS.get(match["part"], {})
        raise ValueError(
            f"config key {key!r}: {match['part']} has no kind {match['kind']!r}"
            f"{nearest(match['kind'], kinds)} valid: {', '.join(kinds) or 'none'}"
        )
    return match["part"], match["kind"], match["name"]


def _setting(key: str, value: Any, its: type, kinds: Mapping[str, str]) -> Any:
    _, kind, name = _parse(key)
    wanted = _types_of(its).get(str(name))
    if wanted is None or (kind and name == "kind"):  # brackets choose no kind
        raise ValueError(_unknown(key, kinds))
    return typed("config key", key, value, wanted)


def _unknown(key: str, kinds: Mapping[str, str]) -> str:
    valid = [*valid_keys(kinds), *_SHORTHANDS]
    part = key.partition(".")[0]
    if part in _PARTS:
        valid = [name for name in valid if name.startswith(f"{part}.")]
    return unknown("config key", key, valid)


def _check_required(top: Mapping[str, Any]) -> None:
    missing = [name for name in ("task", "seed", "epochs") if name not in top]
    if missing:
        raise ValueError(f"the config lacks {', '.join(missing)}")


def _values_of(part: Any) -> list[tuple[str, Any]]:
    return [(name, getattr(part, name)) for name in _types_of(type(part))]


@functools.cache
def _types_of(part: type) -> dict[str, type]:
    return {field.name: type(field.default) for field in dataclasses.fields(part)}
