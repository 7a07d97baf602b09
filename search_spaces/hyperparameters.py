"""The space of a search, as plain data: lists of choices, or ranges with both ends included."""

INTEGRATORS = ["euler", "midpoint", "heun", "rk4"]

FLOW_SPACE = {
    "world_model.integrator": INTEGRATORS,
    "world_model.num_substeps": [1, 2, 4, 8],
    "policy.integrator": INTEGRATORS,
    "policy.num_substeps": [1, 2, 4],
    "learner.matching_weight": {"low": 1.0, "high": 100.0, "log": True},
    "learner.consistency_weight": {"low": 1.0, "high": 100.0, "log": True},
    "learner.model_lr": {"low": 1e-4, "high": 3e-3, "log": True},
    "learner.actor_lr": {"low": 1e-4, "high": 3e-3, "log": True},
}
