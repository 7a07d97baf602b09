"""Which of the published learner's errors a trial corrects: one named switch each.

The published learner is PWM's code with the fork's flow world model. Each switch says what its
True, the correction, does and what False reproduces. What cannot decide a result has no switch:
non-finite values always stop a trial, checkpoints hold tensors and plain data, every random
stream follows from the trial's one seed, and nobody computes a gradient that nobody uses.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pwmray.checks import take_preset

CORRECTED = "corrected"
PUBLISHED = "published"


@dataclass(frozen=True)
class Fidelity:
    """True is corrected, False as published."""

    # Two-hot cross-entropy on symlog reward. False: every logit is regressed to the raw reward,
    # although the read-out is a softmax over them.
    reward_cross_entropy: bool = True
    # `learner.*_weight` weigh the losses, each a mean over t. False: all weigh 1, and the mean
    # of the reward loss over t is divided by the horizon once more.
    loss_weights: bool = True
    # The flow model's velocity is linear and tangent to the simplex, and the latent is put back
    # onto it. False: the velocity ends in SimNorm, so that it is positive and leaves the simplex.
    tangent_velocity: bool = True
    # Flow matching takes the start of the line as given, and the consistency of the integrated
    # state does so along the state's own line. False: the latents shrink to make both small.
    constant_flow_start: bool = True
    # The flow model is also trained on the integrated state. False: by flow matching alone.
    integrated_consistency: bool = True
    # Critic targets are TD(lambda). False: one step, whatever lambda.
    td_lambda: bool = True
    # The terminal value weighs gamma^H. False: gamma^(H + 1).
    terminal_discount: bool = True
    # Actions that the task lacks are 0 for the model. False: the policy acts in all of them.
    masked_actions: bool = True
    # Every episode is used once. False: episodes are drawn with replacement.
    every_episode_once: bool = True
    # The task embedding is trained. False: it is not, and its gradient, which nobody clears and
    # the policy's step adds to, counts in the norm that is clipped.
    trained_task_embedding: bool = True
    # The flow policy's noise has the Gaussian policy's floor, std 0.24. False: e^-10.
    exploration_floor: bool = True
    # Critic minibatches are shuffled. False: consecutive blocks of time in a fixed order.
    shuffled_critic_batches: bool = True
    # `learner.wm_iterations` steps an epoch on `wm_batch_size` windows as long as `wm_horizon`.
    # False: one step on the policy's own windows.
    world_model_batches: bool = True

    @property
    def name(self) -> str:
        """Return "corrected", "published", or the one of them it is nearer to and what differs."""
        wrong = [field.name for field in dataclasses.fields(self) if not getattr(self, field.name)]
        right = [field.name for field in dataclasses.fields(self) if getattr(self, field.name)]
        if not wrong or not right:
            return PUBLISHED if wrong else CORRECTED
        if len(wrong) <= len(right):
            return f"{CORRECTED} but {', '.join(wrong)}"
        return f"{PUBLISHED} but {', '.join(right)}"


FIDELITIES = {
    CORRECTED: Fidelity(),
    PUBLISHED: Fidelity(**{field.name: False for field in dataclasses.fields(Fidelity)}),
}


def expand(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the key `fidelity`, a preset's name, by one key a switch; switches given win.

    Raises ValueError for a name that is no preset.
    """
    rest, preset = take_preset(flat, "fidelity", FIDELITIES)
    switches = vars(preset) if preset else {}
    return {f"fidelity.{name}": value for name, value in switches.items()} | rest
