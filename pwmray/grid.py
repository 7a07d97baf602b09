"""A sweep's grid: its axes, their levels, and the settings that each cell stands for.

A level is a value of the config key that its axis is named after, or a mapping of several config
keys. An axis that is itself a mapping gives such levels names.
"""

import itertools
import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

from pwmray.checks import check_mapping
from pwmray.config import valid_keys
from pwmray.models import POLICIES, WORLD_MODELS
from pwmray.results import SWEEP, TRIALS
from pwmray.wording import unknown

Levels = Sequence[Any] | Mapping[str, Mapping[str, Any]]

_COLUMNS = {SWEEP, *TRIALS.names}  # of every sweep's trials
# Those of them that levels without names may set, or have follow from what they set.
_SET = {"task", "variant", "epochs", "seed", "fidelity", "methodology", "world_model_from"}


def check_levels(axis: str, levels: Any) -> None:
    """Raise ValueError for an axis without a list of levels, or with named ones that go untold."""
    if isinstance(levels, Mapping):
        _check_named(axis, levels)
    elif isinstance(levels, list | tuple | range):
        if axis in _COLUMNS - _SET and any(isinstance(level, Mapping) for level in levels):
            raise ValueError(_taken(axis, "levels of other keys"))
    else:
        raise ValueError(
            f"axis {axis!r} is {levels!r:.80}; it must be a list of levels, or a mapping of their "
            "names"
        )
    if not levels:
        raise ValueError(f"axis {axis!r} has no levels")
    if any(level is None for level in levels):
        raise ValueError(f"axis {axis!r} has a level None, which is not a value")


def check_gpus(gpus: Any, vary: Mapping[str, Levels]) -> None:
    """Raise ValueError for GPUs by an axis or a level that is not there."""
    check_mapping("gpus", gpus, "axes")
    for axis, by_level in gpus.items():
        if axis not in vary:
            raise ValueError(f"gpus: {unknown('axis', axis, vary)}")
        if not isinstance(by_level, Mapping):
            raise ValueError(
                f"gpus: {axis!r} is {by_level!r:.80}; it must be a mapping of the axis's levels"
            )
        for level in by_level:
            if level not in vary[axis]:
                raise ValueError(
                    f"gpus: {unknown(f'level of {axis}', level, map(str, vary[axis]))}"
                )


def check_held(held: Collection[str], axes: Mapping[str, Levels]) -> None:
    """Raise ValueError for a key that is held where each level of an axis sets it."""
    for axis, levels in axes.items():
        settings = [_settings_of(axis, level, levels) for level in levels]
        for key in held:
            # A variant sets both kinds, whatever else does.
            if all(key in s or (key.endswith(".kind") and "variant" in s) for s in settings):
                raise ValueError(f"{key!r} is held, but axis {axis!r} sets it; drop one of them")


def check_replaced(scale: str, axes: Collection[str], vary: Collection[str]) -> None:
    """Raise ValueError where a scale replaces levels of an axis that no sweep could have.

    Its other axes are those of other sweeps at that scale.
    """
    kinds = itertools.product(WORLD_MODELS, POLICIES)
    keys = {key for w, p in kinds for key in valid_keys({"world_model": w, "policy": p})} | _SET
    for axis in axes:
        if axis not in vary and re.sub(r"\[\w+\]", "", str(axis)) not in {*keys, "size"}:
            raise ValueError(f"scale {scale!r}: 'instead': {unknown('axis', axis, vary)}")


def scaled(levels: Levels, instead: Mapping[Any, Any]) -> Levels:
    """Return a scale's levels: `instead` replaces a plain value, None leaves it out."""
    if isinstance(levels, Mapping):
        return levels
    values = [instead.get(v, v) if isinstance(v, Hashable) else v for v in levels]
    return [value for value in values if value is not None]


def choose(axis: str, levels: Levels, values: Sequence[Any]) -> Levels:
    """Return the levels with these values of the axis's own key.

    They take the place of plain levels; of levels that set more than that key, they choose. Raises
    ValueError for a value that none of those has.
    """
    if not any(isinstance(level, Mapping) for level in levels):
        return values
    own = [_settings_of(axis, level, levels).get(axis) for level in levels]
    for value in values:
        if value not in own:
            valid = dict.fromkeys(str(name) for name in own if name is not None)
            raise ValueError(
                f"{unknown(f'level of {axis}', str(value), valid)}, which set other keys, too"
            )
    return [
        level for value in values for level, its in zip(levels, own, strict=True) if its == value
    ]


def cells(
    axes: Mapping[str, Levels], gpus: Mapping[str, Mapping[Any, str]]
) -> list[dict[str, Any]]:
    """Return the flat settings of every cell; the last axis changes slowest, the first fastest.

    `gpus` says by an axis's levels which GPU a cell asks for.
    """
    order = list(axes)[::-1]
    found = []
    for levels in itertools.product(*(axes[axis] for axis in order)):
        flat: dict[str, Any] = {}
        for axis, level in zip(order, levels, strict=True):
            flat |= _settings_of(axis, level, axes[axis])
            gpu_of = gpus.get(axis, {})
            if isinstance(level, Hashable) and level in gpu_of:
                flat["runtime.gpu_type"] = gpu_of[level]
        found.append(flat)
    return found


def levels_in_cells(axes: Mapping[str, Levels], axis: str) -> list[Any]:
    """Return an axis's level, or its name, in each of `cells`."""
    order = list(axes)[::-1]
    place = order.index(axis)
    return [levels[place] for levels in itertools.product(*(axes[axis] for axis in order))]


def check_axes(axes: Mapping[str, Levels], trials: Sequence[Hashable]) -> None:
    """Raise ValueError for an axis whose levels, unlike as they are, stand for the same trials.

    `trials` tells apart those of `cells`, in its order.
    """
    stride = 1
    for axis, levels in axes.items():
        settings = [_settings_of(axis, level, levels) for level in levels]
        period = stride * len(settings)
        first = (trials[i - i % period + i % stride] for i in range(len(trials)))
        if any(one != settings[0] for one in settings) and tuple(first) == tuple(trials):
            raise ValueError(
                f"axis {axis!r} changes no trial: what its levels set is held, or belongs to "
                "another kind of world model or policy"
            )
        stride = period


def axes_of(
    vary: Mapping[str, Levels], at_scale: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[str, ...]]:
    """Return the config keys that each axis sets at any of its levels, whatever the scale."""
    axes = {}
    for axis, levels in vary.items():
        keys: list[str] = []
        for choice in (levels, *(here[axis] for here in at_scale.values() if axis in here)):
            for level in choice:
                keys += _settings_of(axis, level, choice)
        axes[axis] = tuple(dict.fromkeys(keys))
    return axes


def _check_named(axis: str, levels: Mapping[str, Any]) -> None:
    if axis in _COLUMNS:
        raise ValueError(_taken(axis, "named levels"))
    check_mapping(f"axis {axis!r}", levels, "names")
    for name, settings in levels.items():
        check_mapping(f"axis {axis!r}: level {name!r}", settings)


def _taken(axis: str, levels: str) -> str:
    return (
        f"axis {axis!r} has {levels}, but {axis!r} is a column of every sweep's trials; give the "
        "axis another name"
    )


def _settings_of(axis: str, level: Any, levels: Levels) -> Mapping[str, Any]:
    settings = levels[level] if isinstance(levels, Mapping) else level
    return settings if isinstance(settings, Mapping) else {axis: settings}
