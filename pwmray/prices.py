"""What a trial costs: device minutes an epoch, from finished trials or what else is known.

In this order: finished trials of the same settings, in any sweep of the results folder, on the kind
of device that the trial asks for, else on another GPU (a CPU's tell nothing of a GPU); earlier runs
of such settings that the scale names; the scale's guess for the variant, times the operations of an
update where its settings are not the scale's, and times what finished trials of the plan took
beside their own guess; these operations beside a trial that is already priced; ten minutes for
1,000 epochs. A trial that has a smaller share of a device than those which tell of its time takes
so many times longer: that several on one device gain anything is not foretold.
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

MEASURED, GUESSED = "finished trials", "the scale's guess"
EARLIER = "earlier runs of other code"
GUESSED_BY_OPERATIONS = f"{GUESSED} by operations"
AT_PACE = "at the pace of finished trials"
OPERATIONS, UNKNOWN = "operations", "10 minutes for 1,000 epochs"
_UNKNOWN_RATE = 10.0 / 1000
_COLUMNS = ("trial", "status", "epochs", "train_seconds", "evaluation_seconds", "device", "config")
_CPU = "cpu"  # as a device is recorded; others are GPUs
_GPUS = Path("/proc/driver/nvidia/gpus")

log = logging.getLogger(__name__)


class Price(NamedTuple):
    """What a trial takes, and how that is known.

    An epoch includes its part of the evaluations during training. The final evaluation, which takes
    as long in a short trial as in a long one, is apart where finished trials tell of it.
    """

    minutes_per_epoch: float
    source: str
    final_minutes: float = 0.0

    def minutes(self, epochs: int) -> float:
        """Return the minutes of so many epochs and the final evaluation."""
        return self.minutes_per_epoch * epochs + self.final_minutes


class Rate(NamedTuple):
    """What finished trials took on one kind of device, each with the same share of it."""

    device: str
    share: float  # of a GPU, or cores
    minutes_per_epoch: float
    final_minutes: float = 0.0


Measured = Mapping[str, Sequence[Rate]]  # by cost_key


class _Finished(NamedTuple):
    """A finished trial; of those in other sweeps' tables it is not known how they ended."""

    kind: tuple[str, str, float]  # cost_key, device, share
    epochs: int
    minutes: float
    final_minutes: float | None


def price(
    configs: Sequence[TrialConfig], measured: Measured, scale: Mapping[str, Any]
) -> list[Price]:
    """Return each trial's price; a scale whose `device` is GPU runs on one, others on what is here.

    Without a type of GPU that a trial asks for, it is taken to run on that of this machine.
    """
    here = _device_here()
    if here == _CPU and scale.get("device") == "GPU":  # planned here, run elsewhere
        here = None
    groups: dict[str, list[TrialConfig]] = {}
    keys = [_price_key(config) for config in configs]
    for key, config in zip(keys, configs, strict=True):
        groups.setdefault(key, []).append(config)
    found = {key: _known_price(group[0], measured, scale, here) for key, group in groups.items()}
    known = {key: each for key, each in found.items() if each is not None}
    known = _keep_pace(known, groups, scale)
    priced = [(groups[key][0], each) for key, each in known.items()]
    for key, group in groups.items():
        if key not in known:
            known[key] = _price_by_operations(group[0], priced) or Price(
                _UNKNOWN_RATE * _slowdown(group[0], scale), UNKNOWN
            )
    return [known[key] for key in keys]


def measure(results_dir: Path, records: Iterable[tuple[TrialConfig, Record]]) -> Measured:
    """Return what finished trials took, those of one kind, device and share taken together.

    Those of other sweeps are read from the tables in the results folder.
    """
    finished = dict(_finished_in_tables(results_dir))
    for config, record in records:
        if record.status is Status.EVALUATED and (device := record.last("device")):
            finished[config.fingerprint] = _finished(config, record, device)
    groups: dict[tuple[str, str, float], list[_Finished]] = {}
    for trial in finished.values():
        groups.setdefault(trial.kind, []).append(trial)
    measured: dict[str, list[Rate]] = {}
    for (key, device, share), trials in groups.items():
        measured.setdefault(key, []).append(Rate(device, share, *_mean(trials)))
    return measured


def _finished(config: TrialConfig, record: Record, device: str) -> _Finished:
    runtime = (record.last("config") or {}).get("runtime", {})
    kind = (cost_key(config.to_dict()), device, _share(runtime, device))
    evaluation = record.last("evaluation_seconds")
    before = [e for e in record.events if e.get("status") == Status.COMPLETED]
    during = before[-1].get("evaluation_seconds") if before else None
    final = None if during is None else (evaluation - during) / 60
    return _Finished(kind, config.epochs, (record.last("train_seconds") + evaluation) / 60, final)


def _mean(trials: Sequence[_Finished]) -> tuple[float, float]:
    """Return the minutes an epoch, and those of a final evaluation, 0 where no trial tells."""
    known = [(t, t.final_minutes) for t in trials if t.final_minutes is not None]
    known = known or [(trial, 0.0) for trial in trials]
    minutes = sum(trial.minutes - final for trial, final in known)
    epochs = sum(trial.epochs for trial, _ in known)
    return minutes / epochs, sum(final for _, final in known) / len(known)


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
    runtime = config.runtime
    asked = f"{runtime.gpu_type} {runtime.gpu_fraction} {runtime.num_cpus}"
    return f"{asked} {config.is_pretrained} {cost_key(config.to_dict())}"


def _share(runtime: Mapping[str, Any], device: str) -> float:
    """Return how much of a device a trial asks for, all of one if its `runtime` does not say."""
    return runtime.get("num_cpus" if device == _CPU else "gpu_fraction", 1)


def _slowdown(config: TrialConfig, scale: Mapping[str, Any]) -> float:
    """Return how many times longer a trial takes than alone on a device, if sharing gains nothing.

    That is told of a GPU; with more cores than one a trial is not taken to be faster.
    """
    return max(1.0, 1 / config.runtime.gpu_fraction) if scale.get("device") == "GPU" else 1.0


def _known_price(
    config: TrialConfig, measured: Measured, scale: Mapping[str, Any], here: str | None
) -> Price | None:
    rates = measured.get(cost_key(config.to_dict()), ())
    if found := _measured_price(config, rates, here):
        return found
    earlier = _rate_of_earlier_runs(config, scale.get("earlier_runs", ()))
    if earlier is not None:
        return Price(earlier * _slowdown(config, scale), EARLIER)
    return _guessed_price(config, scale)


def _guessed_price(config: TrialConfig, scale: Mapping[str, Any]) -> Price | None:
    """Return the scale's guess, which is for a trial from scratch with the scale's own settings.

    Of others by their operations: a frozen world model takes a third, 8 substeps several times it.
    """
    guess = scale.get("minutes_per_1000_epochs", {}).get(config.variant)
    if guess is None:
        return None
    rate = guess / 1000 * _slowdown(config, scale)
    own = {key: getattr(config, key) for key in ("variant", "task", "seed", "epochs")}
    try:
        usual = TrialConfig.from_flat({**scale["set"], **own})
    except ValueError:  # the scale's settings may ask for some that the sweep holds
        usual = config
    if cost_key(config.to_dict()) == cost_key(usual.to_dict()):
        return Price(rate, GUESSED)
    ratio = count_update_flops(config).total / count_update_flops(usual).total
    return Price(rate * ratio, GUESSED_BY_OPERATIONS)


def _keep_pace(
    known: Mapping[str, Price], groups: Mapping[str, Sequence[TrialConfig]], scale: Mapping
) -> dict[str, Price]:
    """Return the prices, the guessed ones times what finished trials took beside their guesses.

    The guesses are of one machine, and one arm's pace on this one is that of the others.
    """
    ratios = [
        sum(found.minutes(config.epochs) for config in groups[key])
        / sum(guess.minutes(config.epochs) for config in groups[key])
        for key, found in known.items()
        if found.source.startswith(MEASURED) and (guess := _guessed_price(groups[key][0], scale))
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


def _measured_price(config: TrialConfig, rates: Sequence[Rate], here: str | None) -> Price | None:
    """Return the price by what `rates` has of each device, where that tells of the one asked for.

    `here` is this machine's device, None for a GPU elsewhere. Of several the slowest.
    """
    if here == _CPU:
        on_cpu = [rate for rate in rates if rate.device == _CPU]
        return _slowest(config, on_cpu, MEASURED) if on_cpu else None
    gpus = [rate for rate in rates if rate.device != _CPU]
    wanted = config.runtime.gpu_type or here
    if alike := [rate for rate in gpus if _is_of_type(rate.device, wanted)]:
        return _slowest(config, alike, MEASURED)
    if not gpus:
        return None
    device = max(gpus, key=lambda rate: rate.minutes_per_epoch * rate.share).device
    return _slowest(config, [r for r in gpus if r.device == device], f"{MEASURED} on {device}")


def _slowest(config: TrialConfig, rates: Sequence[Rate], source: str) -> Price:
    """Return the highest price by rates of one kind of device, by those of its own share if any."""
    own = _share(config.to_dict()["runtime"], rates[0].device)
    alike = [rate for rate in rates if rate.share == own] or rates
    times = [max(1.0, rate.share / own) for rate in alike]
    found = zip(times, alike, strict=True)
    return max(
        Price(time * rate.minutes_per_epoch, source, time * rate.final_minutes)
        for time, rate in found
    )


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
    return known._replace(minutes_per_epoch=known.minutes_per_epoch * ratio, source=OPERATIONS)


def _finished_in_tables(results_dir: Path) -> Iterable[tuple[str, _Finished]]:
    for path in sorted(results_dir.glob("*/trials.arrow")):
        try:
            rows = results.read_table(path, results.TRIALS, _COLUMNS).to_pylist()
        except (ValueError, OSError) as error:  # it may be another user's
            log.warning("a table cannot be used to price the plan: %s", error)
            continue
        for row in rows:
            known = (row["train_seconds"], row["evaluation_seconds"], row["device"])
            if row["status"] == Status.EVALUATED and None not in known:
                try:
                    yield row["trial"], _finished_in_row(row)
                except (AttributeError, LookupError, TypeError, ValueError) as error:  # edited
                    pass_over(path.parent, row, error)


def _finished_in_row(row: Mapping[str, Any]) -> _Finished:
    config, device = json.loads(row["config"]), row["device"]
    share = _share(config.get("runtime") or {}, device)
    minutes = (row["train_seconds"] + row["evaluation_seconds"]) / 60
    return _Finished((cost_key(config), device, share), row["epochs"], minutes, None)


def pass_over(folder: Path, row: Mapping[str, Any], error: Exception) -> None:
    """Say that a trial in the tables of a sweep or a search tells nothing of what others take."""
    why = str(error).partition(" valid:")[0].rstrip(";")  # which keys there are helps nobody here
    log.warning("trial %s in %s cannot be used to price the plan: %s", row["trial"], folder, why)
