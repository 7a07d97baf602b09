"""A sweep: the experiment as a specification, and the command that runs it.

A phase file builds one `Sweep` and calls `main`; the command line says what to run of it, never
what the experiment is.
"""

import argparse
import itertools
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pwmray.commands import CommandParser, distinct, names, run_command, unknown
from pwmray.config import PRETRAINED, TrialConfig
from pwmray.levels import axes_of

_AXIS_OPTIONS = {"task": "--tasks", "seed": "--seeds"}


@dataclass(frozen=True)
class Sweep:
    """A grid of trials.

    `vary` maps config keys to the values on that axis, `hold` to one value; `compare` is the axis
    whose levels are compared, `within` each combination of the others named. An axis's level may
    be a mapping of several config keys. `scales` is plain data: see search_spaces/scales.py;
    `at_scale` gives some of this sweep's axes or held keys other values at a scale.
    Where `world_model_from` is "pretrained", the world model is the one that the file
    `pretraining` makes at the same scale.
    """

    name: str
    vary: Mapping[str, Sequence[Any]]
    compare: str
    within: Sequence[str]
    scales: Mapping[str, Mapping[str, Any]]
    hold: Mapping[str, Any] = field(default_factory=dict)
    at_scale: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pretraining: str = "phase8_pretrain"  # the file in sweeps/ that makes pretrained world models

    def __post_init__(self) -> None:
        for axis in (self.compare, *self.within):
            if axis not in self.vary:
                raise ValueError(f"sweep {self.name}: {axis!r} is compared but does not vary")

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The config keys that each axis sets."""
        return axes_of(self.vary, self.at_scale)

    def trials(
        self,
        scale: str,
        chosen: Mapping[str, Sequence[Any]] | None = None,
        results: Path = Path("results"),
    ) -> list[TrialConfig]:
        """Return every trial of the grid at `scale`, in the order in which they run.

        The last axis of `vary` changes slowest (a seed is finished before the next begins) and
        the first one fastest. `chosen` gives an axis other values than the scale's own. The
        files of pretrained world models are looked up in `results`; a path is taken from the
        current folder, and is whole in the trial, whose process may have another.
        Raises ValueError for an unknown scale, a config that cannot run, or a file not there.
        """
        settings = self.scales[choose_scale(scale, self.scales)]
        here = self.at_scale.get(scale, {})
        axes = {
            axis: (chosen or {}).get(axis)
            or here.get(axis)
            or _scaled(values, settings["instead"].get(axis, {}))
            for axis, values in self.vary.items()
        }
        held = {**settings["set"], **self.hold, **{k: v for k, v in here.items() if k not in axes}}
        order = list(reversed(axes))
        cells = itertools.product(*(axes[axis] for axis in order))
        flats = [_merged(zip(order, cell, strict=True)) for cell in cells]
        configs = [TrialConfig.from_flat({**held, **flat}) for flat in flats]
        configs = [self._with_world_model(config, scale, results) for config in configs]
        return list({config.fingerprint: config for config in configs}.values())

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Run the sweep's command line and exit: 0 done, 1 trials failed, 2 bad input."""
        command = shlex.join(["python", *sys.argv])
        sys.exit(run_command(lambda: self._run(arguments, command)))

    def _run(self, arguments: Sequence[str] | None, command: str) -> int:
        chosen = _build_parser(self).parse_args(arguments)
        scale = choose_scale(chosen.scale, self.scales)
        axes = {axis: getattr(chosen, axis) for axis in _AXIS_OPTIONS if getattr(chosen, axis)}
        for axis in axes:
            if axis not in self.vary:
                raise ValueError(
                    f"{_AXIS_OPTIONS[axis]} is given, but sweep {self.name} does not vary {axis}"
                )
        results = chosen.results.resolve()
        configs = self.trials(scale, axes, results)[: chosen.limit]
        from pwmray import plan

        planned = plan.make(self, scale, configs, results)
        if chosen.plan:
            print(plan.as_json(planned) if chosen.format == "json" else plan.as_table(planned))
            return 0
        # The renderer is chosen when dm_control is imported; training needs none.
        os.environ.setdefault("MUJOCO_GL", "disable")
        from pwmray import launch

        return launch.run(planned, chosen.data.resolve(), chosen.address, command)

    def _with_world_model(self, config: TrialConfig, scale: str, results: Path) -> TrialConfig:
        if not config.is_pretrained:
            return config
        from pwmray.pretrained import place_pretrained, resolve_pretrained

        if config.world_model_from != PRETRAINED:
            return place_pretrained(config)
        make_with = f"python sweeps/{self.pretraining}.py --scale {scale}"
        if results != Path("results").resolve():
            make_with += f" --results {shlex.quote(str(results))}"
        return resolve_pretrained(config, self.scales[scale], results, make_with)


def choose_scale(name: str | None, scales: Mapping[str, Any]) -> str:
    """Return the scale asked for, else the default; raise ValueError for one that is not there."""
    if name is None:
        return _default_scale(scales)
    if name not in scales:
        raise ValueError(unknown("scale", name, scales))
    return name


def _merged(cell: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a cell's settings; a level that is a mapping stands for its own settings."""
    flat: dict[str, Any] = {}
    for axis, level in cell:
        flat |= level if isinstance(level, Mapping) else {axis: level}
    return flat


def _scaled(values: Sequence[Any], instead: Mapping[Any, Any]) -> list[Any]:
    """Return the scale's values; None stands for a value that the scale leaves out."""
    scaled = [
        value if isinstance(value, Mapping) else instead.get(value, value) for value in values
    ]
    return [value for value in scaled if value is not None]


def _default_scale(scales: Mapping[str, Any]) -> str:
    """Return "paper" on a machine with a GPU, else "laptop"."""
    import torch

    preferred = "paper" if torch.cuda.is_available() else "laptop"
    return preferred if preferred in scales else next(iter(scales))


def _build_parser(sweep: Sweep) -> argparse.ArgumentParser:
    parser = CommandParser(
        description=f"Run the sweep {sweep.name}; a second run goes on where the first stopped."
    )
    add = parser.add_argument
    add_place_options(parser, sweep.scales)
    add("--plan", action="store_true", help="print the trials and their cost, run nothing")
    add("--format", choices=("table", "json"), default="table", help="of --plan")
    add("--limit", type=_count, metavar="N", help="only the first N trials")
    add("--tasks", dest="task", type=names, metavar="A,B", help="other tasks than the sweep's")
    add("--seeds", dest="seed", type=_seeds, metavar="42,123", help="other training seeds")
    add("--address", help="join a running Ray cluster: auto or host:port; default: start one here")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def add_place_options(parser: argparse.ArgumentParser, scales: Mapping[str, Any]) -> None:
    """Add what every command of a phase takes: the scale and the folders."""
    add = parser.add_argument
    add("--scale", help=f"{', '.join(scales)}; default: paper with a GPU, else laptop")
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    add("--data", type=Path, default=Path("data"), metavar="DIR", help="default: data")


def _seeds(text: str) -> list[int]:
    seeds = [seed.strip() for seed in text.split(",")]
    wrong = [seed for seed in seeds if not seed.isdecimal()]
    if wrong:
        raise argparse.ArgumentTypeError(
            f"{wrong[0]!r} is not a seed; seeds are whole numbers from 0, separated by commas"
        )
    return distinct([int(seed) for seed in seeds])
