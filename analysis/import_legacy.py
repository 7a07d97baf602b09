"""Bring results from before this package into tables that summarize.py reads.

    python analysis/import_legacy.py all_experiments.csv mt30_results_summary.csv
    python analysis/import_legacy.py outputs/            Hydra's run folders in it

Writes a sweep a phase, or a file, to results/legacy_*/, every trial marked with its origin, and
prints what the files contradict each other in; results/legacy_contradictions.csv has all of that.
Importing again replaces what was imported from the same sources; a sweep with runs of others is
left as it is, and the command says so.
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
from pwmray.sweep_folders import IMPORTED, SWEEP_FILE, check_kind, read_sweep

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
    sweeps = _group(options.sources, files)
    for name, (sources, runs) in sweeps.items():
        _check_once(runs)
        _check_replaced(options.results / name, sources)
    for name, (sources, runs) in sweeps.items():
        folder = options.results / name
        _write_sweep(folder, sources, runs)
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


def _group(
    sources: Sequence[Path], files: Sequence[Sequence[LegacyRun]]
) -> dict[str, tuple[list[Path], list[LegacyRun]]]:
    """Return the sources and runs of each sweep; ValueError where a table would share one."""
    sweeps: dict[str, tuple[list[Path], list[LegacyRun]]] = {}
    for source, runs in zip(sources, files, strict=True):
        for run in runs:
            name = f"{PREFIX}{run.group}"
            shared, there = sweeps.setdefault(name, ([], []))
            if source not in shared:
                shared.append(source)
            if len(shared) > 1 and any(path.is_file() for path in shared):
                raise ValueError(f"{' and '.join(map(str, shared))} would both be sweep {name}")
            there.append(run)
    return sweeps


def _check_once(runs: Sequence[LegacyRun]) -> None:
    """Raise ValueError for a run that two sources of one import have, one within the other."""
    seen: dict[str, LegacyRun] = {}
    for run in runs:
        other = seen.setdefault(run.identity, run)
        if other is not run:
            raise ValueError(f"{run.source} is given twice: {other.origin} and {run.origin}")


def _check_replaced(folder: Path, sources: Sequence[Path]) -> None:
    """Raise ValueError where a sweep is there that has runs of more than `sources`."""
    sweep = read_sweep(folder)
    if not sweep:
        return
    if "sources" not in sweep:
        raise ValueError(
            f"{folder} does not say what was imported into it: move it away, or give another "
            "--results"
        )
    check_kind(folder / SWEEP_FILE, "sources", sweep["sources"], list)
    given = {source.resolve() for source in sources}
    for before in map(Path, sweep["sources"]):
        if given.isdisjoint([before, *before.parents]):
            raise ValueError(
                f"{folder} has runs of {before}, which would be lost: import it along with "
                f"{sources[0]}, or give another --results"
            )


def _write_sweep(folder: Path, sources: Sequence[Path], runs: Sequence[LegacyRun]) -> None:
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
        "sources": [str(source.resolve()) for source in sources],
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
    with replacing(folder / SWEEP_FILE) as draft:
        draft.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def _to_row(run: LegacyRun) -> dict[str, Any]:
    world_model, policy = KINDS.get(run.variant, (None, None))
    # What ran to its end was asked for what it reached; of another run that is not known.
    epochs = run.epochs or (None if run.failure else run.epochs_reached)
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
        "evaluation_episodes": run.num_episodes,
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
    varied = [name for name, values in names.items() if len(values - {None}) > 1]
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
    if path.exists():
        before = set(path.read_bytes().splitlines())
        num_gone = len(before - set(text.getvalue().encode().splitlines()))
        if num_gone:
            print(f"{num_gone} contradictions of an import before are no longer in {path}")
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
