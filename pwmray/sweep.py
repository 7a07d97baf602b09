"""A sweep: the experiment as a specification, and the command that runs it.

A phase file builds one `Sweep` and calls `main`; the command line says what to run of it, never
what the experiment is.
"""

import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwmray import grid
from pwmray.checks import check_folder_name, check_list, check_mapping, complaints_of
from pwmray.commands import run_command
from pwmray.config import PRETRAINED, TrialConfig
from pwmray.driver import notify
from pwmray.grid import Levels
from pwmray.levels import check_names, check_planner_acts, check_told_apart, spell_out_level
from pwmray.sweep_options import (
    check_docstrings,
    check_plan_options,
    check_scales,
    choose_scale,
    sweep_parser,
)
from pwmray.system import quieten_dm_control
from pwmray.tracking.recording import Mode, choose_mode
from pwmray.variants import check_kinds

if TYPE_CHECKING:
    from pwmray.plan import Plan

__all__ = ["PRETRAINED", "Sweep"]
_AXIS_OPTIONS = {"task": "--tasks", "seed": "--seeds"}


@dataclass(frozen=True)
class Sweep:
    """A grid of trials.

    `vary` maps each axis to its levels, `hold` each fixed config key to its value. The summary
    compares the levels of the axis `compare`, apart for each combination of the axes `within`. A
    level is a value of the config key that its axis is named after, or a mapping of several keys;
    an axis that is itself a mapping gives its levels names. `scales` is plain data, see
    search_spaces/scales.py; `at_scale` overrides axes or held keys at one scale. `gpus` maps an
    axis's levels to the type of GPU that their trials ask for. Where `world_model_from` is
    "pretrained", the world model is the one that the file `pretraining` makes at the same scale.
    """

    name: str
    vary: Mapping[str, Levels]
    compare: str
    within: Sequence[str]
    scales: Mapping[str, Mapping[str, Any]]
    hold: Mapping[str, Any] = field(default_factory=dict)
    at_scale: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    gpus: Mapping[str, Mapping[Any, str]] = field(default_factory=dict)
    pretraining: str = "phase8_pretrain"  # the file in sweeps/ that makes pretrained world models

    def check(self) -> None:
        """Raise ValueError where the specification contradicts itself or names an unknown axis."""
        check_folder_name("a sweep", self.name)
        with complaints_of(f"sweep {self.name}"):
            check_scales(self.at_scale, self.scales)
            check_mapping("vary", self.vary, "axes")
            for name, scale in self.scales.items():
                grid.check_replaced(name, scale["instead"], self.vary)
            check_mapping("hold", self.hold)
            check_list("within", self.within)
            for here in ({}, *self.at_scale.values()):
                axes = {axis: here.get(axis, levels) for axis, levels in self.vary.items()}
                for axis, levels in axes.items():
                    grid.check_levels(axis, levels)
                grid.check_held({**self.hold, **_without(here, axes)}, axes)
            grid.check_gpus(self.gpus, self.vary)
            for axis in (self.compare, *self.within):
                if axis not in list(self.vary):
                    where = "" if axis == self.compare else " (within)"
                    raise ValueError(f"{axis!r} is compared but does not vary{where}")

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The config keys that each axis sets."""
        return grid.axes_of(self.vary, self.at_scale)

    def named_levels(self, scale: str) -> dict[str, dict[str, dict[str, Any]]]:
        """Return the spelled-out settings of the named levels at a scale, by axis and name."""
        held, axes = self._held(scale), self.axes
        found = {}
        for axis, levels in self._levels_at(scale).items():
            if isinstance(levels, Mapping):
                others = [key for other in axes if other != axis for key in axes[other]]
                elsewhere = {*held, *others}
                found[axis] = {
                    name: spell_out_level(settings, elsewhere) for name, settings in levels.items()
                }
        return found

    def cells(
        self, scale: str, chosen: Mapping[str, Sequence[Any]] | None = None
    ) -> list[TrialConfig]:
        """Return every trial of the grid at `scale` once, in the order in which they run.

        The last axis of `vary` changes slowest (a seed is finished before the next begins) and
        the first one fastest. `chosen` replaces the values of an axis, or selects among levels that
        set other keys, too. A `world_model_from` of "pretrained" is kept; a path is made absolute,
        since the trial's process may run in another folder.
        Raises ValueError for an unknown scale, a chosen value that no such level has, an axis that
        changes nothing, trials that no table could tell apart, a config that cannot run, or a
        missing file.
        """
        from pwmray.pretraining.pretrained import place_pretrained

        self.check()
        with complaints_of(f"sweep {self.name}"):
            axes = self._levels_at(choose_scale(scale, self.scales))
            for axis, values in (chosen or {}).items():
                axes[axis] = grid.choose(axis, axes[axis], values)
        held = self._held(scale)
        flats = grid.cells(axes, self.gpus)
        configs = [TrialConfig.from_flat({**held, **flat}) for flat in flats]
        configs = [place_pretrained(config) for config in configs]
        fingerprints = [config.fingerprint for config in configs]
        with complaints_of(f"sweep {self.name}"):
            grid.check_axes(axes, fingerprints)
            check_planner_acts(configs, self.axes)
            named = self.named_levels(scale)
            for axis, levels in named.items():
                names = grid.levels_in_cells(axes, axis)
                check_names(axis, configs, names, levels)
            check_told_apart(configs, self.axes, named)
            for flat in flats:
                check_kinds({**held, **flat})
        return list(dict(zip(fingerprints, configs, strict=True)).values())

    def trials(
        self,
        scale: str,
        chosen: Mapping[str, Sequence[Any]] | None = None,
        results: Path = Path("results"),
    ) -> list[TrialConfig]:
        """Return `cells` with the files of their pretrained world models in `results`.

        Raises ValueError for a missing one, with the command that makes it.
        """
        from pwmray.pretraining import prerequisites

        cells = self.cells(scale, chosen)
        prerequisites.check_made(prerequisites.find(self, scale, cells, results).prerequisites)
        return prerequisites.find(self, scale, cells, results).configs  # they may just be made

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Run the command line and exit: 0 done, 1 trials failed, 2 bad input, or launch.run's."""
        # Inside a Slurm job it is cluster/submit.py that continues the sweep.
        command = os.environ.get("PWMRAY_COMMAND") or shlex.join(["python", *sys.argv])
        sys.exit(run_command(lambda: self._run(arguments, command)))

    def _run(self, arguments: Sequence[str] | None, command: str) -> int:
        self.check()
        chosen = sweep_parser(self.name, self.scales).parse_args(arguments)
        check_plan_options(chosen)
        planned = self.plan(chosen)
        if chosen.plan:
            from pwmray.plan_text import as_json, as_table

            as_text = as_json if chosen.format == "json" else as_table
            print(as_text(planned, chosen.devices))
            return 0
        check_docstrings()
        mode = choose_mode(chosen.wandb)
        quieten_dm_control()
        data = chosen.data.resolve()
        if chosen.pretrain and not planned.is_ready:
            code = _pretrain(planned, data, command, mode, notify.from_environment(self.name))
            if code:
                return code
            planned = self.plan(chosen)
        from pwmray.driver import launch
        from pwmray.pretraining import prerequisites

        prerequisites.check_made(planned.prerequisites)
        if not planned.is_ready:  # another process made them since they were looked up
            planned = self.plan(chosen)
        return launch.run(planned, data, chosen.address, command, mode, chosen.patience)

    def plan(self, chosen: Namespace) -> "Plan":
        """Return the plan of what the options of the command line choose."""
        from pwmray import plan
        from pwmray.pretraining import prerequisites
        from pwmray.pretraining.pretrained import check_matched

        scale = choose_scale(chosen.scale, self.scales)
        results, data = chosen.results.resolve(), chosen.data.resolve()
        cells = self.cells(scale, self._chosen_axes(chosen))
        configs = _for_gpus(cells[: chosen.limit], chosen.gpu_types, chosen.trials_per_gpu)
        given = prerequisites.read_files(chosen.world_model)
        prerequisites.check_given(self, cells, given)
        found = prerequisites.find(self, scale, configs, results, given, data)
        if not chosen.allow_unmatched:
            check_matched(found.configs)
        return plan.make(
            self, scale, found.configs, results, found.prerequisites, data, found.words
        )

    def _levels_at(self, scale: str) -> dict[str, Levels]:
        """Return the levels of each axis at a scale."""
        here, instead = self.at_scale.get(scale, {}), self.scales[scale]["instead"]
        axes = {
            axis: here[axis] if axis in here else grid.scaled(levels, instead.get(axis, {}))
            for axis, levels in self.vary.items()
        }
        for axis, levels in axes.items():
            if not levels:
                raise ValueError(f"scale {scale!r} leaves axis {axis!r} without levels")
        return axes

    def _held(self, scale: str) -> dict[str, Any]:
        """Return what all its trials hold at a scale, unless an axis sets it."""
        here = _without(self.at_scale.get(scale, {}), self.vary)
        return {**self.scales[scale]["set"], **self.hold, **here}

    def _chosen_axes(self, chosen: Namespace) -> dict[str, Sequence[Any]]:
        axes = {axis: getattr(chosen, axis) for axis in _AXIS_OPTIONS if getattr(chosen, axis)}
        for axis in axes:
            if axis not in self.vary:
                raise ValueError(
                    f"{_AXIS_OPTIONS[axis]} is given, but sweep {self.name} does not vary {axis}"
                )
        return axes


def _without(settings: Mapping[str, Any], axes: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in axes}


def _for_gpus(
    configs: list[TrialConfig], gpu_types: list[str] | None, trials_per_gpu: int | None
) -> list[TrialConfig]:
    """Return the trials for some types of GPU, with their share of one where it is chosen."""
    if gpu_types is not None:
        asked = dict.fromkeys(filter(None, (c.runtime.gpu_type for c in configs)))
        configs = [c for c in configs if c.runtime.gpu_type in ("", *gpu_types)]
        if not configs:
            raise ValueError(
                f"--gpu-types {','.join(gpu_types)}: no trial asks for one; they ask for: "
                f"{', '.join(asked)}"
            )
    if trials_per_gpu is None:
        return configs
    share = 1 / trials_per_gpu
    return [replace(c, runtime=replace(c.runtime, gpu_fraction=share)) for c in configs]


def _pretrain(
    planned: "Plan", data: Path, command: str, mode: Mode, notices: notify.Notices
) -> int:
    """Make the world models that are missing; return the exit code, after telling of a failure."""
    from pwmray import plan
    from pwmray.pretrain_command import run_pretrainings

    wanted = [needed.pretraining for needed in planned.prerequisites]
    phase = planned.sweep.pretraining
    with notices.telling_of_an_error():
        plan.check_disk(planned)
        code = run_pretrainings(wanted, planned.results, data, command, phase, mode)
    if code:
        notices.end(len(planned.trials) - len(planned.to_run), 0, len(planned.to_run))
    return code
