"""What a sweep would run: which trials are new or done, and what the rest costs."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pwmray import registry, tables
from pwmray.build import count_parameters
from pwmray.config import TrialConfig
from pwmray.levels import USUAL_AXES, level_of, names_of
from pwmray.pretrained import check_pretrained
from pwmray.registry import Status
from pwmray.trial import CHECKPOINT_FILE

BYTES_PER_PARAMETER = 3 * 4  # float32 weights and Adam's two moments
_CURVE_ROW_BYTES = 200
_DEFAULT_MINUTES = 10.0  # per 1,000 epochs, where neither a trial nor the scale knows better


@dataclass(frozen=True)
class PlannedTrial:
    """One trial of the sweep and where it stands."""

    config: TrialConfig
    name: str  # readable, unique within the plan
    levels: dict[str, Any]  # on the axes that no trial's label names
    state: str  # new, resumes, running (another live process), failed, done
    minutes: float  # of one device, for the whole trial
    disk_bytes: int

    @property
    def is_to_run(self) -> bool:
        return self.state in ("new", "resumes", "failed")


@dataclass(frozen=True)
class Plan:
    """A sweep at one scale against one results folder."""

    sweep: Any  # pwmray.sweep.Sweep
    scale: str
    results: Path
    trials: list[PlannedTrial]

    @property
    def to_run(self) -> list[PlannedTrial]:
        return [trial for trial in self.trials if trial.is_to_run]

    @property
    def minutes(self) -> float:
        """Device minutes still to run."""
        return sum(trial.minutes for trial in self.to_run)

    @property
    def disk_bytes(self) -> int:
        """Disk still to be written."""
        return sum(trial.disk_bytes for trial in self.to_run)

    def counts(self) -> dict[str, int]:
        """Return how many trials are in each state."""
        states = [trial.state for trial in self.trials]
        return {state: states.count(state) for state in dict.fromkeys(states)}


def make(sweep: Any, scale: str, configs: list[TrialConfig], results: Path) -> Plan:
    """Look every config up in the results folder and price it; writes nothing.

    Raises ValueError if the folder holds this sweep at another scale.
    """
    tables.check_scale(results / sweep.name, scale)
    for config in configs:
        check_pretrained(config)
    guesses: dict[str, float] = sweep.scales[scale].get("minutes_per_1000_epochs", {})
    known = {
        config.fingerprint: registry.read(registry.trial_folder(results, config.fingerprint))
        for config in configs
    }
    measured = _measured_rates(configs, known)
    axes = sweep.axes
    names = names_of(configs, axes)
    trials = []
    for config, name in zip(configs, names, strict=True):
        guess = guesses.get(config.variant, _DEFAULT_MINUTES) / 1000
        rate = measured.get(_cost_key(config), guess)
        folder = registry.trial_folder(results, config.fingerprint)
        state = _state(folder, known[config.fingerprint])
        levels = {a: level_of(config, a, axes[a]) for a in axes if a not in USUAL_AXES}
        price = rate * config.epochs, _disk_bytes(config)
        trials.append(PlannedTrial(config, name, levels, state, *price))
    return Plan(sweep, scale, results, trials)


def check_disk(plan: Plan) -> None:
    """Raise ValueError unless the planned checkpoints and curves fit on the disk."""
    existing = next(p for p in (plan.results, *plan.results.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if plan.disk_bytes > free:
        raise ValueError(
            f"no room for the results: {len(plan.to_run)} trials need "
            f"{_size(plan.disk_bytes)}, {existing} has {_size(free)} free"
        )


def as_json(plan: Plan) -> str:
    """Return the plan as one JSON object."""
    trials = [
        {
            "fingerprint": trial.config.fingerprint,
            "state": trial.state,
            "task": trial.config.task,
            "variant": trial.config.variant,
            "epochs": trial.config.epochs,
            "seed": trial.config.seed,
            "methodology": trial.config.methodology,
            "fidelity": trial.config.fidelity.name,
            "levels": trial.levels,
            "num_cpus": trial.config.runtime.num_cpus,
            "gpu_fraction": trial.config.runtime.gpu_fraction,
            "minutes": round(trial.minutes, 3),
            "disk_mb": round(trial.disk_bytes / 1e6, 3),
        }
        for trial in plan.trials
    ]
    summary = {
        "name": plan.sweep.name,
        "scale": plan.scale,
        "results": str(plan.results),
        "counts": plan.counts(),
        "minutes_to_run": round(plan.minutes, 2),
        "disk_mb_to_write": round(plan.disk_bytes / 1e6, 2),
    }
    return json.dumps({**summary, "trials": trials}, indent=2)


def as_table(plan: Plan) -> str:
    """Return the plan as text: one line a trial, then the sums."""
    width = max(len(trial.config.task) for trial in plan.trials)
    axes, levels = _level_columns(plan)
    header = f"{'trial':<16}  {'task':<{width}}  {'variant':<10} {'epochs':>7} {'seed':>6}  {axes}"
    lines = [f"{header}{'state':<8} {'minutes':>8} {'disk MB':>8}  resources"]
    for trial, level in zip(plan.trials, levels, strict=True):
        config = trial.config
        lines.append(
            f"{config.fingerprint}  {config.task:<{width}}  {config.variant:<10} "
            f"{config.epochs:>7} {config.seed:>6}  {level}{trial.state:<8} {trial.minutes:>8.1f} "
            f"{trial.disk_bytes / 1e6:>8.1f}  {_resources(config)}"
        )
    counts = ", ".join(f"{number} {state}" for state, number in plan.counts().items())
    lines += [
        "",
        f"sweep {plan.sweep.name} at scale {plan.scale}: {len(plan.trials)} trials ({counts})",
        f"to run: {len(plan.to_run)} trials, about {plan.minutes:.0f} device minutes, "
        f"{_size(plan.disk_bytes)} on disk in {plan.results}",
    ]
    return "\n".join(lines)


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


def _state(folder: Path, record: registry.Record) -> str:
    if record.status is Status.EVALUATED:
        return "done"
    if registry.running_elsewhere(folder):
        return "running"
    if record.status is Status.FAILED:
        return "failed"
    return "resumes" if (folder / CHECKPOINT_FILE).exists() else "new"


def _measured_rates(
    configs: list[TrialConfig], known: dict[str, registry.Record]
) -> dict[str, float]:
    """Return device minutes an epoch, evaluations included, by cost key, of finished trials."""
    rates: dict[str, list[float]] = {}
    for config in configs:
        record = known[config.fingerprint]
        if record.status is Status.EVALUATED:
            seconds = record.last("train_seconds") + record.last("evaluation_seconds")
            rates.setdefault(_cost_key(config), []).append(seconds / 60 / config.epochs)
    return {key: sum(values) / len(values) for key, values in rates.items()}


def _cost_key(config: TrialConfig) -> str:
    """Return what decides the time of an epoch: everything but task, seed and budget."""
    parts = config.to_dict()
    names = ("world_model", "policy", "critic", "learner", "fidelity", "evaluation", "planner")
    return json.dumps([config.trains_world_model, *(parts[name] for name in names)])


def _disk_bytes(config: TrialConfig) -> int:
    rows = config.epochs // config.evaluation.every_epochs + config.evaluation.final_episodes
    return sum(count_parameters(config).values()) * BYTES_PER_PARAMETER + rows * _CURVE_ROW_BYTES


def _resources(config: TrialConfig) -> str:
    runtime = config.runtime
    return f"{runtime.num_cpus} CPU, {runtime.gpu_fraction:g} GPU if there is one"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
