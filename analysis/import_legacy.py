"""Import results from before this package into tables that summarize.py reads.

    python analysis/import_legacy.py all_experiments.csv mt30_results_summary.csv
    python analysis/import_legacy.py outputs/            Hydra's run folders in it

Writes one sweep per phase, or per file, to results/legacy_*/, with the origin of every trial.
Prints where the files contradict each other; results/legacy_contradictions.csv lists all of it.
Importing again replaces what came from the same sources; the command refuses to replace other runs.
Exit status: 0 if something was imported, 2 with one line on stderr if not.
"""

import argparse
import csv
import io
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from analysis.legacy import (
    PREFIX,
    Contradiction,
    LegacyRun,
    find_contradictions,
    read_table_of_runs,
)
from analysis.legacy_runs import find_run_folders, read_run
from analysis.legacy_sweeps import check_replaced, write_sweep
from pwmray.commands import CommandParser, add_results_option, check_distinct, run_command
from pwmray.files import replacing
from pwmray.wording import number_of

SHOWN = 3  # contradictions of a field that are printed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    return run_command(lambda: import_legacy(build_parser().parse_args(arguments)))


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = CommandParser(
        prog="import_legacy.py",
        description="Import results from before this package, and list their contradictions.",
    )
    parser.add_argument("sources", nargs="+", type=Path, metavar="CSV|DIR")
    add_results_option(parser)
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
        check_replaced(options.results / name, sources)
    for name, (sources, runs) in sweeps.items():
        folder = options.results / name
        write_sweep(folder, sources, runs)
        print(f"{number_of(len(runs), 'run')} -> {folder}")
    _write_contradictions(options.results / "legacy_contradictions.csv", found)
    _print_contradictions(found)
    return 0


def _label_sources(sources: Sequence[Path]) -> list[Path]:
    """Return each path's shortest distinguishing end; an empty path for the only folder."""
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
    """Raise ValueError for a run given twice, by two sources of which one contains the other."""
    seen: dict[str, LegacyRun] = {}
    for run in runs:
        other = seen.setdefault(run.identity, run)
        if other is not run:
            raise ValueError(f"{run.source} is given twice: {other.origin} and {run.origin}")


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
        print(f"{field}: {number_of(count, 'contradiction')}")
        for one in [one for one in found if one.field == field][:SHOWN]:
            print(f"  {one.run}: {one.first} against {one.second}")
        if count > SHOWN:
            print(f"  and {count - SHOWN} more in legacy_contradictions.csv")


if __name__ == "__main__":
    sys.exit(main())
