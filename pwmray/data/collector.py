"""The settings of the agent that collects data in rounds (pwmray.rounds), as plain data.

They belong to the recipe's fingerprint and not to any trial, so that all trials of a sweep train on
the same data. It is the agent that learns most in a minute of one core: small networks, many short
model steps, high learning rates without decay.
"""

COLLECTOR = {
    "version": 1,  # to be raised when the same settings give another agent
    "variant": "baseline",
    "size": "laptop",
    "world_model.standardize": True,
    "world_model.wrap_angles": True,
    "learner.horizon": 5,
    "learner.wm_horizon": 2,
    "learner.policy_batch_size": 128,
    "learner.wm_batch_size": 64,
    "learner.wm_iterations": 8,
    "learner.critic_iterations": 1,
    "learner.model_lr": 2e-3,
    "learner.actor_lr": 2e-3,
    "learner.critic_lr": 1e-3,
    "learner.discount": 0.98,
    "learner.reward_weight": 0.2,
    "learner.action_penalty": 0.03,  # without it, the policy saturates on some tasks
}
