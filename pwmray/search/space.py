"""The space that a search draws settings from: Optuna's distributions, and what of it can run.

A space is a product of keys, but not all of it need make sense: `policy[flow].num_substeps` changes
nothing of a Gaussian policy, and two choices may refuse each other. Such settings are told by the
configs that they give, which a function `config_of` makes of them.
"""

import contextlib
import itertools
import json
import math
import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from pwmray.config import TrialConfig
from pwmray.variants import SETS_VARIANT

Space = Mapping[str, BaseDistribution]  # by config key
Settings = dict[str, Any]  # chosen from a space, by config key
ConfigOf = Callable[[Mapping[str, Any]], TrialConfig]  # raises ValueError for what cannot run

_RANGE_KEYS = {"low", "high", "log"}
_MAX_CELLS = 4000  # of a space that is enumerated, which takes less than a second


def read_space(space: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Return a search space given as plain data as Optuna's distributions.

    A sequence lists choices. A mapping with `low` and `high` is a range, of whole numbers where
    both ends are whole; `log: True` draws from it on a logarithmic scale. Raises ValueError naming
    the key.
    """
    if not space:
        raise ValueError("the search space is empty")
    return {key: _distribution(key, values) for key, values in space.items()}


def check_space(name: str, space: Space, config_of: ConfigOf) -> list[TrialConfig]:
    """Return a trial for each kind of world model or policy that the space can choose.

    Raises ValueError for a choice that cannot run, and for a key that changes no trial. A choice
    may need one of another key's, so each is tried alone and beside each choice of the other keys.
    """
    kinds = []
    others = [{key: value} for key in space for value in _ends(space[key])]
    for key, distribution in space.items():
        values = _ends(distribution)
        contexts: list[Settings] = [{}, *(other for other in others if key not in other)]
        for value in values:
            runs = _first_to_run([{**context, key: value} for context in contexts], config_of)
            kinds += [runs] if key in SETS_VARIANT else []
        beside = ([{**context, key: value} for value in values] for context in contexts)
        if len(values) > 1 and all(len(distinct(few, config_of)) < 2 for few in beside):
            raise ValueError(
                f"search {name}: {key!r} changes no trial: it is held, or belongs to another "
                "kind of world model or policy"
            )
    return kinds


def find_cells(space: Space, config_of: ConfigOf) -> list[Settings]:
    """Return every setting that is a trial of its own; none for a space with more than 4000."""
    choices = [all_values(distribution) for distribution in space.values()]
    if math.prod(map(len, choices)) not in range(1, _MAX_CELLS + 1):
        return []
    settings = (dict(zip(space, values, strict=True)) for values in itertools.product(*choices))
    return distinct(settings, config_of)


def draw_configs(space: Space, config_of: ConfigOf, number: int) -> list[TrialConfig]:
    """Return trials of settings drawn at random, always the same ones, without those of no trial.

    Of what has infinitely many values, such as a learning rate, each has the least one.
    """
    rng, drawn = random.Random(0), []
    for _ in range(number):
        values = ((k, all_values(d) or [d.low]) for k, d in space.items())  # type: ignore[attr-defined]
        with contextlib.suppress(ValueError):
            drawn.append(config_of({key: rng.choice(each) for key, each in values}))
    return drawn


def distinct(settings: Iterable[Settings], config_of: ConfigOf) -> list[Settings]:
    """Return the settings that can run, of those that are one trial only the first."""
    found: dict[str, Settings] = {}
    for chosen in settings:
        with contextlib.suppress(ValueError):  # a choice that needs one of another key's
            found.setdefault(config_of(chosen).fingerprint, chosen)
    return list(found.values())


def all_values(distribution: BaseDistribution) -> Sequence[Any]:
    """Return every value of a distribution, none if there are infinitely many."""
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1)
    return distribution.choices if isinstance(distribution, CategoricalDistribution) else ()


def quieten_optuna() -> None:
    """Silence Optuna's log, and its warning about choices that are lists, such as layers' widths.

    It warns whenever it meets one, also in a journal that it reads.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", message="Choices for a categorical distribution should be")


def _first_to_run(settings: Sequence[Settings], config_of: ConfigOf) -> TrialConfig:
    """Return the first of some settings that can run; raise the first's ValueError if none can."""
    errors = []
    for chosen in settings:
        try:
            return config_of(chosen)
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def _ends(distribution: BaseDistribution) -> Sequence[Any]:
    """Return all choices of a distribution, or both ends of a range."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    return list(dict.fromkeys((distribution.low, distribution.high)))  # type: ignore[attr-defined]


def _distribution(key: str, values: Any) -> BaseDistribution:
    try:
        if isinstance(values, Mapping):
            return _range(values)
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ValueError("valid: a list of choices, or a mapping with low, high and log")
        quieten_optuna()
        # As the journal gives them back: in JSON there are no tuples.
        return CategoricalDistribution(json.loads(json.dumps(list(values))))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the search space of {key!r} is {values!r}: {error}") from error


def _range(values: Mapping[str, Any]) -> BaseDistribution:
    if not {"low", "high"} <= set(values) <= _RANGE_KEYS:
        raise ValueError("a range has low and high, and may have log")
    low, high, log = values["low"], values["high"], values.get("log", False)
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)
