"""A plan as a table for people and as JSON for machines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pwmray import prices, system
from pwmray.outdated import describe_other_code, describe_outdated, find_outdated
from pwmray.parity import describe_unequal
from pwmray.plan import Plan, PlannedTrial, check_disk
from pwmray.pretraining import prices as pretraining_prices
from pwmray.pretraining.prerequisites import Prerequisite
from pwmray.registry.states import describe_unreadable
from pwmray.room import describe_umask, size_text
from pwmray.runtime import RuntimeConfig
from pwmray.unread import describe_repeated
from pwmray.wording import number_of

_NOT_DONE = {"missing": "missing", "resumes": "missing, half done", "running": "being made"}
_NUM_LISTED = 5  # trials in a line
_PENDING = "-" * 16  # in place of a fingerprint that a missing world model decides


def as_json(plan: Plan, num_devices: int | None = None) -> str:
    """Return the plan as one JSON object."""
    devices = _num_devices(plan, num_devices)
    summary = {
        "name": plan.sweep.name,
        "scale": plan.scale,
        "results": str(plan.results),
        "counts": plan.counts(),
        "minutes_to_run": round(plan.minutes, 2),
        "device": _device(plan),
        "device_hours": {gpu: round(hours, 3) for gpu, hours in _hours_by_gpu(plan).items()},
        "wall_hours": round(_wall_hours(plan, devices), 3),
        "wall_on_devices": devices,
        "priced_by": _sources(plan),
        "disk_mb_to_write": round(plan.disk_bytes / 1e6, 2),
        "unreadable": list(plan.unreadable.values()),
        "cannot_run": _obstacle(plan) if plan.to_run else None,
        "missing_data": list(plan.missing_data),
        "on_other_data": [trial.config.fingerprint for trial in plan.on_other_data],
        "to_begin_again": [trial.config.fingerprint for trial in plan.to_begin_again],
        "of_earlier_versions": find_outdated(plan),
        "unlike_sizes": describe_unequal(plan),
        "of_other_code": describe_other_code(plan),
        "repeated": describe_repeated(plan),
        "prerequisites": [_prerequisite(plan, wanted) for wanted in plan.prerequisites],
    }
    return json.dumps({**summary, "trials": [_trial(trial) for trial in plan.trials]}, indent=2)


def as_table(plan: Plan, num_devices: int | None = None) -> str:
    """Return the plan as text: one line a trial, then the sums, then what is missing."""
    width = max(len(trial.config.task) for trial in plan.trials)
    axes, levels = _level_columns(plan)
    wide = max(10, *(len(trial.config.variant) for trial in plan.trials))
    header = (
        f"{'trial':<16}  {'task':<{width}}  {'variant':<{wide}} {'epochs':>7} {'seed':>6}  {axes}"
    )
    lines = [f"{header}{'state':<8} {'minutes':>8} {'disk MB':>8}  resources"]
    for trial, level in zip(plan.trials, levels, strict=True):
        config = trial.config
        lines.append(
            f"{_fingerprint(trial) or _PENDING}  {config.task:<{width}}  {config.variant:<{wide}} "
            f"{config.epochs:>7} {config.seed:>6}  {level}{trial.state:<8} "
            f"{trial.minutes_left:>8.1f} {trial.disk_bytes / 1e6:>8.1f}  "
            f"{_resources(config.runtime)}"
        )
    return "\n".join([*lines, "", as_summary(plan, num_devices)])


def as_summary(plan: Plan, num_devices: int | None = None) -> str:
    """Return the plan as text without its trials: the sums, then what is missing."""
    return "\n".join([*_sums(plan, num_devices), *_missing(plan)])


def _sums(plan: Plan, num_devices: int | None) -> list[str]:
    counts = ", ".join(f"{number} {state}" for state, number in plan.counts().items())
    number = number_of(len(plan.trials), "trial")
    first = f"sweep {plan.sweep.name} at scale {plan.scale}: {number} ({counts})"
    if not plan.to_run:
        return [first]
    device, hours = _device(plan), _hours_by_gpu(plan)
    by_gpu = ", ".join(f"{gpu} {share:.1f}" for gpu, share in hours.items() if gpu != device)
    checkpoints = sum(trial.checkpoint_bytes for trial in plan.to_run)
    curves = sum(trial.curve_bytes for trial in plan.to_run)
    sources = ", ".join(f"{source} ({number})" for source, number in _sources(plan).items())
    num_devices = _num_devices(plan, num_devices)
    longest = max(trial.minutes_left for trial in plan.to_run) / 60
    obstacle = _obstacle(plan)
    return [
        first,
        f"to run: {number_of(len(plan.to_run), 'trial')}, about "
        f"{duration_text(sum(hours.values()), device)}"
        f"{f' ({by_gpu})' if by_gpu else ''}; minutes by: {sources}",
        f"wall time: about {duration_text(_wall_hours(plan, num_devices))} on "
        f"{number_of(num_devices, device)}; {duration_text(longest)} for the longest trial",
        f"disk: {size_text(plan.disk_bytes)} in {plan.results}: checkpoints "
        f"{size_text(checkpoints)}, curves and evaluations {size_text(curves)}",
        *([f"cannot run: {obstacle}"] if obstacle else []),
    ]


def _obstacle(plan: Plan) -> str | None:
    """Return why the trials to run could not be written, as a run would say it."""
    try:
        check_disk(plan, is_tried=False)
    except ValueError as error:
        return str(error)
    return None


def duration_text(hours: float, device: str = "") -> str:
    """Return hours, or minutes where they are few, as a person reads them."""
    number, unit = (hours, "hours") if hours >= 1 else (hours * 60, "minutes")
    return " ".join(filter(None, (f"{number:.1f}", device, unit)))


def _missing(plan: Plan) -> list[str]:
    lines = [f"missing: {line}" for line in plan.missing_data]
    lines += describe_notes(plan)
    for wanted in plan.prerequisites:
        if wanted.state != "done":
            settings = wanted.pretraining.settings
            lines += [
                f"{_NOT_DONE[wanted.state]}: {wanted.pretraining.label}, {settings.iterations} "
                f"iterations{_cost(plan, wanted)}, for {number_of(wanted.num_trials, 'trial')}, at "
                f"{wanted.path}",
                f"  make it with: {wanted.command}, or add --pretrain"
                if wanted.command
                else "  make it by adding --pretrain to this command",
            ]
    return lines


def describe_notes(plan: Plan) -> list[str]:
    """Return a line about whatever may surprise whoever reads the results."""
    about_trials = [*describe_unreadable(plan.unreadable), *_describe_other_data(plan)]
    about_code = [*describe_outdated(plan), *describe_other_code(plan)]
    about_grid = [*describe_unequal(plan), *describe_repeated(plan)]
    return [*describe_umask(plan.results), *about_trials, *about_code, *about_grid]


def _describe_other_data(plan: Plan) -> list[str]:
    """Return a line about the done trials of other data than is there now, and one about others.

    Each pretrained world model of other data has a line of its own.
    """
    lines = [
        describe_pretrained(w.pretraining.label, w.folder) for w in plan.pretrained_on_other_data
    ]
    if trials := plan.on_other_data:
        lines.append(
            f"note: {len(trials)} done trial{'s were' if len(trials) > 1 else ' was'} trained on "
            f"data of {_tasks(trials)} that has changed since; to train again, delete from "
            f"{plan.results}/trials: {_name(trials)}"
        )
    if trials := plan.to_begin_again:
        lines.append(
            f"note: {len(trials)} trial{'s begin' if len(trials) > 1 else ' begins'} again at "
            f"epoch 0, since the data of {_tasks(trials)} changed: {_name(trials)}"
        )
    return lines


def describe_pretrained(label: str, folder: Path) -> str:
    """Return a line about a pretraining that is done, on other data than is there now."""
    return (
        f"note: {label}: pretrained on data that has changed since; to train it again, delete "
        f"{folder}"
    )


def _tasks(trials: Sequence[PlannedTrial]) -> str:
    return ", ".join(dict.fromkeys(trial.config.task for trial in trials))


def _name(trials: Sequence[PlannedTrial]) -> str:
    """Return the first trials' fingerprints, and how many more there are."""
    named = ", ".join(trial.config.fingerprint for trial in trials[:_NUM_LISTED])
    num_more = len(trials) - _NUM_LISTED
    return (
        f"{named} and {num_more} more (--plan --format json names all)" if num_more > 0 else named
    )


def _cost(plan: Plan, wanted: Prerequisite) -> str:
    price = _price(plan, wanted)
    if price is None:
        return ""
    return f" (about {duration_text(price.minutes / 60, _device(plan))} by {price.source})"


def _price(plan: Plan, wanted: Prerequisite) -> pretraining_prices.Price | None:
    scale = plan.sweep.scales[plan.scale]
    return pretraining_prices.price(wanted.pretraining, scale, plan.results)


def _prerequisite(plan: Plan, wanted: Prerequisite) -> dict[str, Any]:
    price = None if wanted.state == "done" else _price(plan, wanted)
    return {
        "fingerprint": wanted.pretraining.fingerprint,
        "what": wanted.pretraining.label,
        "state": wanted.state,
        "iterations": wanted.pretraining.settings.iterations,
        "minutes_left": None if price is None else round(price.minutes, 3),
        "trials": wanted.num_trials,
        "on_other_data": wanted in plan.pretrained_on_other_data,
        "path": str(wanted.path),
        "command": wanted.command or None,
    }


def _trial(trial: PlannedTrial) -> dict[str, Any]:
    config = trial.config
    return {
        "fingerprint": _fingerprint(trial),
        "name": trial.name,
        "state": trial.state,
        "task": config.task,
        "variant": config.variant,
        "epochs": config.epochs,
        "seed": config.seed,
        "methodology": config.methodology,
        "fidelity": config.fidelity.name,
        "levels": trial.levels,
        "num_cpus": config.runtime.num_cpus,
        "gpu_fraction": config.runtime.gpu_fraction,
        "gpu_type": config.runtime.gpu_type,
        "minutes": round(trial.minutes, 3),  # of the whole trial
        "minutes_left": round(trial.minutes_left, 3),
        "priced_by": trial.price.source,
        "disk_mb": round(trial.disk_bytes / 1e6, 3),
    }


def _fingerprint(trial: PlannedTrial) -> str | None:
    return None if trial.state == "waits" else trial.config.fingerprint


def _device(plan: Plan) -> str:
    """Return what the scale's minutes are of."""
    return plan.sweep.scales[plan.scale].get("device", "device")


def _num_devices(plan: Plan, asked: int | None) -> int:
    """Return the number asked for, else this machine's; one GPU where it has none."""
    if asked is not None:
        return asked
    if _device(plan) != "GPU":
        return system.num_cores()
    import torch

    return max(1, torch.cuda.device_count())


def _share(plan: Plan, trial: PlannedTrial) -> float:
    """Return how many devices a trial takes: a share of a GPU, or some cores."""
    runtime = trial.config.runtime
    return runtime.gpu_fraction if _device(plan) == "GPU" else runtime.num_cpus


def _hours_by_gpu(plan: Plan) -> dict[str, float]:
    """Return device hours by the type of GPU asked for, else by the kind of device."""
    hours: dict[str, float] = {}
    for trial in plan.to_run:
        device = _device(plan)
        name = (trial.config.runtime.gpu_type or device) if device == "GPU" else device
        hours[name] = hours.get(name, 0.0) + trial.minutes_left * _share(plan, trial) / 60
    return hours


def _wall_hours(plan: Plan, num_devices: int) -> float:
    trials = [(trial.minutes_left, _share(plan, trial)) for trial in plan.to_run]
    return prices.wall_minutes(trials, num_devices) / 60


def _sources(plan: Plan) -> dict[str, int]:
    sources = [trial.price.source for trial in plan.to_run]
    return {source: sources.count(source) for source in dict.fromkeys(sources)}


def _level_columns(plan: Plan) -> tuple[str, list[str]]:
    """Return the header and each trial's cells of the columns that only this sweep has."""
    axes = list(plan.trials[0].levels)
    texts = [["-" if v is None else str(v) for v in t.levels.values()] for t in plan.trials]
    widths = [max(map(len, column)) for column in zip(axes, *texts, strict=True)]
    rows = [
        "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=True))
        for row in (axes, *texts)
    ]
    return rows[0], rows[1:]


def _resources(runtime: RuntimeConfig) -> str:
    name = runtime.gpu_type or "GPU"
    return f"{runtime.num_cpus} CPU, {runtime.gpu_fraction:g} {name} if there is one"
