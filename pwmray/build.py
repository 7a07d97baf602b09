"""From a config to its modules."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from pwmray.algorithm.evaluate import PLANNER_GROUP, Actor
from pwmray.algorithm.planner import Planner
from pwmray.algorithm.pwm import Learner
from pwmray.config import TrialConfig
from pwmray.models import POLICIES, WORLD_MODELS, CriticEnsemble, Policy, WorldModel
from pwmray.seeding import generator
from pwmray.tasks import find_task

# A random stream for each part's initial weights. Trials of one seed then start alike in each part
# that they have in common, whichever kinds the others are of: seeds are compared in pairs.
_STREAMS = ("initialisation", "initialisation/policy", "initialisation/critic")


class Parts(NamedTuple):
    """The three modules of a trial."""

    world_model: WorldModel
    policy: Policy
    critic: CriticEnsemble


def build_learner(config: TrialConfig) -> Learner:
    """Build a trial's learner on the CPU; its weights follow from the trial's seed."""
    return Learner(
        config.learner, *build_parts(config), find_task(config.task), config.trains_world_model
    )


def build_parts(config: TrialConfig) -> Parts:
    """Build a trial's modules on the CPU; their weights follow from the trial's seed."""
    return _build_parts(config, [generator(config.seed, name) for name in _STREAMS])


def build_planner(config: TrialConfig, learner: Learner) -> Actor:
    """Build the planner; its draws follow from the trial's seed alone.

    Each group of episodes starts a random stream of its own, so an evaluation done again plans the
    same.
    """

    def make(group: int) -> Planner:
        draws = generator(config.seed, f"planning/{group}", learner.mask_A.device)
        return Planner(config.planner, learner, draws)

    return Actor(make, PLANNER_GROUP)


def count_parameters(config: TrialConfig) -> dict[str, int]:
    """Return the number of parameters of each part, from the shapes alone."""
    parts = build_shapes(config)
    return {name: num_parameters(part) for name, part in parts._asdict().items()}


def build_shapes(config: TrialConfig) -> Parts:
    """Build a trial's modules with shapes alone, on the meta device: no memory, no numbers."""
    with torch.device("meta"):
        return _build_parts(config, [torch.Generator()] * len(_STREAMS))


def num_parameters(module: nn.Module) -> int:
    """Return the number of parameters of one module."""
    return sum(parameter.numel() for parameter in module.parameters())


def _build_parts(config: TrialConfig, draws: Sequence[torch.Generator]) -> Parts:
    latent_dim, fidelity = config.world_model.latent_dim, config.fidelity
    for_model, for_policy, for_critic = draws
    return Parts(
        WORLD_MODELS[config.world_model.kind](config.world_model, for_model, fidelity=fidelity),
        POLICIES[config.policy.kind](config.policy, latent_dim, for_policy, fidelity),
        CriticEnsemble(config.critic, latent_dim, for_critic),
    )
