"""Show what differs between two trials or sweeps: config, data, code, versions, hardware.

    python analysis/diff.py A B [--results DIR]

A and B are each the name of a sweep, or a trial's fingerprint, its beginning, or readable name. A
sweep's value of a field is the set of its trials' values.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from analysis.guard import OWN_CODE, PARAMETERS, settings_of
from analysis.load import Trial, load_sweep
from pwmray.commands import CommandParser, add_results_option, run_command
from pwmray.registry.sweep_folders import find_sweep, find_trial, list_sweeps
from pwmray.wording import number_of, one_line

PARTS = {
    "data": ("data_fingerprint",),
    "world model": ("world_model_from", "world_model_training"),
    "code": ("code_version", "git_commit", "code_fingerprint", *OWN_CODE),
    "versions": (
        "python_version",
        "torch_version",
        "mujoco_version",
        "dm_control_version",
        "ray_version",
    ),
    "hardware": ("device", "host", "kernels", "cuda_graph"),
    "evaluation": ("evaluation_protocol", "evaluation_episodes"),
    "outcome": ("status", "epochs_reached", *PARAMETERS),
}
_MAX_VALUES = 4  # printed of one field


class Difference(NamedTuple):
    """One field that is not the same on both sides."""

    part: str
    field: str
    one: Sequence[str]
    other: Sequence[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the differences; return the exit status."""
    return run_command(lambda: report(build_parser().parse_args(arguments)))


def report(options: argparse.Namespace) -> None:
    """Find both sides and print what differs between them."""
    names = options.one, options.other
    sides = [find_side(name, options.results) for name in names]
    found = compare(*sides)
    if options.format == "json":
        print(json.dumps([difference._asdict() for difference in found], indent=2))
        return
    print("\n".join(_as_table(found, names, sides)))


def find_side(name: str, results: Path) -> list[Trial]:
    """Return the trials of the sweep `name`, or the one trial of that name.

    Raises ValueError for a name that is neither's, and for a sweep or trial without a row yet.
    """
    sweeps = list_sweeps(results)
    if name in sweeps:
        trials = list(load_sweep(find_sweep(results, name)).trials)
        if not trials:
            raise ValueError(f"sweep {name} in {results} has no trials to compare yet")
        return trials
    fingerprint = find_trial(results, name).name
    unread = []
    for sweep in sweeps:
        try:
            trials = load_sweep(results / sweep).trials
        except (ValueError, OSError) as error:  # another one may have the trial
            unread.append(one_line(error))
            continue
        for trial in trials:
            if trial.record["trial"] == fingerprint:
                return [trial]
    why = f": {'; '.join(unread)}" if unread else ""
    raise ValueError(f"trial {fingerprint} is in no table of a sweep in {results} yet{why}")


def compare(one: Sequence[Trial], other: Sequence[Trial]) -> list[Difference]:
    """Return every field of which the two sides do not have the same set of values."""
    found = _differing("config", settings_of(one), settings_of(other))
    for part, fields in PARTS.items():
        found += _differing(part, _values(one, fields), _values(other, fields))
    return found


def build_parser() -> CommandParser:
    """Return the parser of the command line."""
    parser = CommandParser(description="Say what differs between two trials or two sweeps.")
    parser.add_argument("one", metavar="A", help="a sweep's name, or a trial's")
    parser.add_argument("other", metavar="B", help="what to compare it with")
    add_results_option(parser)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    return parser


def _differing(part: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Difference]:
    pairs = {
        field: (list(one.get(field, ())), list(other.get(field, ()))) for field in {**one, **other}
    }
    return [
        Difference(part, field, ours, theirs)
        for field, (ours, theirs) in pairs.items()
        if set(ours) != set(theirs)
    ]


def _values(trials: Sequence[Trial], fields: Sequence[str]) -> dict[str, list[str]]:
    return {f: list(dict.fromkeys(str(trial.record[f]) for trial in trials)) for f in fields}


def _as_table(
    found: Sequence[Difference], names: tuple[str, str], sides: Sequence[Sequence[Trial]]
) -> list[str]:
    counts = [
        f"{name} ({number_of(len(side), 'trial')})" for name, side in zip(names, sides, strict=True)
    ]
    if not found:
        return [f"nothing differs between {' and '.join(counts)}"]
    rows = [(d.field, _shown(d.one), _shown(d.other)) for d in found]
    widths = [max(len(row[column]) for row in (*rows, ("", *names))) for column in (0, 1)]
    lines = [f"{'':<{widths[0]}}  {names[0]:<{widths[1]}}  {names[1]}"]
    for number, (difference, row) in enumerate(zip(found, rows, strict=True)):
        if number == 0 or found[number - 1].part != difference.part:
            lines.append(f"{difference.part}:")
        lines.append(f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip())
    return lines


def _shown(values: Sequence[str]) -> str:
    more = f" and {len(values) - _MAX_VALUES} more" if len(values) > _MAX_VALUES else ""
    return ", ".join(values[:_MAX_VALUES]) + more or "-"


if __name__ == "__main__":
    sys.exit(main())
