"""The published learner's errors: none, all, and each alone in an otherwise corrected learner."""

ERRORS = {
    "none": {"fidelity": "corrected"},
    "all": {"fidelity": "published"},
    "reward_cross_entropy": {"fidelity.reward_cross_entropy": False},
    "loss_weights": {"fidelity.loss_weights": False},
    "tangent_velocity": {"fidelity.tangent_velocity": False},
    "constant_flow_start": {"fidelity.constant_flow_start": False},
    "integrated_consistency": {"fidelity.integrated_consistency": False},
    "td_lambda": {"fidelity.td_lambda": False},
    "terminal_discount": {"fidelity.terminal_discount": False},
    "masked_actions": {"fidelity.masked_actions": False},
    "every_episode_once": {"fidelity.every_episode_once": False},
    "trained_task_embedding": {"fidelity.trained_task_embedding": False},
    "exploration_floor": {"fidelity.exploration_floor": False},
    "shuffled_critic_batches": {"fidelity.shuffled_critic_batches": False},
    "world_model_batches": {"fidelity.world_model_batches": False},
}
