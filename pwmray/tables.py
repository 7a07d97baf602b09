"""A sweep's folder: what was asked for, and its trials' records joined into three tables.

results/<sweep>/
    sweep.json         name, scale, axes, what is compared, the fingerprints asked for so far
    trials.arrow, curves.arrow, evaluations.arrow
    runs.jsonl         a line for each run of the driver: its wall time and cores
    tables.claim       which of the sweep's drivers is writing these files
    trials/<name>      links to the trials' own folders, by readable names
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pwmray import registry, results
from pwmray.commands import say
from pwmray.config import FORMAT, TrialConfig
from pwmray.failures import is_disk_full
from pwmray.files import append_lines, replacing, see_afresh
from pwmray.levels import as_placed, known_by, level_of
from pwmray.registry import Status, claim
from pwmray.registry.sweep_folders import FILES, SWEEP_FILE, WORDS, read_sweep
from pwmray.trial_links import link, name_anew
from pwmray.trial_parts import TrialParts, read_parts
from pwmray.wording import one_line

_CLAIM_FILE = "tables.claim"
_WRITTEN = (SWEEP_FILE, *(f"{name}.arrow" for name in results.SCHEMAS), _CLAIM_FILE)
_POLL_SECONDS = 0.05
_LEAST_SECONDS = 5.0  # between two writings of a driver that runs trials
_MOST_SHARE = 0.05  # of its time that they take


def check_scale(folder: Path, scale: str) -> None:
    """Raise ValueError if the sweep's folder already holds another scale."""
    found = read_sweep(folder).get("scale", scale)
    if found != scale:
        raise ValueError(
            f"{folder} holds the scale {found!r}, not {scale!r}; give another folder with --results"
        )


def open_sweep(plan: Any, command: str) -> Path:
    """Create the sweep's folder or add the plan's trials to it; return it.

    Trials that the sweep asked for earlier stay in it, behind those of the plan.
    """
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
        if found.get("format") != FORMAT:  # once a version: thousands of trials take a while
            earlier = [name for name in earlier if _can_count(plan.results, name)]
        content["trials"] = list(dict.fromkeys([*asked, *plan.unreadable, *earlier]))
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
    """Tell whether a trial is done or may yet be: not if its config has another fingerprint now."""
    try:
        record = registry.read(registry.trial_folder(results_dir, name))
        config = record.last("config")
        if record.status is Status.EVALUATED or config is None:
            return True
        return TrialConfig.from_dict(config).fingerprint == name
    except (ValueError, OSError):  # of another version, or its world model is gone: it is told
        return True


def log_run(folder: Path, **fields: Any) -> None:
    """Append a line about a run of the driver, or say that the file is another user's."""
    with _alone(folder):
        try:
            append_lines(folder / "runs.jsonl", json.dumps(fields) + "\n")
        except PermissionError as error:  # no reason to fail the run
            say(f"{one_line(error)}: this run is not recorded there")


@contextlib.contextmanager
def left_to_the_next_run(shown: Path) -> Iterator[None]:
    """Keep a full disk from deciding how a run ends: the next one writes the tables in `shown`."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        say(f"disk full: the tables in {shown} are behind; the next run writes them")


class Pace:
    """When a driver writes its tables again: the longer a writing takes, the less often."""

    def __init__(self) -> None:
        self._due_at = 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is time to write them."""
        return time.monotonic() >= self._due_at

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Measure how long a writing takes, which decides when the next one is due."""
        started = time.monotonic()
        yield
        took = time.monotonic() - started
        self._due_at = time.monotonic() + max(_LEAST_SECONDS, took / _MOST_SHARE)


class Tables:
    """The three tables of a sweep; `write` joins what the trials have written so far."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._results = folder.parent
        self._final: dict[str, TrialParts] = {}  # by fingerprint, of trials that no longer change
        self.left_out: dict[str, str] = {}  # by fingerprint: where and why, at the last join
        self._told: set[str] = set()

    def write(self) -> None:
        """Replace the tables; a trial that is running appears as far as it has come.

        An axis of the sweep that is no column of `trials` becomes one.
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
            return  # somebody deleted it; its driver will write it again
        # `trials` last: a reader then finds the episodes of every trial that is EVALUATED there.
        for name, table in reversed(self.join().items()):
            results.write_table(self._folder / f"{name}.arrow", table)

    def newly_left_out(self) -> list[str]:
        """Return a line for each trial that cannot be read or whose curve is gone, each once."""
        curveless = {trial: parts.curveless for trial, parts in self._final.items()}
        lines = {t: f"left out of the curves: {why}" for t, why in curveless.items() if why}
        lines |= {trial: f"left out of the tables: {why}" for trial, why in self.left_out.items()}
        new = [trial for trial in lines if trial not in self._told]
        self._told.update(new)
        return [lines[trial] for trial in new]

    def join(self) -> dict[str, pa.Table]:
        """Return the tables by name, without the trials that cannot be read; writes nothing."""
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

    def _trial_parts(self, fingerprint: str) -> TrialParts | None:
        """Return a trial's parts; None before its first event, or if it cannot be read.

        A trial that cannot be read is noted in `left_out`: it may be an old one, and the others
        go on.
        """
        if fingerprint in self._final:
            return self._final[fingerprint]
        folder = registry.trial_folder(self._results, fingerprint)
        try:
            parts = read_parts(folder)
        except (ValueError, OSError) as error:
            # Which settings there are helps nobody here.
            why = str(error).partition(" valid:")[0].rstrip(";")
            self.left_out[fingerprint] = f"{folder}: {' '.join(why.split())}"
            return None
        if parts is not None and parts.is_final:
            self._final[fingerprint] = parts
        return parts


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other drivers of the sweep from its files, so that each writes what is newest."""
    while (held := claim.acquire(folder / _CLAIM_FILE)) is None:
        time.sleep(_POLL_SECONDS)
    with held:
        for draft in claim.find_drafts(folder):  # a process was killed while it wrote
            if draft.name[1:].startswith(_WRITTEN):  # another may be of a report, written right now
                draft.unlink(missing_ok=True)
        yield


def _concatenated(parts: list[pa.Table], schema: pa.Schema) -> pa.Table:
    return pa.concat_tables(parts) if parts else results.empty(schema)


def _world_models(configs: Sequence[TrialConfig]) -> dict[str, str]:
    """Return where the trials' pretrained world models lie, by their ids, if they are there.

    A trial's record only has the place at which its file lay when the trial was asked for.
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
