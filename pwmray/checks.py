"""Checks of configured values: each raises ValueError naming the key, the value and the valid set.

A key is `part.name`, as sweeps write it; top-level settings have an empty part.
"""

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pwmray.wording import unknown

MAX_INT = 2**63 - 1  # what a table's whole-number column holds
MAX_EPISODE_SEED = 2**32 - 1  # of numpy's RandomState, which draws an episode
_SETTING_TYPES = (bool, int, float, str, tuple)
T = TypeVar("T")
_RESERVED = ("trials", "pretrained")  # folders beside those of sweeps


@contextlib.contextmanager
def complaints_of(what: str) -> Iterator[None]:
    """Have a ValueError say first whose it is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def check_folder_name(what: str, name: Any) -> None:
    """Check that a name can be that of a folder in the results, and of nothing outside them."""
    fits = isinstance(name, str) and re.fullmatch(r"\w[\w.+=-]{0,99}", name, re.ASCII)
    if not fits or name in _RESERVED:
        raise ValueError(
            f"{what} is called {name!r}; valid: up to 100 letters, digits and _ . + = -, the first "
            f"a letter, digit or _, and not {' or '.join(_RESERVED)}"
        )


def check_mapping(what: str, value: Any, of: str = "config keys") -> None:
    """Check that a value is a mapping whose keys are texts."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{what} is {value!r:.80}; it must be a mapping of {of}")


def check_list(what: str, value: Any) -> None:
    """Check that a value is a list of several; a text is none."""
    if not isinstance(value, list | tuple | range):
        raise ValueError(f"{what} is {value!r:.80}; it must be a list")


def check_least(part: str, config: Any, least: int, *names: str) -> None:
    """Check that each whole number is at least `least` and fits a table."""
    for name in names:
        value = getattr(config, name)
        if not least <= value <= MAX_INT:
            limit = f"at most {MAX_INT}" if value > MAX_INT else f"at least {least}"
            raise ValueError(f"{_key(part, name)} is {value}; it must be {limit}")


def check_positive(part: str, config: Any, *names: str, or_infinite: bool = False) -> None:
    """Check that each number is positive, and finite unless it may be `or_infinite`."""
    for name in names:
        value = getattr(config, name)
        if not value > 0:
            raise ValueError(f"{_key(part, name)} is {value}; it must be positive")
        if math.isinf(value) and not or_infinite:
            raise ValueError(f"{_key(part, name)} is {value}; it must be finite")


def check_share(part: str, config: Any, *names: str) -> None:
    """Check that each number is between 0 and 1, both included."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value <= 1:
            raise ValueError(f"{_key(part, name)} is {value}; valid: 0 to 1")


def check_widths(part: str, config: Any, *names: str) -> None:
    """Check that each is one or more widths of hidden layers, whole numbers from 1."""
    for name in names:
        value = getattr(config, name)
        if not value or any(type(width) is not int or width < 1 for width in value):
            raise ValueError(
                f"{_key(part, name)} is {value}; it must be one or more whole numbers from 1"
            )


def check_defines(kind: type, base: type, *names: str) -> None:
    """Check that a kind has methods of its own for those that its base leaves open."""
    missing = [name for name in names if getattr(kind, name) is getattr(base, name)]
    if missing:
        raise ValueError(
            f"{kind.__module__}: {kind.__name__} lacks the method {missing[0]}; a {base.__name__} "
            f"defines {' and '.join(names)}"
        )


@functools.cache
def check_defaults(config: type) -> None:
    """Check that each field of a part's config has as its default plain data, which is its type.

    Else a new kind's mistake would be found where it is first set, if it ever can be.
    """
    if "__dataclass_fields__" not in vars(config) and vars(config).get("__annotations__"):
        raise ValueError(
            f"{config.__module__}: {config.__name__} is not a dataclass, so its settings are not "
            "seen; write @dataclass(frozen=True) above it"
        )
    for setting in dataclasses.fields(config):
        default, where = setting.default, f"{config.__module__}: {config.__name__}.{setting.name}"
        if type(default) not in _SETTING_TYPES:
            missing = default is dataclasses.MISSING
            types = ", ".join(wanted.__name__ for wanted in _SETTING_TYPES)
            raise ValueError(
                f"{where} has {'no default' if missing else f'the default {default!r}'}; valid: "
                f"one of {types}, which is then the setting's type"
            )
        if setting.type in (float, "float") and type(default) is int:
            raise ValueError(f"{where} is a float with the default {default}; write {default}.0")


def take_preset(
    flat: Mapping[str, Any], key: str, presets: Mapping[str, T]
) -> tuple[dict[str, Any], T | None]:
    """Return the settings without `key`, and which preset it names: None where it is not there.

    Raises ValueError for a name that none has.
    """
    rest = dict(flat)
    if key not in rest:
        return rest, None
    name = rest.pop(key)
    if str(name) not in presets:
        raise ValueError(unknown(key, name, presets))
    return rest, presets[str(name)]


def typed(what: str, name: str, value: Any, wanted: type, called: str = "") -> Any:
    """Return `value` as `wanted`, taking ints for floats and lists for tuples.

    Raises ValueError that begins with `what` is being set, such as "config key", and says how the
    type is `called` there.
    """
    if wanted is tuple and isinstance(value, list | tuple):
        return _as_tuple(value)
    if type(value) is wanted:
        return value
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    called = called or wanted.__name__
    raise ValueError(f"{what} {name!r} is {value!r}; it must be of type {called}")


def _as_tuple(value: Any) -> Any:
    """Return lists as tuples, those within them too: what a file holds equals what was set."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


def _key(part: str, name: str) -> str:
    return f"{part}.{name}" if part else name
