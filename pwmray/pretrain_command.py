"""A set of pretrainings as a specification, and the command that runs it."""

import argparse
import contextlib
import functools
import itertools
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from pwmray import grid
from pwmray.build import build_shapes, num_parameters
from pwmray.checks import check_folder_name, check_list, check_mapping, complaints_of
from pwmray.commands import CommandParser, run_command, say, say_in_handler, show_progress
from pwmray.config import TrialConfig
from pwmray.contract import check_promises
from pwmray.driver.interruption import GO_ON
from pwmray.plan_text import describe_pretrained, duration_text
from pwmray.pretraining import prices as pretraining_prices
from pwmray.pretraining.config import PretrainingConfig, check_tasks, read_pretrain
from pwmray.pretraining.folder import (
    BEST_FILE,
    ElsewhereError,
    clear_leftovers,
    holder_of,
    is_done,
    state_of,
)
from pwmray.pretraining.pretrained import is_of_other_data
from pwmray.room import check_room
from pwmray.sweep_options import (
    add_place_options,
    add_plan_options,
    check_plan_options,
    check_scales,
    choose_scale,
    task_names,
)
from pwmray.system import quieten_dm_control
from pwmray.tasks import TASKS
from pwmray.tracking.protocol import Job
from pwmray.tracking.recording import Mode, choose_mode, recording
from pwmray.wording import as_typed

DIVERGED = 1  # exit code: a loss was not finite
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Pretraining:
    """World models to pretrain: every combination of `vary`, at a scale's settings.

    `seed` in `vary` or `hold` is the pretraining's, by default 0: the one that sweeps take where
    `world_model_from` is "pretrained"; "pretrained:1" is that of seed 1.
    """

    name: str
    vary: Mapping[str, Sequence[Any]]
    scales: Mapping[str, Mapping[str, Any]]
    hold: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise ValueError where the specification contradicts itself."""
        check_folder_name("a pretraining", self.name)
        with complaints_of(f"pretraining {self.name}"):
            check_scales({}, self.scales)
            check_mapping("vary", self.vary)
            check_mapping("hold", self.hold)
            for key, levels in self.vary.items():
                check_list(f"axis {key!r}", levels)
                grid.check_levels(key, levels)
            grid.check_held(self.hold, self.vary)

    def configs(self, scale: str, tasks: Sequence[str] = ()) -> list[PretrainingConfig]:
        """Return every pretraining once; `tasks` replaces the scale's own.

        Raises ValueError for a key or a value that is not valid.
        """
        self.check()
        for key in ("task", "epochs"):
            if key in self.vary or key in self.hold:
                raise ValueError(
                    f"pretraining {self.name} sets {key!r}, which only a trial has; its tasks "
                    "and iterations come from the scale's pretrain"
                )
        settings = self.scales[scale]
        pretrain = {**read_pretrain(settings), **({"tasks": tasks} if tasks else {})}
        first_task = check_tasks(pretrain)[0]
        found = []
        for cell in itertools.product(*self.vary.values()):
            chosen = dict(zip(self.vary, cell, strict=True))
            flat = {**settings["set"], "seed": 0, **self.hold, **chosen}
            trial = TrialConfig.from_flat({**flat, "task": first_task, "epochs": 1})
            found.append(PretrainingConfig.of(trial, pretrain, trial.seed))
        return list({config.fingerprint: config for config in found}.values())

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Run the command line and exit: 0 done, 1 one diverged, 2 bad input."""
        command = shlex.join(["python", *sys.argv])
        sys.exit(run_command(lambda: self._run(arguments, command)))

    def _run(self, arguments: Sequence[str] | None, command: str) -> int:
        self.check()
        chosen = _build_parser(self).parse_args(arguments)
        check_plan_options(chosen)
        scale = choose_scale(chosen.scale, self.scales)
        configs = self.configs(scale, chosen.tasks)
        check_promises(config.trial for config in configs)
        results_dir = chosen.results.resolve()
        places = {"results_dir": results_dir, "data_dir": chosen.data.resolve()}
        describe = functools.partial(_describe, scale=self.scales[scale], **places)
        if chosen.plan and chosen.format == "json":
            print(json.dumps([describe(config) for config in configs], indent=2))
            return 0
        for config in configs:
            described = describe(config)
            print(_line(described))
            if not described["is_found"]:
                print(
                    f"note: {config.label}: sweeps do not find it by themselves, since its tasks "
                    "or settings are not the scale's; give them --world-model "
                    f"{described['path']}"
                )
            if described["on_other_data"]:
                print(describe_pretrained(config.label, config.folder(results_dir)))
        if chosen.plan:
            return 0
        mode = choose_mode(chosen.wandb)
        quieten_dm_control()
        num_bytes = pretraining_prices.count_disk_bytes(configs, results_dir)
        check_room("the pretrainings", num_bytes, results_dir)
        return run_pretrainings(configs, **places, command=command, phase=self.name, mode=mode)


def run_pretrainings(
    configs: Sequence[PretrainingConfig],
    results_dir: Path,
    data_dir: Path,
    command: str,
    phase: str,
    mode: Mode,
) -> int:
    """Run, one after another, those that are not done; `command` is what goes on after Ctrl-C.

    What other processes run comes last: it is waited for, and taken over where they die. `phase` is
    the name of the set and, with `mode`, how W&B has them.
    Returns 0, or 1 when a loss was not finite. SIGUSR1 ends the process at once, with 75.
    """
    fingerprints = tuple(config.fingerprint for config in configs)
    is_working = not all(is_done(config.folder(results_dir)) for config in configs)
    job = Job(str(results_dir), pretrained=fingerprints)
    with _ending_when_asked(command), recording(mode, job, is_working):
        left = list(configs)
        try:
            while left:
                for config in list(left):
                    if not _finish(config, config.folder(results_dir), data_dir, phase):
                        continue
                    say(f"{config.label}: {config.folder(results_dir) / BEST_FILE}")
                    left.remove(config)
                _wait(left, results_dir)
        except FloatingPointError as error:
            say(f"failed: {error}", sys.stderr)
            return DIVERGED
        except KeyboardInterrupt:
            say(f"go on with: {as_typed(command)}", sys.stderr)
            raise
    return 0


@contextlib.contextmanager
def _ending_when_asked(command: str) -> Iterator[None]:
    """Have SIGUSR1 end this process at once, with the code that says it is to go on.

    The next point at which it could stop may come after the machine is taken away.
    """

    def end(*_: int | FrameType | None) -> None:
        say_in_handler(f"asked to stop; go on with: {as_typed(command)}")
        with contextlib.suppress(OSError, RuntimeError):  # it may have come within a print
            sys.stdout.flush()
        os._exit(GO_ON)

    before = signal.signal(signal.SIGUSR1, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def _finish(config: PretrainingConfig, folder: Path, data_dir: Path, phase: str) -> bool:
    """Bring a pretraining to its end unless another process is at it; return whether it is done."""
    if not is_done(folder):
        if holder_of(folder) is not None:
            return False
        try:
            _pretrain(config, folder, data_dir, phase)
        except ElsewhereError:  # another one was faster, or took it over
            return False
        except FloatingPointError as error:
            raise FloatingPointError(f"{config.label}: {error}") from error
    clear_leftovers(folder)
    return True


def _wait(configs: Sequence[PretrainingConfig], results_dir: Path) -> None:
    """Wait until a pretraining of another process is done or its process gone; say whose it is."""
    if not configs:
        return
    with show_progress("waiting for") as progress:
        while True:
            for config in configs:
                folder = config.folder(results_dir)
                holder = holder_of(folder)
                if holder is None or is_done(folder):
                    return
                done, total = pretraining_prices.num_done(folder), config.settings.iterations
                progress(f"{config.label}, by {holder}", done, total)
            time.sleep(_POLL_SECONDS)


def _describe(
    config: PretrainingConfig, scale: Mapping[str, Any], results_dir: Path, data_dir: Path
) -> dict[str, Any]:
    """Return what a pretraining is, where it stands and what it costs, as plain data."""
    number = num_parameters(build_shapes(config.trial).world_model)
    price = pretraining_prices.price(config, scale, results_dir)
    folder = config.folder(results_dir)
    return {
        "fingerprint": config.fingerprint,
        "what": config.label,
        "state": state_of(folder),
        "is_found": config.is_found(scale),  # by sweeps
        "on_other_data": is_of_other_data(config, folder, data_dir),
        "iterations": config.settings.iterations,
        "batch_size": config.settings.batch_size,
        "tasks": list(config.tasks),
        "parameters": number,
        "minutes_left": None if price is None else round(price.minutes, 3),
        "priced_by": None if price is None else price.source,
        "device": scale.get("device", "device"),
        "disk_mb": round(number * pretraining_prices.MOST_BYTES / 1e6, 3),
        "path": str(folder / BEST_FILE),
    }


def _line(described: dict[str, Any]) -> str:
    tasks = described["tasks"]
    time = ""
    if described["minutes_left"]:
        hours = duration_text(described["minutes_left"] / 60, described["device"])
        time = f"; about {hours} by {described['priced_by']}"
    return (
        f"{described['fingerprint']}  {described['what']}: {described['state']}; "
        f"{described['iterations']} iterations of {described['batch_size']} windows of "
        f"{'mt30' if tasks == list(TASKS) else ', '.join(tasks)}; {described['disk_mb']:.1f} MB"
        f"{time}"
    )


def _pretrain(config: PretrainingConfig, folder: Path, data_dir: Path, phase: str) -> None:
    import torch

    from pwmray.data.store import open_store
    from pwmray.devices import set_up_torch
    from pwmray.driver.data_making import make_data
    from pwmray.pretraining.run import pretrain

    with show_progress("data") as progress:
        wanted = [(task, config.data) for task in config.tasks]
        paths = make_data(wanted, data_dir, progress)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trial = config.trial
    set_up_torch(device, trial.runtime.num_cpus, trial.learner.matmul)
    with show_progress("pretraining") as progress:
        stores = [open_store(paths[key], task=key[0]) for key in wanted]
        pretrain(config, folder, stores, device, progress, phase)


def _build_parser(pretraining: Pretraining) -> argparse.ArgumentParser:
    parser = CommandParser(
        description=f"Pretrain the world models of {pretraining.name}; run it again to continue "
        "where it stopped."
    )
    add_plan_options(parser, "print what would run; run nothing")
    parser.add_argument("--tasks", type=task_names, default=(), metavar="A,B", help="other tasks")
    add_place_options(parser, pretraining.scales)
    return parser
