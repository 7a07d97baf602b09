"""What a trial costs: device minutes an epoch, from finished trials or what else is known.

In this order: finished trials of the same settings, in any sweep of the results folder; earlier
runs of such settings that the scale names; the scale's guess for the variant; the number of
operations of an update, beside a trial that is already priced; ten minutes for 1,000 epochs.
"""

import heapq
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pwmray import results
from pwmray.config import SCRATCH, TrialConfig
from pwmray.flops import count_update_flops
from pwmray.levels import setting_of
from pwmray.registry import Record, Status

MEASURED, EARLIER, GUESSED = "finished trials", "earlier runs", "the scale's guess"
OPERATIONS, UNKNOWN = "operations", "10 minutes for 1,000 epochs"
_UNKNOWN_RATE = 10.0 / 1000
_COLUMNS = ("status", "epochs", "train_seconds", "evaluation_seconds", "config")

log = logging.getLogger(__name__)


class Price(NamedTuple):
    """What an epoch of a trial takes, evaluations included, and how that is known."""

    minutes_per_epoch: float
    source: str


def price(
    configs: Sequence[TrialConfig],
    measured: Mapping[str, float],
    scale: Mapping[str, Any],
) -> list[Price]:
    """Return each trial's price; `measured` is minutes an epoch by `cost_key`."""
    by_key: dict[str, Price | None] = {}
    examples: dict[str, TrialConfig] = {}
    for config in configs:
        key = _price_key(config)
        if key not in by_key:
            by_key[key], examples[key] = _known_price(config, measured, scale), config
    known = {key: found for key, found in by_key.items() if found is not None}
    for key, config in examples.items():
        if by_key[key] is None:
            priced = [(examples[name], found) for name, found in known.items()]
            by_key[key] = _price_by_operations(config, priced)
    return [by_key[_price_key(config)] or Price(_UNKNOWN_RATE, UNKNOWN) for config in configs]


def measure(results_dir: Path, records: Iterable[tuple[TrialConfig, Record]]) -> dict[str, float]:
    """Return the mean minutes an epoch of finished trials by `cost_key`.

    Those of other sweeps are read from the tables in the results folder.
    """
    rates = dict(_rates_in_tables(results_dir))
    for config, record in records:
        if record.status is Status.EVALUATED:
            seconds = record.last("train_seconds") + record.last("evaluation_seconds")
            rates[config.fingerprint] = (cost_key(config.to_dict()), seconds / 60 / config.epochs)
    by_key: dict[str, list[float]] = {}
    for key, rate in rates.values():
        by_key.setdefault(key, []).append(rate)
    return {key: sum(values) / len(values) for key, values in by_key.items()}


def cost_key(config: Mapping[str, Any]) -> str:
    """Return what decides the time of an epoch: everything but task, seed and budget.

    `config` is a TrialConfig as nested plain data.
    """
    trains = config["finetune_wm"] or config["world_model_from"] == SCRATCH
    names = ("world_model", "policy", "critic", "learner", "fidelity", "evaluation", "planner")
    return json.dumps([trains, *(config.get(name) for name in names)])


def wall_minutes(trials: Iterable[tuple[float, float]], num_devices: int) -> float:
    """Return how long trials take one after another on devices that they share.

    A trial is its minutes and the share of a device that it takes, as a scheduler hands them out:
    in this order, each to the place that is free first.
    """
    trials = list(trials)
    share = max((share for _, share in trials), default=1.0)
    places = [0.0] * max(1, min(len(trials), int(num_devices / share + 1e-9)))
    for minutes, _ in trials:
        heapq.heappush(places, heapq.heappop(places) + minutes)
    return max(places)


def _price_key(config: TrialConfig) -> str:
    return f"{config.runtime.gpu_type} {config.is_pretrained} {cost_key(config.to_dict())}"


def _known_price(
    config: TrialConfig, measured: Mapping[str, float], scale: Mapping[str, Any]
) -> Price | None:
    key = cost_key(config.to_dict())
    if key in measured:
        return Price(measured[key], MEASURED)
    earlier = _rate_of_earlier_runs(config, scale.get("earlier_runs", ()))
    if earlier is not None:
        return Price(earlier, EARLIER)
    guess = scale.get("minutes_per_1000_epochs", {}).get(config.variant)
    return None if guess is None else Price(guess / 1000, GUESSED)


def _rate_of_earlier_runs(config: TrialConfig, runs: Iterable[Mapping[str, Any]]) -> float | None:
    """Return minutes an epoch of the runs with the trial's settings, on its GPU if there are any.

    Where runs of the same settings disagree, the slower: a plan that is too short loses a job to
    its time limit.
    """
    rates = [
        (
            run["gpu"] == config.runtime.gpu_type,
            sum(run["minutes"]) / len(run["minutes"]) / run["epochs"],
        )
        for run in runs
        if all(setting_of(config, key) == value for key, value in run["settings"].items())
    ]
    return max(rates)[1] if rates else None


def _price_by_operations(
    config: TrialConfig, priced: Sequence[tuple[TrialConfig, Price]]
) -> Price | None:
    """Price by the operations of an update beside the priced trial that is most like this one."""
    if not priced:
        return None

    def likeness(candidate: tuple[TrialConfig, Price]) -> tuple[bool, int]:
        other = candidate[0]
        same = (other.world_model.kind == config.world_model.kind, other.policy == config.policy)
        return other.trains_world_model == config.trains_world_model, sum(same)

    other, known = max(priced, key=likeness)
    ratio = count_update_flops(config).total / count_update_flops(other).total
    return Price(known.minutes_per_epoch * ratio, OPERATIONS)


def _rates_in_tables(results_dir: Path) -> Iterable[tuple[str, tuple[str, float]]]:
    for path in sorted(results_dir.glob("*/trials.arrow")):
        try:
            table = results.read_table(path)
        except ValueError as error:
            log.warning("the plan learns nothing from a table: %s", error)
            continue
        rows = table.select(["trial", *_COLUMNS]).to_pylist()
        for row in rows:
            seconds = (row["train_seconds"], row["evaluation_seconds"])
            if row["status"] == Status.EVALUATED and None not in seconds:
                key = cost_key(json.loads(row["config"]))
                yield row["trial"], (key, sum(seconds) / 60 / row["epochs"])
