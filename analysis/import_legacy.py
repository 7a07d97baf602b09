"""Bring results from before this package into tables that summarize.py reads.

    python analysis/import_legacy.py all_experiments.csv mt30_results_summary.csv
    python analysis/import_legacy.py outputs/            Hydra's run folders in it

Writes a sweep a phase, or a file, to results/legacy_*/, every trial marked with its origin, and
prints what the files contradict each other in; results/legacy_contradictions.csv has all of that.
Exit status: 0 when something was imported, 2 with one line on stderr when not.
"""

import argparse
import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from analysis.legacy import (
    PREFIX,
    Contradiction,
    LegacyRun,
    find_contradictions,
    read_table_of_runs,
)
from analysis.legacy_runs import find_run_folders, read_run
from pwmray.commands import CommandParser, check_distinct, run_command
from pwmray.files import replacing
from pwmray.results import CURVE, EVALUATIONS, PLANNER, POLICY, TRIALS, write_rows
from pwmray.sweep_folders import IMPORTED

KINDS = {
    "baseline": ("mlp", "gaussian"),
    "flowpolicy": ("mlp", "flow"),
    "flowwm": ("flow", "gaussian"),
    "fullflow": ("flow", "flow"),
}
PROTOCOL = "legacy: one mean return, episodes and their seeds unrecorded"
SHOWN = 3  # contradictions of a field that are printed
OWN_COLUMNS = [pa.field("origin", pa.string()), pa.field("config_name", pa.string())]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    return run_command(lambda: import_legacy(build_parser().parse_args(arguments)))


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = CommandParser(
        prog="import_legacy.py",
        description="Bring results from before this package into tables.",
    )
    parser.add_argument("sources", nargs="+", type=Path, metavar="CSV|DIR")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")
    return parser


def import_legacy(options: argparse.Namespace) -> int:
    """Import every source, say what was written and what contradicts; ValueError for bad input."""
    check_distinct(options.sources)
    files, found = [], []
    for source, label in zip(options.sources, _label_sources(options.sources), strict=True):
        runs, contradictions = _read_source(source, label)
        files.append(runs)
        found += contradictions
    found += find_contradictions(files)
    groups = _group(files)
    for runs in groups.values():
        _check_once(runs)
    for name, runs in groups.items():
        folder = options.results / f"{PREFIX}{name}"
        _write_sweep(folder, runs)
        print(f"{len(runs)} runs -> {folder}")
    _write_contradictions(options.results / "legacy_contradictions.csv", found)
    _print_contradictions(found)
    return 0


def _label_sources(sources: Sequence[Path]) -> list[Path]:
    """Return the end of each path that tells it from the others; nothing for the only folder."""
    paths = [source.resolve() for source in sources]
    folders = [path for path in paths if path.is_dir()]
    return [Path() if folders == [path] else _shorten(path, paths) for path in paths]


def _shorten(path: Path, paths: Sequence[Path]) -> Path:
    parts = path.parts
    lengths = range(1, len(parts) + 1)
    same = [other.parts for other in paths if other != path]
    length = next(n for n in lengths if all(other[-n:] != parts[-n:] for other in same))
    return Path(*parts[-length:])


def _read_source(source: Path, label: Path) -> tuple[list[LegacyRun], list[Contradiction]]:
    if source.is_file():
        return read_table_of_runs(source, label), []
    folders = find_run_folders(source)
    if not folders:
        raise ValueError(f"{source} is neither a CSV file nor a folder with run folders of Hydra")
    read = [read_run(folder, source, label) for folder in folders]
    return [run for run, _ in read], [one for _, some in read for one in some]


def _group(files: Sequence[Sequence[LegacyRun]]) -> dict[str, list[LegacyRun]]:
    groups: dict[str, list[LegacyRun]] = {}
    for runs in files:
        for run in runs:
            groups.setdefault(run.group, []).append(run)
    return groups


def _check_once(runs: Sequence[LegacyRun]) -> None:
    """Raise ValueError for a run that two sources of one import have, one within the other."""
    seen: dict[str, LegacyRun] = {}
    for run in runs:
        other = seen.setdefault(run.identity, run)
        if other is not run:
            raise ValueError(f"{run.source} is given twice: {other.origin} and {run.origin}")


def _write_sweep(folder: Path, runs: Sequence[LegacyRun]) -> None:
    """Write the sweep of some runs, its description last so that a part of it is no sweep."""
    rows = [_to_row(run) for run in runs]
    varies = _find_varied(rows)
    described = {
        "name": folder.name,
        "scale": IMPORTED,
        "compare": varies[0],
        "varies": [*varies, "task", "seed"],
        "axes": {"config_name": ["config_name", "variant"]} if "config_name" in varies else {},
        "trials": [row["trial"] for row in rows],
    }
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([*TRIALS, *OWN_COLUMNS])
    pairs = list(zip(rows, runs, strict=True))
    write_rows(folder / "trials.arrow", rows, schema)
    episodes = [row for pair in pairs for row in _list_episodes(*pair)]
    write_rows(folder / "evaluations.arrow", episodes, EVALUATIONS)
    points = [
        {"trial": row["trial"], "epoch": epoch, "return_mean": value}
        for row, run in pairs
        for epoch, value in run.curve
    ]
    write_rows(folder / "curves.arrow", points, CURVE)
    with replacing(folder / "sweep.json") as draft:
        draft.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def _to_row(run: LegacyRun) -> dict[str, Any]:
    world_model, policy = KINDS.get(run.variant, (None, None))
    epochs = run.epochs or run.epochs_reached
    return {
        "trial": run.identity,
        "status": "FAILED" if run.failure else "EVALUATED",
        "reason": run.failure or None,
        "task": run.task,
        "variant": run.variant,
        "world_model": world_model,
        "policy": policy,
        "epochs": epochs,
        "epochs_reached": run.epochs_reached or epochs,
        "seed": run.seed,
        "methodology": run.methodology,
        "fidelity": "published",
        "world_model_from": run.checkpoint,
        "return_mean": run.final_return,
        "plan_return_mean": run.plan_return,
        "evaluation_episodes": 1,
        "evaluation_protocol": PROTOCOL,
        "train_seconds": run.train_seconds,
        "device": run.device,
        "slurm_job_id": run.job,
        "code_version": "legacy",
        "origin": run.origin,
        "config_name": run.config,
    }


def _find_varied(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the columns that vary; configurations where they tell more than variants do."""
    names = {name: {row[name] for row in rows} for name in ("methodology", "epochs", "variant")}
    names["config_name"] = {row["config_name"] for row in rows}
    if len(names["config_name"]) == len(names["variant"]):
        del names["config_name"]
    else:
        del names["variant"]
    varied = [name for name, values in names.items() if len(values) > 1]
    return varied or ["variant"]


def _list_episodes(row: dict[str, Any], run: LegacyRun) -> list[dict[str, Any]]:
    """Return one episode an actor: the mean that was recorded stands for all of them."""
    returns = {POLICY: run.final_return, PLANNER: run.plan_return}
    return [
        {"trial": row["trial"], "actor": actor, "episode": 0, "return": value}
        for actor, value in returns.items()
        if value is not None and not run.failure
    ]


def _write_contradictions(path: Path, found: Sequence[Contradiction]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Contradiction._fields)
    writer.writerows(found)
    with replacing(path) as draft:
        draft.write_text(text.getvalue(), encoding="utf-8")


def _print_contradictions(found: Sequence[Contradiction]) -> None:
    counts = Counter(one.field for one in found)
    if not found:
        print("no contradictions")
    for field, count in counts.items():
        print(f"{field}: {count} {'contradiction' if count == 1 else 'contradictions'}")
        for one in [one for one in found if one.field == field][:SHOWN]:
            print(f"  {one.run}: {one.first} against {one.second}")
        if count > SHOWN:
            print(f"  and {count - SHOWN} more in legacy_contradictions.csv")


if __name__ == "__main__":
    sys.exit(main())
