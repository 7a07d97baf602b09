"""`pwmray evaluate`: run episodes of a trained agent, and film the first one."""

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pwmray import system
from pwmray.checks import MAX_EPISODE_SEED
from pwmray.commands import Progress, Subcommands, show_progress
from pwmray.tasks import EPISODE_STEPS, find_task

# Simulations at once, of half a megabyte each; a multiple of every actor's group size.
_SIDE_BY_SIDE = 200

if TYPE_CHECKING:  # torch takes seconds to load, and most commands need none
    import numpy as np

    from pwmray.agent import Agent
    from pwmray.algorithm.evaluate import Actor, Episodes


def add_evaluate_command(commands: Subcommands) -> None:
    """Add `evaluate`."""
    evaluate = commands.add_parser("evaluate", help="evaluate a trained agent")
    evaluate.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a trial's checkpoint.pt or its folder"
    )
    evaluate.add_argument("--task", default="", metavar="T", help="default: the trial's")
    evaluate.add_argument(
        "--episodes", type=int, metavar="N", help="default: as many as the trial's own evaluation"
    )
    evaluate.add_argument(
        "--first-seed",
        type=int,
        metavar="S",
        help="episode i starts from environment seed S + i; default: as in the trial's own "
        "evaluation",
    )
    evaluate.add_argument(
        "--plan", action="store_true",
        help="also evaluate the planner; default: on the episodes that the trial planned, else all",
    )  # fmt: skip
    evaluate.add_argument(
        "--video", type=Path, metavar="FILE.mp4", help="film the policy's first episode"
    )
    evaluate.add_argument("--force", action="store_true", help="replace an existing video")
    evaluate.add_argument("--device", metavar="D", help="cpu or cuda; default: cuda if available")
    evaluate.set_defaults(run=_evaluate)


def _evaluate(chosen: argparse.Namespace) -> None:
    system.quieten_dm_control(system.RENDERER if chosen.video else "disable")
    logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # it warns beside each error
    from pwmray.agent import load_agent, run
    from pwmray.devices import choose_device

    if chosen.video:
        from pwmray import video

        video.check_place(chosen.video, chosen.force)
    agent = load_agent(chosen.checkpoint, choose_device(chosen.device), chosen.task)
    seeds = _seeds(agent, chosen)
    environment = None
    if chosen.video:
        environment = video.open_environment(agent.config.task)
        video.check_ffmpeg(chosen.video, environment)
    print(_describe(agent, seeds))
    returns = run_episodes(agent, seeds, agent.policy).returns
    print(_summary("return", returns))
    if chosen.plan:
        planned = _plan_seeds(agent, seeds, chosen)
        if len(planned) < len(seeds):
            said = f"the first {len(planned)} of these episodes"
            print(_summary("return there", returns[: len(planned)], said))
        plan_returns = run_episodes(agent, planned, agent.planner, "planner").returns
        print(_summary("plan return", plan_returns))
    if environment is not None:
        with (
            video.recording(chosen.video, environment) as recorder,
            show_progress("evaluate") as progress,
        ):
            run(agent, seeds[:1], agent.policy, recorder, _count_steps(progress, "video", 1, 1))
        print(f"video        {chosen.video}, the episode of seed {seeds[0]}")


def run_episodes(
    agent: "Agent", seeds: Sequence[int], actor: "Actor", what: str = "policy"
) -> "Episodes":
    """Run an actor for one episode of each seed, many in lockstep.

    On the same kind of device the returns are those of the trial's own evaluation. Raises
    ValueError if a simulation diverges.
    """
    from pwmray.agent import run
    from pwmray.envs.vector import make_vector

    num_cores, parts = system.num_cores(), []
    with show_progress("evaluate") as progress:
        for first in range(0, len(seeds), _SIDE_BY_SIDE):
            here = seeds[first : first + _SIDE_BY_SIDE]
            on_step = _count_steps(progress, what, len(here), len(seeds), first)
            environments = make_vector(agent.config.task, len(here), num_cores)
            try:
                parts.append(run(agent, here, _skip(actor, first), environments, on_step))
            finally:
                environments.close()
    return _join(parts)


def _count_steps(
    progress: Progress, what: str, num_here: int, num_all: int, num_before: int = 0
) -> Callable[[int], None]:
    """Return a function that shows the progress of `num_here` episodes among `num_all`."""

    def on_step(step: int) -> None:
        progress(what, num_before * EPISODE_STEPS + step * num_here, num_all * EPISODE_STEPS)

    return on_step


def _skip(actor: "Actor", num_episodes: int) -> "Actor":
    """Return the actor for the episodes after the first `num_episodes`: its groups count on."""
    num_groups, rest = divmod(num_episodes, actor.group_size)
    assert not rest, "an actor's groups are whole"
    return actor._replace(make=lambda group: actor.make(num_groups + group))


def _join(parts: Sequence["Episodes"]) -> "Episodes":
    import numpy as np
    import torch

    returns, lengths, first_obs, discounted = zip(*parts, strict=True)
    return parts[0]._replace(
        returns=np.concatenate(returns),
        lengths=np.concatenate(lengths),
        first_obs=torch.cat(first_obs),
        discounted=np.concatenate(discounted),
    )


def _seeds(agent: "Agent", chosen: argparse.Namespace) -> range:
    evaluation = agent.config.evaluation
    num = evaluation.final_episodes if chosen.episodes is None else chosen.episodes
    first = evaluation.first_seed if chosen.first_seed is None else chosen.first_seed
    if num < 1:
        raise ValueError(f"--episodes is {num}; it must be 1 or more")
    if num > MAX_EPISODE_SEED + 1:
        raise ValueError(f"--episodes is {num}; there are seeds for at most {MAX_EPISODE_SEED + 1}")
    if not 0 <= first <= MAX_EPISODE_SEED - num + 1:
        raise ValueError(f"--first-seed is {first}; valid: 0 to {MAX_EPISODE_SEED - num + 1}")
    return range(first, first + num)


def _plan_seeds(agent: "Agent", seeds: range, chosen: argparse.Namespace) -> range:
    """Return the seeds of the planner's episodes: the trial's own unless others are chosen."""
    is_own = chosen.episodes is None and chosen.first_seed is None
    return (is_own and agent.config.evaluation.plan_seeds) or seeds


def _describe(agent: "Agent", seeds: range) -> str:
    config, task = agent.config, find_task(agent.config.task)
    elsewhere = "" if task.name == agent.trained_on else f", trained on {agent.trained_on}"
    return "\n".join(
        [
            f"checkpoint   {agent.path}, epoch {agent.epochs_reached} of {config.epochs}",
            f"agent        {config.variant}, seed {config.seed}, {config.methodology}, "
            f"{config.fidelity.name}",
            f"task         {task.name}{elsewhere}",
            f"episodes     {len(seeds)}, environment seeds {seeds[0]} to {seeds[-1]}",
            f"floor        {task.floor:.1f} (doing nothing {task.zero_return:.1f}, at random "
            f"{task.random_return:.1f})",
        ]
    )


def _summary(name: str, returns: "np.ndarray", of: str = "") -> str:
    sd = f"{returns.std(ddof=1):.2f}" if len(returns) > 1 else "unknown"
    return (
        f"{name:<12} {returns.mean():.2f}, sd {sd}, min {returns.min():.2f}, "
        f"max {returns.max():.2f}{of and f', {of}'}"
    )
