"""Count the floating-point operations of one update from the shapes of its matrix products.

A product of N rows with a weight [in, out] costs 2 N in out (a multiply and an add each). Going
backward it costs as much again for the weight's gradient, unless the weight is frozen, and as much
again for its input's gradient, unless nothing before it needs one. Norms, activations and the
optimizers' steps are left out, as `torch.utils.flop_counter` does, against which this is tested.
Of a kind of one's own each matrix, of whatever layer, counts in each of its `num_calls`, once a
row: too little where a row meets it at several places, as a convolution's, and what attention
multiplies beside its matrices is left out.
Every call of a flow's network counts in full, although on a CPU what its calls have in common is
multiplied once (`pwmray.kernels.network.conditioned`).
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from pwmray.build import build_shapes
from pwmray.config import TrialConfig
from pwmray.models import CriticEnsemble, Policy, WorldModel


class UpdateFlops(NamedTuple):
    """The operations of one epoch: all its world-model, policy and critic steps."""

    world_model: int
    policy: int
    critic: int

    @property
    def total(self) -> int:
        """Floating-point operations of the whole epoch."""
        return sum(self)


def count_update_flops(config: TrialConfig) -> UpdateFlops:
    """Count one `Learner.update`: forward and backward of its three parts."""
    model, policy, critics = build_shapes(config)
    learner = config.learner
    rows = learner.policy_batch_size * learner.horizon  # states that the critics are fitted to
    return UpdateFlops(
        world_model=_world_model_steps(model, config),
        policy=_policy_step(model, policy, critics, config),
        critic=learner.critic_iterations
        * _trained(_critic_weights(critics), rows, into_input=False),
    )


def count_pretraining_flops(config: TrialConfig, batch_size: int) -> int:
    """Count one iteration of a pretraining on `batch_size` windows: forward and backward."""
    model = build_shapes(config).world_model
    return _world_model_step(model, batch_size, config.learner.wm_horizon)


def _world_model_steps(model: WorldModel, config: TrialConfig) -> int:
    if not config.trains_world_model:
        return 0
    learner = config.learner
    if not config.fidelity.world_model_batches:  # one step on the policy's own windows
        return _world_model_step(model, learner.policy_batch_size, learner.horizon)
    step = _world_model_step(model, learner.wm_batch_size, learner.wm_horizon)
    return learner.wm_iterations * step


def _world_model_step(model: WorldModel, starts: int, horizon: int) -> int:
    rows = starts * horizon
    encoder, dynamics, reward = _world_model_weights(model)
    flops = _trained(encoder, starts)  # z_0; its input holds the trained task embedding
    is_flow = type(model).matching_loss is not WorldModel.matching_loss
    # Without a loss on z_H nothing goes back through the step to it.
    trained = rows - starts if is_flow and not model.fidelity.integrated_consistency else rows
    flops += model.num_calls * _trained(dynamics, trained)
    flops += model.num_calls * _forward(dynamics, rows - trained)
    flops += _forward(encoder, rows)  # the targets
    flops += _trained(reward, rows)
    if is_flow:
        flops += _trained(dynamics, rows)  # the velocity at one random time
    return flops


def _policy_step(
    model: WorldModel, policy: Policy, critics: CriticEnsemble, config: TrialConfig
) -> int:
    learner = config.learner
    starts = learner.policy_batch_size
    rows = starts * learner.horizon
    encoder, dynamics, reward = _world_model_weights(model)
    # The latent comes detached; an input wider than it also holds the noise, which is trained.
    linear = [layer for layer in policy.modules() if isinstance(layer, nn.Linear)]
    takes_noise = bool(linear) and linear[0].in_features > model.latent_dim
    keeps_stale_gradient = config.trains_world_model and not config.fidelity.trained_task_embedding
    flops = (_frozen if keeps_stale_gradient else _forward)(encoder, starts)
    # Once a step to act, and once for all steps with gradients.
    flops += policy.num_calls * _forward(_weights(policy), rows)
    flops += policy.num_calls * _trained(_weights(policy), rows, into_input=takes_noise)
    flops += model.num_calls * _frozen(dynamics, rows)
    flops += _frozen(reward, rows)
    flops += _forward(_critic_weights(critics), rows)  # V(z_1) .. V(z_H) for the targets
    return flops + _frozen(_critic_weights(critics), starts)  # V(z_H) in the objective


def _forward(weights: Sequence[int], rows: int) -> int:
    return 2 * rows * sum(weights)


def _frozen(weights: Sequence[int], rows: int) -> int:
    return 2 * _forward(weights, rows)


def _trained(weights: Sequence[int], rows: int, into_input: bool = True) -> int:
    unneeded = 0 if into_input else _forward(weights[:1], rows)
    return 3 * _forward(weights, rows) - unneeded


def _weights(module: nn.Module, *apart: str) -> list[int]:
    """Return the numbers in each matrix, of linear layers or others, in the order of their making.

    Those of the parts `apart` are left out. A row meets each number once, a convolution's oftener.
    """
    return [
        parameter.numel()
        for name, parameter in module.named_parameters()
        if parameter.ndim > 1 and name.partition(".")[0] not in apart
    ]


def _world_model_weights(model: WorldModel) -> tuple[list[int], list[int], list[int]]:
    """Return the weights of the encoder, of what `next` calls, and of the reward head."""
    dynamics = _weights(model, "encoder", "reward_head", "task_embedding")
    return _weights(model.encoder), dynamics, _weights(model.reward_head)


def _critic_weights(critics: CriticEnsemble) -> list[int]:
    return [weight.numel() for weight in critics.weights]
