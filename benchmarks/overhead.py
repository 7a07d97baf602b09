"""Show where a sweep's core seconds went: training, evaluating, making data, or overhead.

    python benchmarks/overhead.py phase6_epochs [--results DIR]

Reads what the sweep's latest driver left in results/<sweep>/runs.jsonl, and the trials' own
timings. What remains (Ray's start, scheduling, starting processes, idle cores at the end) is
printed as a share of wall time times cores.
"""

import argparse
import json
import sys
from pathlib import Path

from pwmray import registry
from pwmray.commands import CommandParser, run_command


def main() -> int:
    """Print the table; return the exit status."""
    parser = CommandParser(description="Print where a sweep's core seconds went.")
    parser.add_argument("sweep", help="its name under the results folder")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")
    return run_command(lambda: report(parser.parse_args()))


def report(options: argparse.Namespace) -> None:
    """Print core seconds by use of the sweep's last run that trained anything."""
    run = last_run(options.results / options.sweep)
    records = [
        registry.read(registry.trial_folder(options.results, name)) for name in run["trials"]
    ]
    busy = {
        "training": sum(record.last("train_seconds") or 0 for record in records),
        "evaluating": sum(record.last("evaluation_seconds") or 0 for record in records),
        "making data": run["data_seconds"],
    }
    total = run["seconds"] * run["cores"]
    rows = {**busy, "Ray, starting and idle": total - sum(busy.values())}
    print(
        f"{options.sweep}: {len(records)} trials in {run['seconds'] / 60:.1f} minutes "
        f"on {run['cores']} cores"
    )
    for name, seconds in rows.items():
        print(f"{name:<24} {seconds:>8.0f} core seconds {100 * seconds / total:>5.1f} %")


def last_run(folder: Path) -> dict:
    """Return the last line of runs.jsonl with trials; raise ValueError where there is none."""
    path = folder / "runs.jsonl"
    if not path.exists():
        raise ValueError(f"{path} not found; run the sweep first")
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    trained = [run for run in runs if run["trials"]]
    if not trained:
        raise ValueError(f"{path} has no run that trained anything")
    return trained[-1]


if __name__ == "__main__":
    sys.exit(main())
