"""`pwmray predict`: how well a sweep's world models predict rewards, as tables beside its own."""

import argparse
import datetime
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pwmray import registry
from pwmray.commands import (
    Progress,
    Subcommands,
    add_results_option,
    give_results,
    names,
    say,
    show_progress,
)
from pwmray.registry import CHECKPOINT_FILE, Status
from pwmray.registry.sweep_folders import find_sweep, read_sweep
from pwmray.results import PREDICTIONS, PREDICTIONS_FOLDER, write_rows
from pwmray.room import check_writable
from pwmray.system import quieten_dm_control
from pwmray.tasks import EPISODE_STEPS
from pwmray.wording import as_typed, number_of, one_line, unknown

if TYPE_CHECKING:  # torch takes seconds to load, and most commands need none
    import torch

    from pwmray.agent import Agent
    from pwmray.predictions import Windows


class _Group(NamedTuple):
    """The evaluated trials of one task that have their checkpoints."""

    task: str
    trials: list[str]
    num_episodes: int  # that each of them was finally evaluated in, the smallest number
    horizon: int  # that their policies imagine, the largest


class _Turns(NamedTuple):
    """How far a command has come: each trial has a turn to act and one to predict."""

    progress: Progress
    first: int  # turns before the group's
    total: int  # steps of all turns

    def count(self, what: str, place: int) -> Callable[[int], None]:
        """Return a function that shows how far the group's turn at `place` has come."""
        before = (self.first + place) * EPISODE_STEPS
        return lambda step: self.progress(what, before + step, self.total)


class _Options(NamedTuple):
    """What a group is measured with."""

    num_episodes: int
    num_steps: int
    device: "torch.device"


def add_predict_command(commands: Subcommands) -> None:
    """Add `predict`."""
    predict = commands.add_parser(
        "predict", help="measure how well a sweep's world models predict rewards"
    )
    predict.add_argument("sweep", metavar="SWEEP")
    predict.add_argument("--tasks", type=names, metavar="A,B", help="only these tasks")
    predict.add_argument(
        "--episodes", type=int, default=5, metavar="N",
        help="of each agent's own final episodes, the first N; default: 5",
    )  # fmt: skip
    predict.add_argument(
        "--steps", type=int, metavar="H",
        help="how far ahead, in environment steps; default: the policies' horizon",
    )  # fmt: skip
    predict.add_argument("--device", metavar="D", help="cpu or cuda; default: cuda if available")
    add_results_option(predict)
    predict.set_defaults(run=_predict)


def _predict(chosen: argparse.Namespace) -> None:
    if chosen.episodes < 1:
        raise ValueError(f"--episodes is {chosen.episodes}; it must be 1 or more")
    if chosen.steps is not None and not 1 <= chosen.steps <= EPISODE_STEPS:
        raise ValueError(f"--steps is {chosen.steps}; valid: 1 to {EPISODE_STEPS}")
    folder = find_sweep(chosen.results, chosen.sweep)
    groups = _choose(_list_groups(folder), chosen.tasks, folder)
    quieten_dm_control()
    from pwmray.devices import choose_device

    device, are_measured = choose_device(chosen.device), []
    check_writable(folder / PREDICTIONS_FOLDER)  # now, for what follows takes minutes
    (folder / PREDICTIONS_FOLDER).mkdir(exist_ok=True)
    total, first = 2 * EPISODE_STEPS * sum(len(group.trials) for group in groups), 0
    with show_progress("predict") as progress:
        for group in groups:
            num_episodes = min(chosen.episodes, group.num_episodes)  # the same of each agent
            num_steps = chosen.steps or min(group.horizon, EPISODE_STEPS)
            options = _Options(num_episodes, num_steps, device)
            turns = _Turns(progress, first, total)
            are_measured.append(_measure(folder, group, options, turns))
            first += 2 * len(group.trials)
    if not any(are_measured):
        raise ValueError(f"no agent of {folder} could be loaded")
    which = shlex.join([chosen.sweep, *give_results(chosen.results)])
    print(f"shown by `{as_typed(f'python analysis/summarize.py {which}')}`")


def _list_groups(folder: Path) -> list[_Group]:
    from pwmray.config import TrialConfig

    found: dict[str, dict[str, TrialConfig]] = {}  # by task and trial
    num_without = 0
    for name in read_sweep(folder)["trials"]:
        trial = registry.trial_folder(folder.parent, name)
        try:
            record = registry.read(trial)
            if record.status is not Status.EVALUATED:
                continue
            if not (trial / CHECKPOINT_FILE).exists():
                num_without += 1
                continue
            config = TrialConfig.from_dict(record.last("config"))
            found.setdefault(config.task, {})[name] = config
        except (ValueError, OSError) as error:  # it may be of another version
            say(f"left out: {trial}: {one_line(error)}")
    if not found:
        raise ValueError(f"no trial of {folder} is evaluated and has its checkpoint")
    if num_without:
        say(f"left out, because their checkpoints are gone: {number_of(num_without, 'trial')}")
    return [
        _Group(
            task,
            list(configs),
            min(config.evaluation.final_episodes for config in configs.values()),
            max(config.learner.horizon for config in configs.values()),
        )
        for task, configs in found.items()
    ]


def _choose(groups: Sequence[_Group], tasks: Sequence[str] | None, folder: Path) -> list[_Group]:
    known = [group.task for group in groups]
    for task in tasks or ():
        if task not in known:
            raise ValueError(f"{unknown('task', task, known)} of evaluated trials in {folder}")
    return [group for group in groups if tasks is None or group.task in tasks]


def _measure(folder: Path, group: _Group, options: _Options, turns: _Turns) -> bool:
    """Write the table of one task; return whether any of its agents could be loaded."""
    from pwmray import predictions

    started = datetime.datetime.now(datetime.UTC)
    recorded = _record(folder, group, options, turns)
    if not recorded:
        return False
    windows = predictions.join(list(recorded.values()))
    known = {"windows": len(windows.obs_BO), "agents": len(recorded), "measured_at": started}
    acted = group._replace(trials=list(recorded))
    rows = [known | row for row in _predict_all(folder, acted, options, windows, turns)]
    write_rows(folder / PREDICTIONS_FOLDER / f"{group.task}.arrow", rows, PREDICTIONS)
    num_models = len({row["world_model"] for row in rows})
    say(
        f"{group.task}: {number_of(num_models, 'world model')} of "
        f"{number_of(len(recorded), 'trial')}, on {number_of(len(windows.obs_BO), 'window')} of "
        f"{number_of(options.num_steps, 'step')}"
    )
    return True


def _record(folder: Path, group: _Group, options: _Options, turns: _Turns) -> dict[str, "Windows"]:
    """Let every agent act; return their windows by trial."""
    from pwmray.predictions import record_windows

    recorded = {}
    for place, name in enumerate(group.trials):
        agent = _load(folder, name, options)
        if agent is not None:
            seeds = agent.config.evaluation.final_seeds[: options.num_episodes]
            hear = turns.count(f"{group.task}, acting", place)
            recorded[name] = record_windows(agent, seeds, options.num_steps, hear)
    return recorded


def _predict_all(
    folder: Path, group: _Group, options: _Options, windows: "Windows", turns: _Turns
) -> Iterator[dict[str, Any]]:
    """Yield the rows of every trial whose agent can be loaded."""
    from pwmray import predictions
    from pwmray.devices import set_up_torch
    from pwmray.system import num_cores

    set_up_torch(options.device, num_cores())  # the same products for all models
    spreads = predictions.measure_spreads(windows)
    errors: dict[str, list[float]] = {}  # by world model: many trials may share a frozen one
    for place, name in enumerate(group.trials, len(group.trials)):
        turns.count(f"{group.task}, predicting", place)(0)
        agent = _load(folder, name, options)
        if agent is None:  # deleted since it acted
            continue
        model = predictions.digest(agent.learner.world_model)
        if model not in errors:
            errors[model] = predictions.measure_errors(agent.learner, windows)
        for step, (error, spread) in enumerate(zip(errors[model], spreads, strict=True), 1):
            found = {"step": step, "error": error, "reward_sd": spread}
            yield {"trial": name, "world_model": model, **found}


def _load(folder: Path, name: str, options: _Options) -> "Agent | None":
    """Return a trial's agent; say why a file cannot be read, and return None."""
    from pwmray.agent import load_agent

    try:
        return load_agent(registry.trial_folder(folder.parent, name), options.device)
    except (ValueError, OSError) as error:
        say(f"left out: {one_line(error)}")
        return None
