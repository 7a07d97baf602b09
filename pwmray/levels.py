"""Where a trial stands on each axis of its sweep, and what it is called there.

An axis is a config key, or a name of its own for levels that set several keys at once. The levels
are read off the trial's config, so that a sweep that has grown a new axis knows them of the trials
that it ran before.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pwmray.config import TrialConfig
from pwmray.models.sizes import SIZES
from pwmray.tasks import TASKS

USUAL_AXES = ("task", "variant", "epochs", "seed")  # those that every trial's label names
_MAX_NAME = 180  # a file's name may have 255 bytes

Axes = Mapping[str, Sequence[str]]  # the config keys that each axis sets


def axes_of(
    vary: Mapping[str, Sequence[Any]], at_scale: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[str, ...]]:
    """Return the config keys that each axis sets at any of its levels, whatever the scale."""
    axes = {}
    for axis, values in vary.items():
        levels = [*values, *(level for here in at_scale.values() for level in here.get(axis, ()))]
        keys = [key for level in levels for key in (level if _is_many(level) else (axis,))]
        axes[axis] = tuple(dict.fromkeys(keys))
    return axes


def level_of(
    config: TrialConfig, axis: str, keys: Sequence[str], known: Mapping[str, Any] | None = None
) -> Any:
    """Return a number or text, None where the axis does not apply to the trial.

    `known` has what is known of some settings beyond the config, such as a checkpoint's content.
    """
    values = {key: _read(config, key, known or {}) for key in (axis, *keys)}
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


def name_trial(config: TrialConfig, axes: Axes) -> str:
    """Return a name that is good for a file: the trial's label and its level on other axes."""
    levels = [level_of(config, axis, axes[axis]) for axis in axes if axis not in USUAL_AXES]
    parts = [str(level) for level in levels if level is not None]
    return "-".join([config.label, *(_plain(part) for part in parts)])[:_MAX_NAME]


def names_of(configs: Sequence[TrialConfig], axes: Axes) -> list[str]:
    """Return a name for each trial, told apart by its fingerprint where two would be the same."""
    names = [name_trial(config, axes) for config in configs]
    return [
        tell_apart(name, config.fingerprint) if names.count(name) > 1 else name
        for name, config in zip(names, configs, strict=True)
    ]


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


def _is_many(level: Any) -> bool:
    return isinstance(level, Mapping)


def _plain(text: str) -> str:
    """Return text without what a file's name may not have; of paths the last part alone."""
    return re.sub(r"[^\w.+=]+", "_", re.sub(r"[^,=]*/", "", text)).strip("_")
