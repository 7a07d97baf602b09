"""What a trial costs: device minutes an epoch, from finished trials or what else is known.

In this order: finished trials of the same settings, in any sweep of the results folder, on the kind
of device that the trial asks for, else on another GPU (a CPU's tell nothing of a GPU); earlier runs
of such settings that the scale names; the scale's guess for the variant, times the operations of an
update where its settings are not the scale's, and times what finished trials of the plan took
beside their own guess; these operations beside a trial that is already priced; ten minutes for
1,000 epochs.
"""

import heapq
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pwmray import results
from pwmray.config import TrialConfig
from pwmray.flops import count_update_flops
from pwmray.levels import setting_of
from pwmray.placement import count_places
from pwmray.registry import Record, Status

MEASURED, EARLIER, GUESSED = "finished trials", "earlier runs", "the scale's guess"
GUESSED_BY_OPERATIONS = f"{GUESSED} by operations"
AT_PACE = "at the pace of finished trials"
OPERATIONS, UNKNOWN = "operations", "10 minutes for 1,000 epochs"
_UNKNOWN_RATE = 10.0 / 1000
_COLUMNS = ("status", "epochs", "train_seconds", "evaluation_seconds", "device", "config")
_CPU = "cpu"  # as a device is recorded; others are GPUs
_GPUS = Path("/proc/driver/nvidia/gpus")

# Minutes an epoch by cost_key and device.
Measured = Mapping[str, Mapping[str, float]]

log = logging.getLogger(__name__)


class Price(NamedTuple):
    """What an epoch of a trial takes, evaluations included, and how that is known."""

    minutes_per_epoch: float
    source: str


def price(
    configs: Sequence[TrialConfig], measured: Measured, scale: Mapping[str, Any]
) -> list[Price]:
    """Return each trial's price; a scale whose `device` is GPU runs on one, others on what is here.

    Without a type of GPU that a trial asks for, it is taken to run on that of this machine.
    """
    here = _device_here()
    if here == _CPU and scale.get("device") == "GPU":  # planned here, run elsewhere
        here = None
    by_key: dict[str, Price | None] = {}
    examples: dict[str, TrialConfig] = {}
    keys = [_price_key(config) for config in configs]
    for key, config in zip(keys, configs, strict=True):
        if key not in by_key:
            by_key[key] = _known_price(config, measured, scale, here)
            examples[key] = config
    known = {key: found for key, found in by_key.items() if found is not None}
    known = _keep_pace(known, examples, scale)
    by_key |= known
    for key, config in examples.items():
        if by_key[key] is None:
            priced = [(examples[name], found) for name, found in known.items()]
            by_key[key] = _price_by_operations(config, priced)
    return [by_key[key] or Price(_UNKNOWN_RATE, UNKNOWN) for key in keys]


def measure(results_dir: Path, records: Iterable[tuple[TrialConfig, Record]]) -> Measured:
    """Return the mean minutes an epoch of finished trials.

    Those of other sweeps are read from the tables in the results folder.
    """
    rates = dict(_rates_in_tables(results_dir))
    for config, record in records:
        if record.status is Status.EVALUATED and (device := record.last("device")):
            seconds = record.last("train_seconds") + record.last("evaluation_seconds")
            rate = seconds / 60 / config.epochs
            rates[config.fingerprint] = (cost_key(config.to_dict()), device, rate)
    found: dict[str, dict[str, list[float]]] = {}
    for key, device, rate in rates.values():
        found.setdefault(key, {}).setdefault(device, []).append(rate)
    return {
        key: {device: sum(values) / len(values) for device, values in by_device.items()}
        for key, by_device in found.items()
    }


def cost_key(config: Mapping[str, Any]) -> str:
    """Return what decides the time of an epoch: everything but task, seed and budget.

    `config` is a TrialConfig as nested plain data.
    """
    names = ("world_model", "policy", "critic", "learner", "fidelity", "evaluation", "planner")
    return json.dumps([config["finetune_wm"], *(config.get(name) for name in names)])


def wall_minutes(trials: Iterable[tuple[float, float]], num_devices: int) -> float:
    """Return how long trials take one after another on devices that they share.

    A trial is its minutes and the share of a device that it takes, as a scheduler hands them out:
    in this order, each to the place that is free first. No trial has parts of two devices.
    """
    trials = list(trials)
    share = max((share for _, share in trials), default=1.0)
    num_places = count_places({"GPU": share}, [{"GPU": num_devices}])
    places = [0.0] * max(1, min(len(trials), num_places))
    for minutes, _ in trials:
        heapq.heappush(places, heapq.heappop(places) + minutes)
    return max(places)


def _price_key(config: TrialConfig) -> str:
    return f"{config.runtime.gpu_type} {config.is_pretrained} {cost_key(config.to_dict())}"


def _known_price(
    config: TrialConfig, measured: Measured, scale: Mapping[str, Any], here: str | None
) -> Price | None:
    rates = measured.get(cost_key(config.to_dict()), {})
    if found := _measured_price(config.runtime.gpu_type, rates, here):
        return found
    earlier = _rate_of_earlier_runs(config, scale.get("earlier_runs", ()))
    if earlier is not None:
        return Price(earlier, EARLIER)
    return _guessed_price(config, scale)


def _guessed_price(config: TrialConfig, scale: Mapping[str, Any]) -> Price | None:
    """Return the scale's guess, which is for a trial from scratch with the scale's own settings.

    Of others by their operations: a frozen world model takes a third, 8 substeps several times it.
    """
    guess = scale.get("minutes_per_1000_epochs", {}).get(config.variant)
    if guess is None:
        return None
    own = {key: getattr(config, key) for key in ("variant", "task", "seed", "epochs")}
    try:
        usual = TrialConfig.from_flat({**scale["set"], **own})
    except ValueError:  # the scale's settings may ask for some that the sweep holds
        usual = config
    if cost_key(config.to_dict()) == cost_key(usual.to_dict()):
        return Price(guess / 1000, GUESSED)
    ratio = count_update_flops(config).total / count_update_flops(usual).total
    return Price(guess / 1000 * ratio, GUESSED_BY_OPERATIONS)


def _keep_pace(
    known: Mapping[str, Price], examples: Mapping[str, TrialConfig], scale: Mapping[str, Any]
) -> dict[str, Price]:
    """Return the prices, the guessed ones times what finished trials took beside their guesses.

    The guesses are of one machine, and one arm's pace on this one is that of the others.
    """
    ratios = [
        found.minutes_per_epoch / guess.minutes_per_epoch
        for key, found in known.items()
        if found.source.startswith(MEASURED) and (guess := _guessed_price(examples[key], scale))
    ]
    if not ratios:
        return dict(known)
    pace = sum(ratios) / len(ratios)
    return {
        key: Price(found.minutes_per_epoch * pace, f"{found.source} {AT_PACE}")
        if found.source in (GUESSED, GUESSED_BY_OPERATIONS)
        else found
        for key, found in known.items()
    }


def _measured_price(gpu_type: str, rates: Mapping[str, float], here: str | None) -> Price | None:
    """Return the price by what `rates` has of each device, where that tells of the one asked for.

    `here` is this machine's device, None for a GPU elsewhere. Of several the slowest.
    """
    if here == _CPU:
        return Price(rates[_CPU], MEASURED) if _CPU in rates else None
    gpus = [(rate, device) for device, rate in rates.items() if device != _CPU]
    if alike := [rate for rate, device in gpus if _is_of_type(device, gpu_type or here)]:
        return Price(max(alike), MEASURED)
    if not gpus:
        return None
    rate, device = max(gpus)
    return Price(rate, f"{MEASURED} on {device}")


def _is_of_type(device: str, wanted: str | None) -> bool:
    """Tell whether a GPU's name has all words of `wanted`, another name or a type: H100."""
    words = [set(re.findall(r"[a-z0-9]+", (name or "").lower())) for name in (wanted, device)]
    return wanted is not None and words[0] <= words[1]


def _device_here() -> str:
    """Return the name of this machine's first GPU, cpu without one, as trials record it.

    Read from the driver's files: torch would take a second, and memory of the GPU.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return _CPU
    for path in sorted(_GPUS.glob("*/information")):
        if found := re.search(r"^Model:\s*(.+?)\s*$", path.read_text(), re.MULTILINE):
            return found[1]
    return _CPU


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


def _rates_in_tables(results_dir: Path) -> Iterable[tuple[str, tuple[str, str, float]]]:
    for path in sorted(results_dir.glob("*/trials.arrow")):
        try:
            table = results.read_table(path)
        except (ValueError, OSError) as error:  # it may be another user's
            log.warning("a table cannot be used to price the plan: %s", error)
            continue
        rows = table.select(["trial", *_COLUMNS]).to_pylist()
        for row in rows:
            known = (row["train_seconds"], row["evaluation_seconds"], row["device"])
            if row["status"] == Status.EVALUATED and None not in known:
                key, minutes = cost_key(json.loads(row["config"])), sum(known[:2]) / 60
                yield row["trial"], (key, row["device"], minutes / row["epochs"])
