"""`pwmray data collect`: data from fixed behaviours, from a trained policy, in rounds."""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pwmray.commands import Subcommands, show_progress
from pwmray.data.behaviours import BEHAVIOURS, POLICY_NOISES
from pwmray.data.collect import Episodes
from pwmray.data.collect import collect as collect_round
from pwmray.data.recipe import CollectionRecipe
from pwmray.system import num_cores, quieten_dm_control
from pwmray.tasks import find_task

if TYPE_CHECKING:  # torch takes seconds to load, and most commands need none
    from pwmray.agent import Agent

_DEFAULTS = CollectionRecipe()


def add_collect_command(
    commands: Subcommands, add_data_dir: Callable[[argparse.ArgumentParser], None]
) -> None:
    """Add `collect`; `add_data_dir` adds the option that all data commands have."""
    collect = commands.add_parser("collect", help="collect a small offline dataset for each task")
    collect.add_argument(
        "tasks", nargs="+", metavar="TASK", help="a task's name; `pwmray tasks` lists them"
    )
    _add_number(collect, "--episodes", _DEFAULTS.num_episodes, "episodes, of 500 steps each")
    _add_number(collect, "--seed", _DEFAULTS.seed, "seed of the collection")
    collect.add_argument(
        "--behaviours",
        type=_behaviours,
        metavar="A,B",
        help="who acts, taking turns episode by episode in the order given: "
        f"{', '.join([*BEHAVIOURS, *POLICY_NOISES])}; default: all, the last two only with "
        "--from",
    )
    collect.add_argument(
        "--from",
        dest="checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="the trial whose policy acts: its checkpoint.pt or its folder",
    )
    rounds = "rounds of training a small agent on the data so far and collecting with it"
    _add_number(collect, "--rounds", _DEFAULTS.num_rounds, rounds)
    _add_number(collect, "--episodes-per-round", _DEFAULTS.episodes_per_round, "added in each")
    _add_number(collect, "--epochs-per-round", _DEFAULTS.epochs_per_round, "of that agent")
    add_data_dir(collect)
    collect.add_argument("--rebuild", action="store_true", help="replace existing data")
    collect.set_defaults(run=_collect)


def _add_number(parser: argparse.ArgumentParser, option: str, default: int, text: str) -> None:
    parser.add_argument(
        option, type=int, default=default, metavar="N", help=f"{text}; default: %(default)s"
    )


def _behaviours(text: str) -> tuple[str, ...]:
    """Split names at commas; a behaviour given twice collects twice as many episodes."""
    return tuple(name.strip() for name in text.split(","))


def _collect(chosen: argparse.Namespace) -> None:
    quieten_dm_control()
    from pwmray.data.collected import ensure_data
    from pwmray.envs.vector import failures_in_one_line, make_vector

    for task in chosen.tasks:
        find_task(task)
    _recipe(chosen, "of a file not read yet")  # checks the options before a file is read
    agents = [_load_agent(chosen.checkpoint, task) for task in chosen.tasks]
    make = functools.partial(make_vector, num_threads=num_cores())
    for task, agent in zip(chosen.tasks, agents, strict=True):
        recipe = _recipe(chosen, agent.digest if agent else "")
        make_policy = agent.act_for if agent else None
        collect = functools.partial(_choose_collect(recipe), make_policy=make_policy)
        who = f"the actions of {agent.path}" if agent else "the collected actions"
        with show_progress(task) as progress, failures_in_one_line(who):
            path = ensure_data(task, recipe, chosen.data, make, progress, chosen.rebuild, collect)
        print(f"{task}: {path}")


def _choose_collect(recipe: CollectionRecipe) -> Callable[..., Episodes]:
    if not recipe.num_rounds:
        return collect_round
    from pwmray import rounds

    return rounds.collect


def _load_agent(checkpoint: Path | None, task: str) -> "Agent | None":
    if checkpoint is None:
        return None
    import torch

    from pwmray.agent import load_agent

    # These decide how numbers round; a policy's actions are to depend on its file alone.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("highest")
    return load_agent(checkpoint, torch.device("cpu"), task)


def _recipe(chosen: argparse.Namespace, digest: str) -> CollectionRecipe:
    every = (*BEHAVIOURS, *POLICY_NOISES) if chosen.checkpoint else tuple(BEHAVIOURS)
    return CollectionRecipe(
        num_episodes=chosen.episodes,
        seed=chosen.seed,
        behaviours=chosen.behaviours or every,
        policy=digest if chosen.checkpoint else "",
        num_rounds=chosen.rounds,
        episodes_per_round=chosen.episodes_per_round,
        epochs_per_round=chosen.epochs_per_round,
    )
