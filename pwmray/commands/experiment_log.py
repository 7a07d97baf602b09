"""The experiment log: a Markdown view of the trials' records, which nobody edits by hand."""

import html
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pwmray import registry, results
from pwmray.levels import USUAL_AXES
from pwmray.registry import BEST_FILE, CHECKPOINT_FILE, Record, Status
from pwmray.registry.sweep_folders import IMPORTED, list_fingerprints, list_sweeps, read_sweep
from pwmray.tables import Tables
from pwmray.tracking import wandb_state
from pwmray.wording import number_of, one_line

ICONS = {
    Status.PENDING: "\u23f3",  # hourglass
    Status.QUEUED: "\u23f3",
    Status.RUNNING: "\U0001f7e2",  # green circle
    Status.COMPLETED: "\u2705",  # check mark
    Status.EVALUATED: "\u2705",
    Status.FAILED: "\u274c",  # cross mark
    Status.CANCELLED: "\U0001f6d1",  # stop sign
}
_ENDED = (Status.EVALUATED, Status.FAILED, Status.CANCELLED)
_SECTIONS = {
    "active": "\U0001f7e2 Active Experiments",
    "stopped": "\U0001f6d1 Stopped (the same command goes on)",
    "completed": "\u2705 Completed Phases",
    "archived": "\U0001f4e6 Archived (checkpoints freed)",
}
_METHODS = {
    "wm_pretraining": "WM Pretraining",
    "policy_finetuning": "Load Pretrained Weight + Policy Training (Frozen WM)",
    "policy_and_wm_finetuning": "Load Pretrained Weight + Policy and WM Tuning",
    "joint_from_scratch": "Joint Training (From Scratch)",
}
_OF_THE_TRIAL = ("seed", "runtime")  # settings in which the trials of one cell may differ
_WITHOUT_CONFIG = ("methodology", "fidelity", "world_model_from")  # all that an imported row has

_HEAD = """# Experiment Log

> Written by `pwmray log` from the trials' records, the newest first; entries are never deleted.
> Do not edit it: `pwmray note TRIAL "..."` adds to the notes.
> Status lifecycle: `PENDING` \u2192 `QUEUED` \u2192 `RUNNING` \u2192 `COMPLETED` \u2192
> `EVALUATED`, or `FAILED` / `CANCELLED`
"""


class Entry(NamedTuple):
    """A sweep, with what the records of its trials say."""

    name: str
    scale: str
    axes: list[str]  # besides those that every trial has
    rows: list[dict[str, Any]]  # of the table of trials
    folders: dict[str, Path]
    records: dict[str, Record]  # without unreadable ones, which have no row either
    left_out: list[str]  # a line for each trial without a row, which says why

    @property
    def newest(self) -> str:
        """When something last happened, ISO 8601."""
        return max((self.last_event(trial) for trial in self.records), default="")

    def last_event(self, trial: str) -> str:
        """Return the time of a trial's last event, "" if it has none."""
        return str(self.records[trial].last("time") or "")

    @property
    def section(self) -> str:
        """The key in _SECTIONS of the section that has this sweep."""
        if any(row["status"] not in _ENDED for row in self.rows):
            return "active"
        if self.rows and all(self._is_freed(row["trial"]) for row in self.rows):
            return "archived"
        is_stopped = any(
            row["status"] == Status.CANCELLED and not self.records[row["trial"]].is_stopped_early
            for row in self.rows
        )
        return "stopped" if is_stopped else "completed"

    def _is_freed(self, trial: str) -> bool:
        """Whether a trial's last checkpoint was freed and has not been written again."""
        is_there = (self.folders[trial] / CHECKPOINT_FILE).exists()
        return CHECKPOINT_FILE in _pruned(self.records[trial]) and not is_there


def render(results_dir: Path) -> str:
    """Return the log of a results folder, with every trial that was ever in it."""
    entries = [_read_entry(results_dir / name) for name in list_sweeps(results_dir)]
    seen = {trial for entry in entries for trial in entry.folders}
    lines = [_HEAD]
    for section, title in _SECTIONS.items():
        chosen = [entry for entry in entries if entry.section == section]
        if chosen:
            lines += ["---", "", f"## {title}", ""]
        for entry in sorted(chosen, key=lambda entry: entry.newest, reverse=True):
            lines += _entry_lines(entry)
    rest = [trial for trial in list_fingerprints(results_dir) if trial not in seen]
    lines += _rest_lines(results_dir, rest)
    return "\n".join(lines).rstrip() + "\n"


def _read_entry(folder: Path) -> Entry:
    sweep = read_sweep(folder)
    tables = Tables(folder)
    if sweep.get("scale") == IMPORTED:  # such trials have a row and no record
        rows = results.read_table(folder / "trials.arrow", results.TRIALS).to_pylist()
    else:
        rows = tables.join()["trials"].to_pylist()
    folders = {t: registry.trial_folder(folder.parent, t) for t in sweep["trials"]}
    records, unreadable = _read_records(folders)
    axes = [axis for axis in sweep.get("axes", {}) if axis not in USUAL_AXES]
    return Entry(
        sweep.get("name", folder.name),
        sweep.get("scale", ""),
        axes,
        rows,
        folders,
        records,
        list({**unreadable, **tables.left_out}.values()),
    )


def _read_records(folders: Mapping[str, Path]) -> tuple[dict[str, Record], dict[str, str]]:
    """Return the trials' records, and for the unreadable ones why, both by fingerprint."""
    records, unreadable = {}, {}
    for trial, folder in folders.items():
        try:
            records[trial] = registry.read(folder)
        except (ValueError, OSError) as error:
            unreadable[trial] = f"{folder}: {one_line(error)}"
    return records, unreadable


def _entry_lines(entry: Entry) -> list[str]:
    counts = Counter(Status(row["status"]) for row in entry.rows)
    methods = dict.fromkeys(row["methodology"] for row in entry.rows)
    sources = dict.fromkeys(row["world_model_from"] or "not known yet" for row in entry.rows)
    statuses = ", ".join(f"{ICONS[status]} {n} {status}" for status, n in counts.items())
    return [
        f"### {entry.name}{f' ({entry.scale})' if entry.scale else ''}",
        f"**Method**: {'; '.join(_METHODS.get(str(m), str(m)) for m in methods)}  ",
        f"**World model from**: {', '.join(_cell(s) for s in sources)}  ",
        f"**Status**: {statuses}  ",
        f"**Last event**: {f'{_minute(entry.newest)} UTC' if entry.newest else 'not recorded'}  ",
        *(f"**Left out**: {_cell(line)}  " for line in entry.left_out),
        "",
        *_aggregate_lines(entry),
        "<details>",
        f"<summary>{number_of(len(entry.rows), 'trial')}, seed by seed</summary>",
        "",
        *_trial_lines(entry),
        "",
        "</details>",
        "",
    ]


def _aggregate_lines(entry: Entry) -> list[str]:
    """Return a table of mean and sd over the training seeds of each cell's evaluated trials.

    Trials of one cell differ in nothing but their seeds. If a sweep held different settings at
    different times, a cell splits into several, and these settings are named.
    """
    names = ("task", "variant", "epochs", *entry.axes)
    cells: dict[tuple, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row, settings in zip(entry.rows, _settings_of(entry.rows), strict=True):
        cells[tuple(row[name] for name in names)][json.dumps(settings)].append(row)
    lines = []
    for cell, parts in cells.items():
        said = _differing([json.loads(settings) for settings in parts])
        for settings, rows in zip(said, parts.values(), strict=True):
            returns = [row["return_mean"] for row in rows if row["status"] == Status.EVALUATED]
            if returns:
                sd = f" \u00b1 {statistics.stdev(returns):.1f}" if len(returns) > 1 else ""
                shown = f"{statistics.mean(returns):z.1f}{sd}"
                lines.append([*cell, settings, shown, f"{len(returns)} of {len(rows)}"])
    if not lines:
        return []
    head = ["Task", "Variant", "Epochs", *entry.axes, "Held", "Return (mean \u00b1 sd over seeds)"]
    table = [[*head, "Seeds"], ["---"] * (len(head) + 1), *lines]
    if not any(line[len(names)] for line in lines):
        table = [line[: len(names)] + line[len(names) + 1 :] for line in table]
    return [*map(_row, table), ""]


def _settings(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that all trials of a cell have in common, by dotted keys."""
    if row["config"] is None:
        return {name: row[name] for name in _WITHOUT_CONFIG}
    flat = registry.flat_settings(json.loads(row["config"]))
    return {key: value for key, value in flat if key.partition(".")[0] not in _OF_THE_TRIAL}


def _settings_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the settings of each row, with a world model's file named by its content.

    The file may have been moved. For a trial that has not begun, the content is known only if
    another trial has the same file.
    """
    found = [_settings(row) for row in rows]
    ids: dict[Any, str] = {}
    for row, settings in zip(rows, found, strict=True):
        if row["world_model_from"] is not None:  # the newest trials come first, and win
            ids.setdefault(settings["world_model_from"], row["world_model_from"])
    for row, settings in zip(rows, found, strict=True):
        source = settings["world_model_from"]
        settings["world_model_from"] = row["world_model_from"] or ids.get(source, source)
    return found


def _differing(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return for each of some settings, as text, the keys in which they differ."""
    keys = dict.fromkeys(key for part in parts for key in part)
    odd = [key for key in keys if len({json.dumps(part.get(key)) for part in parts}) > 1]
    return [", ".join(f"{key} {part.get(key)}" for key in odd) for part in parts]


def _trial_lines(entry: Entry) -> list[str]:
    head = [
        *("Job ID", "Task", "Variant", "Epochs", *entry.axes, "Seed", "GPU", "Status"),
        *("Return", "Plan return", "Checkpoint", "WandB", "Notes"),
    ]
    rows = sorted(entry.rows, key=lambda row: entry.last_event(row["trial"]), reverse=True)
    return [_row(head), _row(["---"] * len(head)), *(_row(_cells(entry, row)) for row in rows)]


def _cells(entry: Entry, row: dict[str, Any]) -> list[Any]:
    record, folder = entry.records[row["trial"]], entry.folders[row["trial"]]
    jobs = [job for job in dict.fromkeys(record.all("slurm_job_id")) if job]
    jobs = jobs or list(filter(None, [row["slurm_job_id"]]))
    found, broken = registry.read_notes(folder)
    notes = [f"{n['note']} ({n['user']}, {n['time'][:10]})" for n in found]
    notes += [f"left out: {why}" for why in broken]
    return [
        ", ".join(jobs) or None,
        *(row[name] for name in ("task", "variant", "epochs", *entry.axes, "seed")),
        row["device"],
        f"{ICONS[Status(row['status'])]} {row['status']}",
        _number(row["return_mean"]),
        _number(row["plan_return_mean"]),
        _checkpoint(folder, record),
        wandb_state.place_of(folder),
        "\n".join([*filter(None, (row["reason"], row.get("origin"))), *notes]),
    ]


def _checkpoint(folder: Path, record: Record) -> str:
    names = [name for name in (CHECKPOINT_FILE, BEST_FILE) if (folder / name).exists()]
    there = [f"{folder.parent.name}/{folder.name}/{name}" for name in names]
    freed = [f"{name} freed" for name in _pruned(record) if name not in names]
    return "\n".join([*there, *freed])


def _pruned(record: Record) -> list[str]:
    names = [name for names in record.all("pruned") for name in names]
    return [name for name in dict.fromkeys(names) if name in (CHECKPOINT_FILE, BEST_FILE)]


def _rest_lines(results_dir: Path, fingerprints: Sequence[str]) -> list[str]:
    """Return a section for trials that no sweep's folder lists any more."""
    found, unreadable = _read_records(
        {trial: registry.trial_folder(results_dir, trial) for trial in fingerprints}
    )
    records = [(trial, record) for trial, record in found.items() if record.events]
    if not records and not unreadable:
        return []
    head = ["Trial", "Task", "Seed", "Status", "Last event"]
    lines = ["---", "", "## Trials of no sweep here", "", _row(head), _row(["---"] * len(head))]
    for trial, record in sorted(records, key=lambda r: r[1].events[-1]["time"], reverse=True):
        config = record.last("config") or {}
        status = f"{ICONS[record.status]} {record.status}" if record.status else None
        time = _minute(record.events[-1]["time"])
        lines.append(_row([trial, config.get("task"), config.get("seed"), status, time]))
    return [*lines, "", *(f"**Left out**: {_cell(line)}  " for line in unreadable.values())]


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:z.2f}"


def _row(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(value: Any) -> str:
    """Return a value as text that cannot break out of its cell in the table."""
    text = "" if value is None else str(value)
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", "<br>")
