"""Where a trial stands on each axis of its sweep, and what it is called there.

An axis is a config key, or a name of its own for levels that set several keys at once and may have
names. The levels are read off the trial's config, so that a sweep that has grown a new axis knows
them of the trials that it ran before.
"""

import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pwmray.config import PRETRAINED, TrialConfig, names_pretraining
from pwmray.models.sizes import SIZES
from pwmray.tasks import TASKS

USUAL_AXES = ("task", "variant", "epochs", "seed")  # those that every trial's label names
_MAX_NAME = 180  # a file's name may have 255 bytes

Axes = Mapping[str, Sequence[str]]  # the config keys that each axis sets
Named = Mapping[str, Mapping[str, Mapping[str, Any]]]  # the settings of an axis's levels, by name
Words = Mapping[str, str]  # "pretrained:1", for which a trial's file stands, by fingerprint


def level_of(
    config: TrialConfig,
    axis: str,
    keys: Sequence[str],
    known: Mapping[str, Any] | None = None,
    named: Named | None = None,
) -> Any:
    """Return a number or text, None where the axis does not apply to the trial.

    `known` has what is known of some settings beyond the config, such as a checkpoint's content, or
    the word for which its file stands. A level that has a name in `named` is called by it; of
    several that fit, the one that says most.
    """
    known = known or {}
    fits = {name: _fit(config, level, known) for name, level in (named or {}).get(axis, {}).items()}
    name = max(fits, key=fits.__getitem__, default=None)  # the first of equals
    if name is not None and fits[name]:
        return name
    values = {key: _read(config, key, known) for key in (axis, *keys)}
    if values[axis] is not None or set(keys) <= {axis}:
        return values[axis]
    applying = {key: values[key] for key in keys if values[key] is not None}
    if len(keys) == 1:
        return next(iter(applying.values()), None)
    return ", ".join(f"{key}={value}" for key, value in applying.items()) or None


def setting_of(config: TrialConfig, key: str) -> Any:
    """Return what a flat key of `TrialConfig.from_flat` stands for, None where it does not apply.

    What belongs to another kind of world model or policy does not apply.
    """
    if key in _DERIVED:
        return _DERIVED[key](config)
    part, _, name = key.partition(".")
    part, _, kind = part.rstrip("]").partition("[")
    value = getattr(config, part, None)
    if not name:
        return value if isinstance(value, str | int | float) else None
    applies = not kind or kind == getattr(value, "kind", None)
    return getattr(value, name, None) if applies else None


def levels_of(
    config: TrialConfig, axes: Axes, named: Named, words: Words | None = None
) -> dict[str, Any]:
    """Return the trial's level on every axis that no trial's label names."""
    known = known_by(words or {}, config.fingerprint)
    others = [axis for axis in axes if axis not in USUAL_AXES]
    return {axis: level_of(config, axis, axes[axis], known, named) for axis in others}


def known_by(words: Words, fingerprint: str) -> dict[str, str]:
    """Return as `level_of` takes it for which word a trial's file stands, if for any."""
    return {"world_model_from": words[fingerprint]} if fingerprint in words else {}


def name_trial(
    config: TrialConfig, axes: Axes, named: Named | None = None, words: Words | None = None
) -> str:
    """Return a name that is good for a file: the trial's label and its level on other axes."""
    levels = levels_of(config, axes, named or {}, words).values()
    parts = [str(level) for level in levels if level is not None]
    return "-".join([config.label, *(_plain(part) for part in parts)])[:_MAX_NAME]


def names_of(
    configs: Sequence[TrialConfig],
    axes: Axes,
    named: Named | None = None,
    words: Words | None = None,
) -> list[str]:
    """Return a name for each trial, told apart by its fingerprint where two would be the same."""
    names = [name_trial(config, axes, named, words) for config in configs]
    counts = Counter(names)
    return [
        tell_apart(name, config.fingerprint) if counts[name] > 1 else name
        for name, config in zip(names, configs, strict=True)
    ]


def title_trial(
    sweep: str, config: TrialConfig, axes: Axes, name: str, levels: Mapping[str, Any]
) -> str:
    """Return how dashboards call a trial, `phase6_epochs fullflow walker-stand 15000 s42`.

    `name` is its readable name in the sweep, `levels` those of `levels_of`.
    """
    epochs = [config.epochs] if "epochs" in axes else []
    others = [level for level in levels.values() if level is not None]
    told_apart = [config.fingerprint[:8]] if name.endswith(config.fingerprint[:8]) else []
    parts = [sweep, config.variant, config.task, *epochs, *others, f"s{config.seed}", *told_apart]
    return " ".join(map(str, parts))


def tell_apart(name: str, fingerprint: str) -> str:
    """Return the name of a trial whose own name is another's too."""
    return f"{name}-{fingerprint[:8]}"


def _size_of(config: TrialConfig) -> int | str:
    """Return the size that has most of the trial's widths, with a star where some are others."""
    shares = {}
    for size in SIZES:
        widths = _widths(size, config.world_model.kind, config.policy.kind)
        same = [setting_of(config, key) == width for key, width in widths.items()]
        shares[size] = sum(same) / len(same)
    size = max(shares, key=shares.__getitem__)
    if shares[size] < 1:
        return f"{size}*"
    return int(size) if size.isdecimal() else size


@functools.cache
def _widths(size: str, world_model: str, policy: str) -> dict[str, Any]:
    """Return the widths of a size for two kinds, by keys without brackets."""
    kinds = {"world_model.kind": world_model, "policy.kind": policy}
    required = {"task": next(iter(TASKS)), "seed": 0, "epochs": 1}
    sized = TrialConfig.from_flat({**required, **kinds, "size": size})
    return {key: setting_of(sized, key) for key in SIZES[size] if "[" not in key}


# Keys that stand for several settings, and what follows from some.
_DERIVED: dict[str, Callable[[TrialConfig], Any]] = {
    "variant": lambda config: config.variant,
    "size": _size_of,
    "fidelity": lambda config: config.fidelity.name,
    "methodology": lambda config: config.methodology,
}


def _read(config: TrialConfig, key: str, known: Mapping[str, Any]) -> Any:
    value = known[key] if key in known else setting_of(config, key)
    return json.dumps(value) if isinstance(value, list | tuple) else value


def _fit(config: TrialConfig, settings: Mapping[str, Any], known: Mapping[str, Any]) -> int:
    """Return how many of a level's settings apply to the trial; 0 unless those are all its own."""
    found = {key: setting_of(config, key) for key in settings}
    if config.is_pretrained and names_pretraining(settings.get("world_model_from", "")):
        found["world_model_from"] = _word_of(config, known)
    applying = [(value, settings[key]) for key, value in found.items() if value is not None]
    return len(applying) if all(_plain_data(a) == _plain_data(b) for a, b in applying) else 0


def _word_of(config: TrialConfig, known: Mapping[str, Any]) -> str:
    """Return the word of a trial's pretrained world model, whose place a file may have taken.

    Where nobody knows it any more, in results of an earlier version, it is the usual one.
    """
    told = (config.world_model_from, known.get("world_model_from") or "")
    return next(filter(names_pretraining, told), PRETRAINED)


def _plain_data(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _plain(text: str) -> str:
    """Return text without what a file's name may not have; of paths the last part alone."""
    return re.sub(r"[^\w.+=]+", "_", re.sub(r"[^,=]*/", "", text)).strip("_")
