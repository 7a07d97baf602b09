"""Where a trial stands on each axis of its sweep, and what it is called there.

An axis is a config key, or a name of its own for levels that set several keys at once and may have
names. The levels are read off the trial's config, so that a sweep that has grown a new axis knows
them of the trials that it ran before.
"""

import dataclasses
import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pwmray.config import PRETRAINED, SCRATCH, TrialConfig, names_pretraining, spell_out
from pwmray.files import named_path
from pwmray.models.sizes import SIZES
from pwmray.registry import flat_settings
from pwmray.tasks import TASKS

USUAL_AXES = ("task", "variant", "epochs", "seed")  # those that every trial's label names
_MAX_NAME = 180  # bytes; a file's name may have 255

_BRACKETS = re.compile(r"\[\w+\]")
_KINDS = ("world_model.kind", "policy.kind")  # which a variant sets, whatever else does

Axes = Mapping[str, Sequence[str]]  # the config keys that each axis sets
_Levels = Mapping[str, Mapping[str, Any]]  # the settings of an axis's levels, by name
Named = Mapping[str, _Levels]  # the same, by axis
Words = Mapping[str, str]  # "pretrained:1", for which a trial's file stands, by fingerprint


def as_placed(
    config: TrialConfig, world_model: str | None, files: Mapping[str, str]
) -> TrialConfig:
    """Return a recorded config with the place that its world model's file has now.

    `files` are places by the model's id in tables; the file may have been moved since.
    """
    file = files.get(world_model or "", config.world_model_from)
    return dataclasses.replace(config, world_model_from=file)


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
    name = _name_of(config, (named or {}).get(axis, {}), known)
    if name is not None:
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


def spell_out_level(settings: Mapping[str, Any], elsewhere: Collection[str] = ()) -> dict[str, Any]:
    """Return a level's settings as trials have them: shorthands spelled out, a file's whole path.

    A width or a switch that `elsewhere`, the other keys which trials are built from, names on its
    own is left out: it wins there over what the level's `size` or `fidelity` says.
    """
    spelled = spell_out(settings)
    source = spelled.get("world_model_from", SCRATCH)
    if source != SCRATCH and not names_pretraining(source):
        spelled["world_model_from"] = str(named_path(source))
    given = {_bare(key) for key in elsewhere}
    return {
        key: value
        for key, value in spelled.items()
        if key in settings or key in _KINDS or _bare(key) not in given
    }


def check_names(
    axis: str, configs: Sequence[TrialConfig], names: Sequence[str], levels: _Levels
) -> None:
    """Raise ValueError where a trial would not be called by the level that it is built from.

    `names` are those of the levels, one a trial; `levels` are their settings, spelled out.
    """
    built: dict[str, set[str]] = {}  # by trial: a level may change nothing of some
    for config, name in zip(configs, names, strict=True):
        built.setdefault(config.fingerprint, set()).add(name)
    found = {config.fingerprint: _name_of(config, levels, {}) for config in configs}
    for config, name in zip(configs, names, strict=True):
        shown = found[config.fingerprint]
        if shown is None and _applying(config, levels[name], {}):
            raise ValueError(
                f"axis {axis!r}: {config.label} of level {name!r} lacks some of its settings: "
                "another axis sets them too"
            )
        if shown is not None and shown not in built[config.fingerprint]:
            raise ValueError(
                f"axis {axis!r}: {config.label} of level {name!r} would be shown as {shown!r}, all "
                f"of whose settings it has: let level {name!r} set those keys too, to its values"
            )
    for name in levels:
        if name not in found.values():
            raise ValueError(
                f"axis {axis!r}: no trial would be shown as level {name!r}: what it sets is "
                "another level's too, or belongs to another kind of world model or policy"
            )


def check_told_apart(configs: Sequence[TrialConfig], axes: Axes, named: Named) -> None:
    """Raise ValueError for two trials that stand at the same levels, as all tables show them."""
    seen: dict[tuple, TrialConfig] = {}
    for config in configs:
        shown = (config.label, *levels_of(config, axes, named).values())
        other = seen.setdefault(shown, config)
        if other.fingerprint != config.fingerprint:
            settings, others = (dict(flat_settings(c.to_dict())) for c in (config, other))
            differing = [key for key in settings if settings[key] != others.get(key)]
            raise ValueError(
                f"two trials would both be shown as {name_trial(config, axes, named)}: no axis "
                f"tells their {' and '.join(differing)} apart; give those levels names, on an "
                "axis that is not named after a setting"
            )


def check_planner_acts(configs: Sequence[TrialConfig], axes: Axes) -> None:
    """Raise ValueError for an axis of the planner's settings alone where no trial plans."""
    if any(config.evaluation.plan_episodes for config in configs):
        return
    for axis, keys in axes.items():
        if all(key.startswith("planner.") for key in keys):
            raise ValueError(
                f"axis {axis!r} changes no trial: no episode is planned, since "
                "evaluation.plan_episodes is 0; hold another number"
            )


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
    name = "-".join([config.label, *(_plain(part) for part in parts)])
    return name.encode()[:_MAX_NAME].decode(errors="ignore")


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


def _name_of(config: TrialConfig, levels: _Levels, known: Mapping[str, Any]) -> str | None:
    """Return the name of the level that says most of the trial, the first of equals, if any."""
    fits = {name: _fit(config, settings, known) for name, settings in levels.items()}
    name = max(fits, key=fits.__getitem__, default=None)
    return name if name is not None and fits[name] else None


def _fit(config: TrialConfig, settings: Mapping[str, Any], known: Mapping[str, Any]) -> int:
    """Return how well a level fits: 0 for not, 1 where it sets nothing, else by its settings."""
    if not settings:
        return 1
    applying = _applying(config, settings, known)
    fits = all(_plain_data(has) == _plain_data(asked) for has, asked in applying.values())
    return len(applying) + 1 if applying and fits else 0


def _applying(
    config: TrialConfig, settings: Mapping[str, Any], known: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return what the trial has and what the level asks, of the settings that apply to the trial.

    As where a config is built, of two that set one thing the later counts.
    """
    found = {}
    for key, asked in spell_out_level(settings).items():
        has = setting_of(config, key)
        if key == "world_model_from" and config.is_pretrained and names_pretraining(asked):
            has = _word_of(config, known)
        if has is not None:
            found[_bare(key)] = (has, asked)
    return found


def _bare(key: str) -> str:
    """Return a key without the kind that it is for."""
    return _BRACKETS.sub("", key)


def _word_of(config: TrialConfig, known: Mapping[str, Any]) -> str:
    """Return the word of a trial's pretrained world model, whose place a file may have taken.

    Where nobody knows it any more, in results of an earlier version, it is the usual one.
    """
    told = (config.world_model_from, known.get("world_model_from") or "")
    return next(filter(names_pretraining, told), PRETRAINED)


def _plain_data(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _plain(text: str) -> str:
    """Return text without what a file's name may not have; of whole paths the last part alone."""
    return re.sub(r"[^\w.+=]+", "_", re.sub(r"(^|=)/[^,=]*/", r"\1", text)).strip("_")
