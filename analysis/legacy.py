"""Read the two tables of results from before this package, and find their contradictions.

`all_experiments.csv` was typed by hand, one row a run; `mt30_results_summary.csv` was made from the
runs' files. Nothing is repaired: a run is kept as its file has it, with its origin.
"""

import csv
import hashlib
import io
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

from analysis.verdict import RETURN_MAX
from pwmray.checks import MAX_INT, check_folder_name
from pwmray.tasks import find_task
from pwmray.variants import SCRATCH

PREFIX = "legacy_"  # of the names of imported sweeps

# The earlier configurations' names, and their variants by today's names.
VARIANTS = {
    "baseline": "baseline",
    "flow_policy": "flowpolicy",
    "fullflow": "fullflow",
    "high_precision_wm": "fullflow",
    "high_precision_policy": "fullflow",
    "euler_fast": "fullflow",
    "flow_std": "flowpolicy",
    "flow_high": "flowpolicy",
    "pwm_48M_mt_baseline": "baseline",
    "pwm_48M_mt_flowpolicy": "flowpolicy",
    "pwm_48M_mt_flowwm": "flowwm",
    "pwm_48M_mt_fullflow": "fullflow",
}
METHODOLOGIES = {
    "frozen_wm": "policy_finetuning",
    "from_scratch": "joint_from_scratch",
    "finetune_wm": "policy_and_wm_finetuning",
}
_MOST = MAX_INT - 1  # iterations count from 0, epochs from 1
# A number as written in tables; Python's float would also take 9_81, nan and inf.
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.ASCII | re.IGNORECASE)
SAME = 0.006  # returns closer than this agree in the two digits typed


class LegacyRun(NamedTuple):
    """One run as its file has it; None for what the file does not record."""

    source: str  # full path of the file, with the line, or of the folder
    origin: str  # its end, as much as distinguishes the sources of an import
    group: str  # the sweep that it goes to
    config: str
    task: str
    seed: int
    final_return: float | None
    plan_return: float | None = None
    epochs: int | None = None  # asked for
    epochs_reached: int | None = None
    methodology: str | None = None
    checkpoint: str | None = None  # SCRATCH, or the world model's file
    device: str | None = None
    train_seconds: float | None = None
    job: str | None = None
    failure: str = ""  # why it has no result, where it has none
    num_episodes: int | None = None  # of the final evaluation, where known
    curve: tuple[tuple[int, float], ...] = ()  # (epoch, return)

    @property
    def variant(self) -> str:
        """Return the variant, or the configuration's own name where that is not known."""
        return VARIANTS.get(self.config, self.config)

    @property
    def identity(self) -> str:
        """Return 16 hex digits that no other run has, whatever else is imported beside it."""
        said = self._replace(origin="", group="")
        return hashlib.sha256(repr(said).encode()).hexdigest()[:16]

    @property
    def key(self) -> tuple[str, str, int]:
        """Return what names the run in both files."""
        return self.variant, self.task, self.seed

    def __str__(self) -> str:
        """Return a short name for messages."""
        return f"{self.config} {self.task} seed {self.seed}"


class Contradiction(NamedTuple):
    """A field in which two files differ, or a file contradicts itself."""

    field: str
    run: str
    first: str  # value, with the origin
    second: str


def read_table_of_runs(path: Path, label: Path) -> list[LegacyRun]:
    """Return the runs of one of the two CSV files, recognised by its columns.

    `label` names the file in origins and sweeps. Raises ValueError, naming file, line and value,
    for what cannot be read, and for a table without runs.
    """
    rows = read_rows(path)
    for wanted, read in READERS:
        if wanted <= rows[0][1].keys():
            return [_read_run(path, label, line, row, read) for line, row in rows]
    known = "; or ".join(", ".join(sorted(wanted)) for wanted, _ in READERS)
    raise ValueError(f"{path} is no table of runs: it must have the columns {known}")


def read_text(path: Path) -> str:
    """Return a file's text as it is; raise ValueError naming a file that is not in UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")  # Excel puts a mark before its first letter
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8: {error}") from error


def read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV file, each with its line number, as cells by column.

    Empty rows, which Excel leaves at the end, are skipped. Raises ValueError, naming file and line,
    for invalid CSV, for a table without rows, and for a row with more or fewer cells than the
    header (decimal commas, or a truncated file).
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    if len(lines) < 2:
        raise ValueError(f"{path} is a table without a row")
    header = lines[0][1]
    for line, cells in lines:
        if len(cells) != len(header):
            raise ValueError(
                f"{path}, line {line} has {len(cells)} cells, the header {len(header)}"
            )
    return [(line, dict(zip(header, cells, strict=True))) for line, cells in lines[1:]]


def read_whole(name: str, value: Any, least: int = 0) -> int:
    """Return a whole number from `least` that a table can hold; `value` may be text, or 42.0.

    Raises ValueError naming it.
    """
    try:
        number = Decimal(str(value)) if _NUMBER.fullmatch(str(value)) else Decimal("nan")
        if least <= number <= _MOST and number == int(number):
            return int(number)
    except InvalidOperation:
        pass  # no number, or none that can be compared
    raise ValueError(f"{name} is {value!r:.60}; valid: a whole number from {least} to {_MOST}")


def read_return(row: Mapping[str, str], name: str) -> float | None:
    """Return a return in a row of a table, None for an empty cell; ValueError naming the column."""
    number = _read_number(row[name])
    if number is None or 0.0 <= number <= RETURN_MAX:
        return number
    raise ValueError(f"{name} is {row[name]!r:.60}; valid: a number from 0 to {RETURN_MAX:,.0f}")


def read_duration(row: Mapping[str, str], name: str) -> float | None:
    """Return a time in a row of a table, None for an empty cell; ValueError naming the column."""
    number = _read_number(row[name])
    if number is None or 0.0 < number < math.inf:
        return number
    raise ValueError(f"{name} is {row[name]!r:.60}; valid: a positive number")


def find_contradictions(files: Sequence[Sequence[LegacyRun]]) -> list[Contradiction]:
    """Return all contradictions: within each file, then between every two files."""
    found = [one for runs in files for one in (*_find_shared_jobs(runs), *_find_same(runs))]
    for first, second in itertools.combinations(files, 2):
        found += _compare_files(first, second)
    return found


def _read_run(
    path: Path,
    label: Path,
    line: int,
    row: Mapping[str, str],
    read: Callable[[Mapping[str, str], str], LegacyRun],
) -> LegacyRun:
    try:
        run = read(row, "_".join(label.with_suffix("").parts))
        find_task(run.task)
        check_folder_name("its sweep", f"{PREFIX}{run.group}")
    except ValueError as error:
        raise ValueError(f"{path}, line {line}: {error}") from error
    return run._replace(source=f"{path.resolve()}:{line}", origin=f"{label}:{line}")


def _read_registry_row(row: Mapping[str, str], name: str) -> LegacyRun:
    method = row["method"]
    if method not in METHODOLOGIES:
        raise ValueError(f"unknown method {method!r}; valid: {', '.join(METHODOLOGIES)}")
    if not row["phase"].strip():
        raise ValueError("it has no phase, which is its sweep")
    minutes = read_duration(row, "runtime_min")
    final = read_return(row, "final_reward")
    return LegacyRun(
        source="",
        origin="",
        group=f"{name}_{row['phase']}",
        config=row["config"],
        task=row["task"],
        seed=read_whole("seed", row["seed"]),
        final_return=final,
        plan_return=read_return(row, "planning_reward"),
        epochs=read_whole("epochs", row["epochs"], least=1),
        methodology=METHODOLOGIES[method],
        checkpoint=SCRATCH if row["checkpoint"] in ("", "none") else row["checkpoint"],
        device=row["hardware"] or None,
        train_seconds=None if minutes is None else 60.0 * minutes,
        job=row["job_id"] or None,
        failure="" if final is not None else "no final reward in the registry",
    )


def _read_summary_row(row: Mapping[str, str], name: str) -> LegacyRun:
    last = row["Iteration"]
    job = re.search(r"/(\d+/\d+)_s\d+$", row["RunDir"])
    final = read_return(row, "Episode Reward")
    is_done = row["Status"] == "COMPLETED" and final is not None
    is_known = last or is_done  # a run that failed may have ended before its first iteration
    return LegacyRun(
        source="",
        origin="",
        group=name,
        config=row["Algorithm"],
        task=row["Task"],
        seed=read_whole("Seed", row["Seed"]),
        final_return=final,
        plan_return=read_return(row, "Planning Reward"),
        # Iterations count from 0.
        epochs_reached=read_whole("Iteration", last) + 1 if is_known else None,
        job=job.group(1).replace("/", "_") if job else None,
        failure="" if is_done else f"status {row['Status']!r}",
    )


READERS = (
    (
        {"phase", "job_id", "config", "epochs", "task", "seed", "hardware", "runtime_min"}
        | {"final_reward", "planning_reward", "method", "checkpoint"},
        _read_registry_row,
    ),
    (
        {"Algorithm", "Task", "Seed", "Status", "Iteration", "Episode Reward", "Planning Reward"}
        | {"RunDir"},
        _read_summary_row,
    ),
)


def _read_number(text: str) -> float | None:
    """Return a cell's number, None for an empty one and NaN for what is no number."""
    if not text.strip():
        return None
    return float(text) if _NUMBER.fullmatch(text) else math.nan


def _find_shared_jobs(runs: Sequence[LegacyRun]) -> list[Contradiction]:
    """Return every job that a file names for two runs."""
    jobs: dict[str, list[LegacyRun]] = defaultdict(list)
    for run in runs:
        if run.job:
            jobs[run.job].append(run)
    return [
        Contradiction("job of two runs", f"job {job}", _say(some[0], some[0]), _say(run, run))
        for job, some in jobs.items()
        for run in some[1:]
    ]


def _find_same(runs: Sequence[LegacyRun]) -> list[Contradiction]:
    """Return runs of a file with exactly the same return and plan return: one run twice?"""
    same: dict[tuple, list[LegacyRun]] = defaultdict(list)
    for run in runs:
        if run.final_return is not None and run.plan_return is not None:
            same[(run.task, run.final_return, run.plan_return)].append(run)
    return [
        Contradiction(
            "one result of two runs",
            f"{task}: {final:g}, planned {plan:g}",
            _say(some[0], f"{some[0].group} {some[0]}"),
            _say(run, f"{run.group} {run}"),
        )
        for (task, final, plan), some in same.items()
        for run in some[1:]
    ]


def _compare_files(
    first: Sequence[LegacyRun], second: Sequence[LegacyRun]
) -> Iterator[Contradiction]:
    """Yield the fields in which two files differ about a run that both have."""
    for key in dict.fromkeys(run.key for run in first):
        ours = [run for run in first if run.key == key]
        theirs = [run for run in second if run.key == key]
        for pair in _match(ours, theirs):
            yield from _compare_runs(*pair)


def _match(
    ours: Sequence[LegacyRun], theirs: Sequence[LegacyRun]
) -> list[tuple[LegacyRun, LegacyRun]]:
    """Pair runs of one name: first those with the same return, then the rest in order."""
    pairs, left = [], list(theirs)
    alone = []
    for run in ours:
        same = [other for other in left if _agree(run.final_return, other.final_return)]
        if same:
            pairs.append((run, same[0]))
            left.remove(same[0])
        else:
            alone.append(run)
    return pairs + list(zip(alone, left, strict=False))


def _compare_runs(a: LegacyRun, b: LegacyRun) -> Iterator[Contradiction]:
    pairs: list[tuple[str, Any, Any]] = [
        ("epochs", a.epochs or a.epochs_reached, b.epochs or b.epochs_reached),
        ("return", a.final_return, b.final_return),
        ("plan return", a.plan_return, b.plan_return),
        ("job", a.job, b.job),
    ]
    for field, ours, theirs in pairs:
        if None not in (ours, theirs) and not _agree(ours, theirs):
            yield Contradiction(field, str(a), _say(a, ours), _say(b, theirs))


def _agree(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) < SAME
    return ours == theirs


def _say(run: LegacyRun, value: Any) -> str:
    shown = f"{value:,}" if isinstance(value, int) else value
    return f"{f'{shown:.2f}' if isinstance(shown, float) else shown} ({run.origin})"
