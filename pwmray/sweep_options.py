"""The options of the commands of a phase: what to run of it, where, at which scale."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pwmray.checks import check_mapping, typed
from pwmray.commands import CommandParser, add_results_option, distinct, names
from pwmray.tasks import TASKS
from pwmray.tracking.recording import MODES
from pwmray.wording import unknown

# What a scale may say, beside `instead` and `set`, which it must.
_MINUTES = ("minutes_per_1000_epochs", "pretraining_minutes")
_PARTS = ("instead", "set", "pretrain", "device", "earlier_runs", *_MINUTES)
_MOST = 10**9  # of what is counted on a command line: more than any machine has


def sweep_parser(name: str, scales: Mapping[str, Any]) -> argparse.ArgumentParser:
    """Return the parser of a sweep's command."""
    parser = CommandParser(
        description=f"Run the sweep {name}; run it again to continue where it stopped."
    )
    add = parser.add_argument
    add_place_options(parser, scales)
    add_plan_options(parser, "print the trials and their cost; run nothing")
    add(
        "--devices",
        type=count,
        metavar="N",
        help="with --plan: the wall time on N GPUs (or cores); default: those here",
    )
    add("--limit", type=count, metavar="N", help="run only the first N trials")
    add("--tasks", dest="task", type=task_names, metavar="A,B", help="other tasks; mt30 for all 30")
    add("--seeds", dest="seed", type=_seeds, metavar="42,123", help="other training seeds")
    add("--pretrain", action="store_true", help="first make the missing pretrained world models")
    add("--world-model", metavar="FILE", help="start from it; by kind: mlp=FILE,flow=FILE")
    add("--allow-unmatched", action="store_true", help="accept world models not pretrained alike")
    add("--gpu-types", type=names, metavar="A,B", help="only trials that ask for these, or for any")
    add_cluster_options(parser)
    add(
        "--patience",
        type=count,
        default=float("inf"),
        metavar="SECONDS",
        help="how long to wait for trials that other processes run; default: until they end",
    )
    return parser


def add_plan_options(parser: argparse.ArgumentParser, text: str) -> None:
    """Add --plan, whose help is `text`, and how it prints."""
    parser.add_argument("--plan", action="store_true", help=text)
    parser.add_argument(
        "--format", choices=("table", "json"), help="how --plan prints; default: table"
    )


def check_plan_options(chosen: argparse.Namespace) -> None:
    """Raise ValueError for an option of --plan without it: what it asks about would be run."""
    for option in ("format", "devices"):
        if not chosen.plan and getattr(chosen, option, None) is not None:
            raise ValueError(f"--{option} is an option of --plan; give both, or neither to run")


def check_docstrings() -> None:
    """Raise ValueError where Python leaves out docstrings: Ray cannot be loaded without its own."""
    if sys.flags.optimize > 1:
        raise ValueError("Ray needs docstrings: leave out -OO, or unset PYTHONOPTIMIZE")


def add_place_options(parser: argparse.ArgumentParser, scales: Mapping[str, Any]) -> None:
    """Add what every command of a phase takes: the scale and the folders."""
    add = parser.add_argument
    add("--scale", help=f"{', '.join(scales)}; default: paper with a GPU, else laptop")
    add_results_option(parser)
    add("--data", type=Path, default=Path("data"), metavar="DIR", help="data folder; default: data")
    add("--wandb", choices=MODES, help="where W&B runs go; default: WANDB_MODE, else offline")


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command that runs trials takes: the Ray that runs them, and their GPUs."""
    add = parser.add_argument
    add(
        "--trials-per-gpu",
        type=count,
        metavar="N",
        help="trials side by side on one GPU; default: the scale's",
    )
    add("--address", help="join a running Ray cluster, auto or host:port; default: start one here")


def choose_scale(name: str | None, scales: Mapping[str, Any]) -> str:
    """Return the scale asked for, else the default; raise ValueError for one that is not there."""
    if name is None:
        return _default_scale(scales)
    if name not in scales:
        raise ValueError(unknown("scale", name, scales))
    return name


def check_scales(at_scale: Any, scales: Any) -> None:
    """Raise ValueError for scales that say too little, or what is given at one not there."""
    check_mapping("scales", scales, "names")
    if not scales:
        raise ValueError("scales is empty: it must have at least one scale")
    for name, scale in scales.items():
        check_mapping(f"scale {name!r}", scale, "instead, set and others")
        _check_scale(f"scale {name!r}", scale)
    check_mapping("at_scale", at_scale, "scales")
    for name, here in at_scale.items():
        if name not in scales:
            raise ValueError(f"at_scale: {unknown('scale', name, scales)}")
        check_mapping(f"at_scale: {name!r}", here)


def _check_scale(what: str, scale: Mapping[str, Any]) -> None:
    for part in ("instead", "set"):
        if part not in scale:
            raise ValueError(f"{what} lacks {part!r}, which may be empty: {{}}")
        check_mapping(f"{what}: {part!r}", scale[part])
    for part in scale:
        if part not in _PARTS:
            raise ValueError(f"{what}: {unknown('part', part, _PARTS)}")
    for axis, values in scale["instead"].items():
        if not isinstance(values, Mapping):
            raise ValueError(
                f"{what}: 'instead' of {axis!r} is {values!r:.80}; it must be a mapping of values"
            )
    for part in _MINUTES:
        check_mapping(f"{what}: {part!r}", scale.get(part, {}))
        for key, minutes in scale.get(part, {}).items():
            typed(f"{what}: {part!r} of", key, minutes, float)


def count(text: str) -> int:
    """Read a whole number from 1 to _MOST."""
    if not text.isdecimal() or not text.strip("0"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    if len(text) > len(str(_MOST)) or int(text) > _MOST:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is too large; valid: 1 to {_MOST}")
    return int(text)


def task_names(text: str) -> list[str]:
    """Split names of tasks at commas; mt30 stands for all of them."""
    return list(TASKS) if text.strip() == "mt30" else names(text)


def _default_scale(scales: Mapping[str, Any]) -> str:
    """Return "paper" on a machine with a GPU, else "laptop"."""
    import torch

    preferred = "paper" if torch.cuda.is_available() else "laptop"
    return preferred if preferred in scales else next(iter(scales))


def _seeds(text: str) -> list[int]:
    seeds = [seed.strip() for seed in text.split(",")]
    wrong = [seed for seed in seeds if not seed.isdecimal()]
    if wrong:
        raise argparse.ArgumentTypeError(
            f"{wrong[0]!r} is not a seed; seeds are whole numbers from 0, separated by commas"
        )
    return distinct([int(seed) for seed in seeds])
