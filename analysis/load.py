"""Read one sweep's folder: its sweep.json and Arrow tables, joined into trials."""

import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analysis.checked import check_once, check_records, read_config, read_description, read_settings
from pwmray.pairing import ARM_FACTORS, find_bound
from pwmray.registry.sweep_folders import names_in
from pwmray.results import EVALUATIONS, PLANNER, POLICY, TRIALS, read_table

EVALUATED = "EVALUATED"
STATUSES = ("EVALUATED", "COMPLETED", "RUNNING", "QUEUED", "PENDING", "FAILED", "CANCELLED")
NO_EPISODES = np.empty(0)


@dataclass(frozen=True, eq=False)
class Trial:
    """One trial of the sweep, whatever its status."""

    record: dict[str, Any]  # its row of the `trials` table
    factors: dict[str, Any]  # task, variant, epochs and whatever else the sweep varies; no seed
    returns: np.ndarray  # of its final evaluation episodes, [0, 1000]; empty if none
    plan_returns: np.ndarray  # of those that the planner acted in too

    @property
    def seed(self) -> int:
        """Return the training seed."""
        return self.record["seed"]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Return its config without task, seed and epochs; shared, so do not change it.

        Raises ValueError naming the trial if the config is not a JSON object.
        """
        return read_settings(self.record)

    @cached_property
    def final_return(self) -> float:
        """Return the mean over the evaluation episodes, recomputed from them."""
        return _mean(self.returns)

    @cached_property
    def plan_return(self) -> float | None:
        """Return the mean over the planner's episodes; no verdict uses it.

        None without any, or if the return of one is not finite.
        """
        is_known = len(self.plan_returns) and np.isfinite(self.plan_returns).all()
        return _mean(self.plan_returns) if is_known else None

    @cached_property
    def return_where_planned(self) -> float | None:
        """Return the policy's mean over the first episodes, those in which the planner acted too.

        None without any, if the return of one is not finite, and for an imported trial, whose
        single episodes are not known.
        """
        num = len(self.plan_returns)
        there = self.returns[:num]
        is_known = num and len(there) == num and not self.record.get("origin")
        return _mean(there) if is_known and np.isfinite(there).all() else None

    @property
    def num_episodes(self) -> int | None:
        """Return the number of evaluation episodes behind the final return; None if not known.

        An imported trial has one row for all of them, and may have recorded their number.
        """
        if len(self.returns) and self.record.get("origin"):
            return self.record["evaluation_episodes"]
        return len(self.returns)

    @property
    def has_diverged(self) -> bool:
        """Tell whether it was stopped by a number that is not finite."""
        return "diverged" in (self.record["reason"] or "")

    @cached_property
    def is_usable(self) -> bool:
        """Tell whether the trial enters a verdict: evaluated, with finite episodes to show."""
        return (
            self.record["status"] == EVALUATED
            and len(self.returns) > 0
            and bool(np.isfinite(self.returns).all())
        )


class Sweep(NamedTuple):
    """A sweep as its folder describes it; `trials` in grid order."""

    folder: Path
    name: str
    scale: str
    compare: str
    varies: tuple[str, ...]
    axes: dict[str, tuple[str, ...]]  # the config keys that each of `varies` sets
    trials: tuple[Trial, ...]
    num_planned: int  # trials in the grid; more than `trials` while some have no row yet
    within: tuple[str, ...] = ()  # the factors that the sweep compares within, task among them
    other_folders: tuple[Path, ...] = ()  # of the sweeps merged into this one
    num_unlisted: int = 0  # trials that its folder has links to, and its sweep.json lacks
    num_hidden_tasks: int = 0  # that it has, and that are not to be shown

    @property
    def usable(self) -> tuple[Trial, ...]:
        """Return the trials that enter verdicts."""
        return tuple(trial for trial in self.trials if trial.is_usable)

    def find_names_of(self, key: str) -> tuple[str, ...]:
        """Return the axes that set `key` and nothing else, under another name."""
        return tuple(name for name, keys in self.axes.items() if keys == (key,) and name != key)

    def find_bound(self, factor: str) -> tuple[str, ...]:
        """Return `factor`, then the factors that its levels set and that change along with it."""
        return find_bound(factor, self.axes.get(factor, (factor,)))


def find_sweep(name: str | None, results: Path) -> Path:
    """Return the folder of sweep `name` (under `results`, or a path), or of the latest sweep.

    Raises ValueError saying what is there, with the nearest name, when there is no such sweep.
    """
    if name is not None:
        for folder in (results / name, Path(name)):
            if _is_sweep(folder):
                return folder
    if not results.is_dir():
        raise ValueError(f"no results folder {str(results)!r}; run a sweep, or give --results DIR")
    there = {folder.name: folder for folder in sorted(results.iterdir()) if _is_sweep(folder)}
    if not there:
        raise ValueError(f"no sweep in {results}: no folder in it has a sweep.json")
    if name is None:
        return max(there.values(), key=lambda folder: (folder / "sweep.json").stat().st_mtime)
    nearest = difflib.get_close_matches(name, there, n=1, cutoff=0.0)[0]
    raise ValueError(
        f"unknown sweep {name!r} in {results}; did you mean {nearest!r}? there: {', '.join(there)}"
    )


def load_sweep(folder: Path) -> Sweep:
    """Read the sweep in `folder`; raise ValueError naming a file that is missing or broken."""
    linked = names_in(folder).keys()  # before sweep.json, which lists a trial before it is linked
    described = read_description(folder / "sweep.json")
    records = _read_records(folder / "trials.arrow", described["trials"])
    episodes = _read_episodes(folder / "evaluations.arrow")
    varies = tuple(described["varies"])
    names = list_factors_of_arms(varies)
    trials = tuple(
        Trial(
            record=record,
            factors={name: find_factor(record, name) for name in names},
            returns=episodes.get((record["trial"], POLICY), NO_EPISODES),
            plan_returns=episodes.get((record["trial"], PLANNER), NO_EPISODES),
        )
        for record in records
    )
    return Sweep(
        folder=folder,
        name=described["name"],
        scale=described["scale"],
        compare=described["compare"],
        varies=varies,
        axes={name: tuple(described["axes"].get(name, (name,))) for name in varies},
        trials=trials,
        num_planned=max(len(described["trials"]), len(trials)),
        within=tuple(described["within"]),
        num_unlisted=len(linked - set(described["trials"])),
    )


def list_factors_of_arms(varies: Sequence[str]) -> list[str]:
    """Return the factors that distinguish the arms of a sweep: all but the seed."""
    return [name for name in dict.fromkeys((*ARM_FACTORS, *varies)) if name != "seed"]


def count_statuses(trials: Iterable[Trial]) -> dict[str, int]:
    """Return how many trials have each status, those that occur, furthest along first."""
    counts = Counter(trial.record["status"] for trial in trials)
    ordered = [*STATUSES, *(status for status in counts if status not in STATUSES)]
    return {status: counts[status] for status in ordered if counts[status]}


def describe_progress(sweep: Sweep) -> str:
    """Say in one line how far the sweep is: trials by status, and why some failed."""
    parts = [f"{len(sweep.usable)} of {sweep.num_planned} trials evaluated"]
    counts = count_statuses(sweep.trials)
    parts += [f"{num} {status.lower()}" for status, num in counts.items() if status != EVALUATED]
    unusable = counts.get(EVALUATED, 0) - len(sweep.usable)
    if unusable:
        parts.append(f"{unusable} marked evaluated without usable episodes")
    if sweep.num_planned > len(sweep.trials):
        parts.append(f"{sweep.num_planned - len(sweep.trials)} without a row yet")
    if sweep.num_unlisted:  # as where two results folders were copied into one
        parts.append(
            f"{sweep.num_unlisted} more in trials/ that sweep.json does not list (start the sweep "
            "once more with the options that they had)"
        )
    reasons = Counter(
        trial.record["reason"] or "no reason recorded"
        for trial in sweep.trials
        if trial.record["status"] in ("FAILED", "CANCELLED")
    )
    text = ", ".join(parts)
    if not reasons:
        return text
    listed = "; ".join(f"{num} x {' '.join(why.split())}" for why, num in reasons.most_common())
    return f"{text} (reasons: {listed})"


def format_span(counts: Sequence[int]) -> str:
    """Return the range of some counts as printed, e.g. "2 to 5"."""
    if not counts:
        return "0"
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def describe_episodes(trials: Iterable[Trial]) -> str:
    """Say how many evaluation episodes the final returns of some trials rest on."""
    counts = {trial.num_episodes for trial in trials}
    known = [count for count in counts if count is not None]
    if not known:
        return "an unrecorded number of" if counts else "0"
    said = format_span(known)
    return f"{said} or an unrecorded number of" if None in counts else said


def find_factor(record: dict[str, Any], name: str) -> Any:
    """Return a factor's value: a column of `trials`, or a (dotted) key of the trial's config.

    A key for one kind, `world_model[flow].num_substeps`, is None in a trial of another kind.
    Raises ValueError when neither has it.
    """
    if name in record:
        return record[name]
    value: Any = read_config(record)
    path, num_kinds = re.subn(r"\[\w+\]", "", name)
    for key in path.split("."):
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif num_kinds:
            return None
        else:
            raise ValueError(
                f"factor {name!r} is neither a column of trials nor in its config; run the sweep "
                "again to write the tables anew"
            )
    return json.dumps(value) if isinstance(value, list | dict) else value


def find_level(trial: Trial, name: str) -> Any:
    """Return a trial's level of a factor; None if the factor does not apply to it."""
    if name in trial.factors:
        return trial.factors[name]
    try:
        return find_factor(trial.record, name)
    except ValueError:  # neither a column nor a setting of this trial
        return None


def format_value(value: Any) -> str:
    """Return a factor's value as printed: thousands separated, "-" where it does not apply."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _is_sweep(folder: Path) -> bool:
    return (folder / "sweep.json").is_file()


def _read_records(path: Path, grid: list[str]) -> list[dict[str, Any]]:
    """Return the grid's rows of `trials` in the grid's order."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist: the sweep has written no results yet")
    table = read_table(path, TRIALS).to_pylist()
    check_once(path, [row["trial"] for row in table])
    check_once(path.with_name("sweep.json"), grid)
    rows = {row["trial"]: row for row in table}
    records = [rows[trial] for trial in grid if trial in rows]
    check_records(path, records)
    return records


def _mean(values: np.ndarray) -> float:
    return math.fsum(values.tolist()) / len(values)  # exact: the same on every machine


def _read_episodes(path: Path) -> dict[tuple[str, str], np.ndarray]:
    """Return the episodes' returns by trial and actor, in the file's order; NaN for a null."""
    if not path.is_file():
        return {}
    table = read_table(path, EVALUATIONS, ("trial", "actor", "return"))
    if not len(table):
        return {}
    trials, trial_names = encode(table["trial"])
    actors, actor_names = encode(table["actor"], missing=POLICY)
    values = to_array(table["return"])
    keys = trials.astype(np.int64) * len(actor_names) + actors
    if (keys[1:] < keys[:-1]).any():
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], values[order]
    starts = find_starts(keys)
    ends = [*starts[1:], len(keys)]
    return {
        (
            trial_names[keys[start] // len(actor_names)],
            actor_names[keys[start] % len(actor_names)],
        ): values[start:end]
        for start, end in zip(starts, ends, strict=True)
    }


def find_starts(keys: np.ndarray) -> np.ndarray:
    """Return the index at which each run of equal keys begins; takes one key or more."""
    return np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1])


def encode(column: pa.ChunkedArray, missing: str = "") -> tuple[np.ndarray, list[str]]:
    """Return a column of text as indices, and the texts that they stand for."""
    filled = column.fill_null(missing) if column.null_count else column
    # By runs: a trial's rows follow each other, and comparing texts is faster than hashing them.
    runs: Any = pc.call_function("run_end_encode", [_as_one(filled)])
    coded = runs.values.dictionary_encode()
    lengths = np.diff(np.from_dlpack(runs.run_ends), prepend=0)
    return np.repeat(np.from_dlpack(coded.indices), lengths), coded.dictionary.to_pylist()


def to_array(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of numbers, NaN for null; it is copied only if there is a null."""
    if column.null_count:
        column = column.cast(pa.float64()).fill_null(math.nan)
    return np.from_dlpack(_as_one(column))  # to_numpy imports pandas, a third of a second


def _as_one(column: pa.ChunkedArray) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
