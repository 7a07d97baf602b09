"""A trained agent from a trial's checkpoint: what acts, and for which task."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pwmray import checkpoint_file
from pwmray.algorithm import checkpoint
from pwmray.algorithm.compiling import compile_networks
from pwmray.algorithm.evaluate import (
    COLLECTION_GROUP,
    Actor,
    Episodes,
    GroupedAct,
    LockstepEnvironments,
    evaluate,
    policy_actor,
)
from pwmray.algorithm.pwm import Learner
from pwmray.build import build_learner, build_planner
from pwmray.config import TrialConfig
from pwmray.devices import set_up_torch
from pwmray.models import checkpoints
from pwmray.precision import FLOAT32
from pwmray.registry import CHECKPOINT_FILE
from pwmray.tasks import find_task


class Agent(NamedTuple):
    """A learner as a checkpoint left it, for the task that it is to act in."""

    path: Path
    digest: str  # SHA-256 of the checkpoint's content
    config: TrialConfig  # the trial's, with the task to act in
    learner: Learner
    trained_on: str  # the trial's task
    epochs_reached: int

    @property
    def policy(self) -> Actor:
        """The deterministic policy."""
        return policy_actor(self.learner.act)

    @property
    def planner(self) -> Actor:
        """The planner of the trial's own evaluation."""
        return build_planner(self.config, self.learner)

    def act_for(self, num_episodes: int) -> GroupedAct:
        """Return the deterministic policy as it collects so many episodes in lockstep."""
        actor = policy_actor(self.learner.act, COLLECTION_GROUP)
        return GroupedAct(actor, num_episodes, self.learner.mask_A.device)


def load_agent(path: Path, device: torch.device, task: str = "") -> Agent:
    """Load the agent of a trial's checkpoint, or of the trial's folder, for `task`.

    Without a task it is the trial's; another one must be known to the world model. Raises
    ValueError naming a file that is no trial's checkpoint or damaged, and a task not known to it.
    """
    path = path / CHECKPOINT_FILE if path.is_dir() else path
    _check_is_trial(path)
    saved = checkpoint.read(path, torch.device("cpu"))  # once: the trial may be running
    trained = _read_config(path, saved.metadata["config"])
    config = dataclasses.replace(trained, task=task or trained.task)
    _check_task(path, config.task, saved.metadata["tasks"])
    learner = build_learner(config)
    progress = checkpoint.restore(saved, learner, {})
    learner.to(device)
    if config.runtime.compile:  # as in the trial: it decides how numbers round
        compile_networks(learner, [])
    return Agent(
        path=path,
        digest=saved.digest,
        config=config,
        learner=learner,
        trained_on=trained.task,
        epochs_reached=progress["epochs_reached"],
    )


def run(
    agent: Agent,
    seeds: Sequence[int],
    actor: Actor,
    environments: LockstepEnvironments,
    on_step: Callable[[int], None],
) -> Episodes:
    """Run an actor of the agent for one episode of each seed, with products as in its trial.

    Raises ValueError if a simulation diverges.
    """
    from pwmray.envs.vector import failures_in_one_line  # gymnasium: a GPU machine may lack it

    action_dim = find_task(agent.config.task).action_dim
    device = agent.learner.mask_A.device
    # As in the trial, because it decides how numbers round; an agent from a GPU may act on a CPU.
    matmul = agent.config.learner.matmul if device.type == "cuda" else FLOAT32
    set_up_torch(device, agent.config.runtime.num_cpus, matmul)
    with failures_in_one_line(f"the actions of {agent.path}"):
        return evaluate(actor, environments, seeds, action_dim, device, on_step=on_step)


def _check_is_trial(path: Path) -> None:
    header = checkpoint_file.read_header(path)
    if checkpoint_file.is_of(header, checkpoint.FORMAT):
        return
    if checkpoint_file.is_of(header, checkpoints.FORMAT):
        raise ValueError(f"{path} holds only a world model, and no policy to act")
    raise ValueError(
        f"{path} is not a checkpoint of a trial; published agents cannot be run, but `pwmray "
        "checkpoint import` converts their world models"
    )


def _read_config(path: Path, config: dict[str, Any]) -> TrialConfig:
    try:
        return TrialConfig.from_dict(config)
    except ValueError as error:
        raise ValueError(f"{path} has a config that this pwmray cannot read: {error}") from error


def _check_task(path: Path, task: str, known: list[str]) -> None:
    find_task(task)
    if task not in known:
        raise ValueError(f"{path} cannot act in {task!r}: it was trained on {', '.join(known)}")
