"""A sweep's folder: what was asked for, and its trials' records joined into three tables.

results/<sweep>/
    sweep.json         name, scale, axes, what is compared, the fingerprints asked for so far
    trials.arrow, curves.arrow, evaluations.arrow
    runs.jsonl         one line a run of the driver: its wall time and cores
    tables.claim       which of the sweep's drivers writes these files at the moment
    trials/<name>      links to the trials' own folders, by readable names
"""

import contextlib
import datetime
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pwmray import registry, results
from pwmray.commands import say
from pwmray.config import FORMAT, TrialConfig
from pwmray.files import append_lines, ask_anew, replacing, see_afresh
from pwmray.levels import as_placed, known_by, level_of
from pwmray.registry import CURVE_FILE, EVALUATIONS_FILE, EVENTS_FILE, Record, Status, claim
from pwmray.registry.sweep_folders import FILES, SWEEP_FILE, WORDS, read_sweep
from pwmray.trial_links import link, name_anew
from pwmray.wording import one_line

_FROM_EVENTS = (
    "reason",
    "epochs_reached",
    "world_model_training",
    "world_model_parameters",
    "policy_parameters",
    "critic_parameters",
    "velocity_calls",
    "data_fingerprint",
    "imagined_start_value",
    "real_start_value",
    "train_seconds",
    "evaluation_seconds",
    "host",
    "pid",
    "device",
    "slurm_job_id",
    "ray_version",
)
# Of each process that trained: a trial may be resumed under other code, or on another machine.
_PER_PROCESS = (
    "kernels",
    "cuda_graph",
    "code_version",
    "git_commit",
    "python_version",
    "torch_version",
    "mujoco_version",
)
_ENDS = (*registry.ENDS, Status.CANCELLED)  # unless it runs again since
_CLAIM_FILE = "tables.claim"
_WRITTEN = (SWEEP_FILE, *(f"{name}.arrow" for name in results.SCHEMAS), _CLAIM_FILE)
_POLL_SECONDS = 0.05
_LEAST_SECONDS = 5.0  # between two writings of a driver that runs trials
_MOST_SHARE = 0.05  # of its time that they take
_AGAIN = "delete the folder to run the trial again"


def check_scale(folder: Path, scale: str) -> None:
    """Raise ValueError if the sweep's folder already holds another scale."""
    found = read_sweep(folder).get("scale", scale)
    if found != scale:
        raise ValueError(
            f"{folder} holds the scale {found!r}, not {scale!r}; give another folder with --results"
        )


def open_sweep(plan: Any, command: str) -> Path:
    """Create or grow the sweep's folder; return it. Earlier trials of the sweep stay in it."""
    sweep = plan.sweep
    folder = plan.results / sweep.name
    configs = [trial.config for trial in plan.trials]
    asked = [config.fingerprint for config in configs]
    axes = sweep.axes
    content = {
        "name": sweep.name,
        "scale": plan.scale,
        "format": FORMAT,
        "compare": sweep.compare,
        "within": list(sweep.within),
        "varies": list(axes),
        "axes": {axis: list(keys) for axis, keys in axes.items()},
        "named_levels": sweep.named_levels(plan.scale),
        "command": command,
    }
    names = {trial.config.fingerprint: trial.name for trial in plan.trials}
    with _alone(folder):
        see_afresh(folder / SWEEP_FILE)
        found = read_sweep(folder)
        earlier = [name for name in found.get("trials", []) if name not in names]
        if found.get("format") != FORMAT:  # once: of thousands of trials it takes its time
            earlier = [name for name in earlier if _can_count(plan.results, name)]
        content["trials"] = [*asked, *earlier]
        content[WORDS] = {**found.get(WORDS, {}), **plan.words}
        content[FILES] = {**found.get(FILES, {}), **_world_models(configs)}
        with replacing(folder / SWEEP_FILE) as draft:
            draft.write_text(json.dumps(content, indent=2) + "\n")
        plain = json.loads(json.dumps(content["named_levels"]))  # in a file there are no tuples
        is_renamed = found.get("named_levels", {}) != plain
        renamed = name_anew(plan.results, earlier, content) if is_renamed else {}
        link(folder / "trials", names, renamed)
    return folder


def _can_count(results_dir: Path, name: str) -> bool:
    """Tell whether a trial is done, or may still be: not if its config has another name by now."""
    try:
        record = registry.read(registry.trial_folder(results_dir, name))
        config = record.last("config")
        if record.status is Status.EVALUATED or config is None:
            return True
        return TrialConfig.from_dict(config).fingerprint == name
    except (ValueError, OSError):  # of another version, or its world model is gone: it is told
        return True


def log_run(folder: Path, **fields: Any) -> None:
    """Append one line about a run of the driver; into another user's file it may not, and says."""
    with _alone(folder):
        try:
            append_lines(folder / "runs.jsonl", json.dumps(fields) + "\n")
        except PermissionError as error:  # no reason to end a run as if it had failed
            say(f"{one_line(error)}: this run is not recorded there")


class Pace:
    """When a driver writes its tables again, which takes the longer the more trials there are."""

    def __init__(self) -> None:
        self._due_at = 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is time to."""
        return time.monotonic() >= self._due_at

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Take the time of a writing, by which the next one is due."""
        started = time.monotonic()
        yield
        took = time.monotonic() - started
        self._due_at = time.monotonic() + max(_LEAST_SECONDS, took / _MOST_SHARE)


class Tables:
    """The three tables of a sweep; `write` joins what the trials have written so far."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._results = folder.parent
        self._final: dict[str, _Parts] = {}  # of trials that no longer change
        self.left_out: dict[str, str] = {}  # by fingerprint, of the last join: where and why
        self._curveless: dict[str, str] = {}  # the same of those whose curve was deleted
        self._told: set[str] = set()

    def write(self) -> None:
        """Replace the tables; a trial that runs meanwhile appears as far as it has come.

        An axis of the sweep that no column of `trials` tells has one more there.
        """
        with _alone(self._folder):
            self._write()

    def write_if_alone(self) -> None:
        """Replace the tables, unless another driver of the sweep does so at this moment."""
        held = claim.acquire(self._folder / _CLAIM_FILE)
        if held is not None:
            with held:
                self._write()

    def _write(self) -> None:
        if not (self._folder / SWEEP_FILE).exists():
            return  # somebody deleted it: which trials are the sweep's its driver writes anew
        # The trials last: who reads them meanwhile then finds the episodes of those evaluated.
        for name, table in reversed(self.join().items()):
            results.write_table(self._folder / f"{name}.arrow", table)

    def newly_left_out(self) -> list[str]:
        """Return a line for each trial that the tables lack in whole or in part, each once.

        In whole since it is unreadable; of its curve alone since that is gone.
        """
        lines = {trial: f"left out of the curves: {why}" for trial, why in self._curveless.items()}
        lines |= {trial: f"left out of the tables: {why}" for trial, why in self.left_out.items()}
        new = [trial for trial in lines if trial not in self._told]
        self._told.update(new)
        return [lines[trial] for trial in new]

    def join(self) -> dict[str, pa.Table]:
        """Return the tables without writing them, and without the trials that are unreadable."""
        sweep = read_sweep(self._folder)
        self.left_out = {}
        found = [self._trial_parts(name) for name in sweep["trials"]]
        trials = [parts for parts in found if parts is not None]
        rows = pa.Table.from_pylist([trial.row for trial in trials], schema=results.TRIALS)
        return {
            "trials": _with_levels(rows, sweep),
            "curves": _concatenated([trial.curve for trial in trials], results.CURVE),
            "evaluations": _concatenated(
                [trial.evaluations for trial in trials], results.EVALUATIONS
            ),
        }

    def _trial_parts(self, fingerprint: str) -> "_Parts | None":
        """Return a trial's part; None where its driver has not come to its first event yet.

        None, too, for a trial that is unreadable: it may be an old one, and the others go on.
        """
        if fingerprint in self._final:
            return self._final[fingerprint]
        folder = registry.trial_folder(self._results, fingerprint)
        try:
            return self._read_parts(fingerprint, folder)
        except (ValueError, OSError) as error:
            # Which settings there are helps nobody here.
            why = str(error).partition(" valid:")[0].rstrip(";")
            self.left_out[fingerprint] = f"{folder}: {' '.join(why.split())}"
            return None

    def _read_parts(self, fingerprint: str, folder: Path) -> "_Parts | None":
        record = registry.read(folder)
        if record.status is None:
            return None
        if record.status is Status.EVALUATED:
            ask_anew(folder)  # where there was no curve a moment ago
        curve = _optional(folder / CURVE_FILE, results.CURVE)
        evaluations = results.empty(results.EVALUATIONS)
        if record.status is Status.EVALUATED:
            evaluations = _evaluations(folder / EVALUATIONS_FILE)
            if record.last("train_seconds") and not (folder / CURVE_FILE).exists():
                self._curveless[fingerprint] = f"{folder}: EVALUATED without {CURVE_FILE}; {_AGAIN}"
        row = _trial_row(fingerprint, record, curve, evaluations)
        parts = _Parts(row, curve.replace_schema_metadata(), evaluations.replace_schema_metadata())
        if record.status is Status.EVALUATED:
            self._final[fingerprint] = parts
        return parts


class _Parts(NamedTuple):
    """What one trial adds to the tables."""

    row: dict[str, Any]
    curve: pa.Table
    evaluations: pa.Table


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other drivers of the sweep from its files: the last to write has read the newest."""
    while (held := claim.acquire(folder / _CLAIM_FILE)) is None:
        time.sleep(_POLL_SECONDS)
    with held:
        for draft in claim.find_drafts(folder):  # of a process killed while it wrote
            if draft.name[1:].startswith(_WRITTEN):  # a report may be written beside them now
                draft.unlink(missing_ok=True)
        yield


def _concatenated(parts: list[pa.Table], schema: pa.Schema) -> pa.Table:
    return pa.concat_tables(parts) if parts else results.empty(schema)


def _trial_row(
    fingerprint: str, record: Record, curve: pa.Table, evaluations: pa.Table
) -> dict[str, Any]:
    settings = record.last("config")
    if not isinstance(settings, dict):
        raise ValueError(f"its {EVENTS_FILE} has no config")
    config = TrialConfig.from_dict(settings)
    status = record.status
    row = {name: record.last(name) for name in _FROM_EVENTS}
    row |= {name: _joined(values) for name, values in _trained_by(record).items()}
    if status not in (Status.FAILED, Status.CANCELLED):
        row["reason"] = None
    final = _returns(evaluations, results.POLICY)
    planned = _returns(evaluations, results.PLANNER)
    curve_returns = [value for value in curve["return_mean"].to_pylist() if value is not None]
    return row | {
        "trial": fingerprint,
        "status": status,
        "task": config.task,
        "variant": config.variant,
        "world_model": config.world_model.kind,
        "policy": config.policy.kind,
        "epochs": config.epochs,
        "seed": config.seed,
        "methodology": config.methodology,
        "fidelity": config.fidelity.name,
        "world_model_from": record.last("world_model_id"),
        "return_mean": float(final.mean()) if len(final) else None,
        "return_sd": float(final.std(ddof=1)) if len(final) > 1 else None,
        "plan_return_mean": float(planned.mean()) if len(planned) else None,
        "best_return": max(curve_returns, default=None),
        "evaluation_episodes": len(final),
        "evaluation_protocol": config.evaluation.protocol,
        "attempts": record.count(Status.RUNNING),
        "created_at": datetime.datetime.fromisoformat(record.events[0]["time"]),
        "started_at": record.time_of(Status.RUNNING),
        "ended_at": record.time_of(*_ENDS) if status in _ENDS else None,
        "config": json.dumps(config.to_dict()),
    }


def _trained_by(record: Record) -> dict[str, list[str]]:
    """Return what the trial's training ran under, since it last began at epoch 0."""
    begun = [event for event in record.events if event.get("status") == Status.RUNNING]
    first = max((i for i, event in enumerate(begun) if not event.get("epoch")), default=0)
    found = {name: [event.get(name) for event in begun[first:]] for name in _PER_PROCESS}
    return {name: [value for value in values if value] for name, values in found.items()}


def _joined(values: list[str]) -> str | None:
    return " and ".join(dict.fromkeys(values)) or None


def _world_models(configs: Sequence[TrialConfig]) -> dict[str, str]:
    """Return where the world models' files of trials lie that are there, by their ids.

    They may be moved: a trial's record has the place that its file had when it was asked for.
    """
    files = {c.world_model_from: c for c in configs if c.is_pretrained and not c.awaits_world_model}
    if not files:
        return {}
    from pwmray.pretraining.pretrained import world_model_id  # which loads torch

    places = {}
    for file, config in files.items():
        with contextlib.suppress(ValueError, OSError):
            places[world_model_id(config)] = file
    return places


def _with_levels(trials: pa.Table, sweep: Mapping[str, Any]) -> pa.Table:
    axes, named = sweep.get("axes", {}), sweep.get("named_levels", {})
    words = sweep.get(WORDS, {})
    others = {axis: keys for axis, keys in axes.items() if axis not in results.TRIALS.names}
    if not others:
        return trials
    rows = trials.to_pylist()
    recorded = [TrialConfig.from_dict(json.loads(row["config"])) for row in rows]
    configs = [
        as_placed(config, row["world_model_from"], sweep.get(FILES, {}))
        for config, row in zip(recorded, rows, strict=True)
    ]
    if words:
        rows = [row | known_by(words, row["trial"]) for row in rows]
    for axis, keys in others.items():
        levels = [
            level_of(config, axis, keys, row, named)
            for config, row in zip(configs, rows, strict=True)
        ]
        trials = trials.append_column(axis, _as_column(levels))
    return trials


def _as_column(values: Sequence[Any]) -> pa.Array:
    """Return numbers as numbers, and what is of several types as text."""
    types = {type(value) for value in values if value is not None}
    if len(types) < 2 or types == {int, float}:
        return pa.array(values)
    return pa.array([None if value is None else str(value) for value in values])


def _returns(evaluations: pa.Table, actor: str) -> np.ndarray:
    # Not by to_numpy, which imports pandas.
    pairs = zip(evaluations["actor"].to_pylist(), evaluations["return"].to_pylist(), strict=True)
    return np.array([value for name, value in pairs if (name or results.POLICY) == actor])


def _optional(path: Path, schema: pa.Schema) -> pa.Table:
    return results.read_table(path, schema) if path.exists() else results.empty(schema)


def _evaluations(path: Path) -> pa.Table:
    if not path.exists():
        raise ValueError(f"EVALUATED without {path.name}; {_AGAIN}")
    return results.read_table(path, results.EVALUATIONS)
