"""A real sweep, small enough for tests: seconds a trial on one core."""

import os

from pwmray.sweep import Sweep

SETTINGS = {
    "world_model.latent_dim": 16,
    "world_model.encoder_units": (16,),
    "world_model.units": (16,),
    "world_model.task_dim": 4,
    "world_model[flow].num_substeps": 1,
    "policy.units": (16,),
    "policy[flow].num_substeps": 1,
    "critic.units": (16,),
    "learner.horizon": 3,
    "learner.policy_batch_size": 16,
    "learner.wm_batch_size": 16,
    "learner.wm_iterations": 1,
    "learner.critic_iterations": 1,
    "data.num_episodes": 6,
    "evaluation.every_epochs": 2,
    "evaluation.num_episodes": 2,
    "evaluation.final_episodes": 3,
    "evaluation.plan_episodes": 2,
    "planner.num_iterations": 1,
    "planner.num_samples": 8,
    "planner.num_elites": 4,
    "planner.num_policy_trajectories": 2,
    "runtime.checkpoint_seconds": 0.0,
}

UNPLANNED = {**SETTINGS, "evaluation.plan_episodes": 0}  # planning is half of such a trial

_OF_SCALES = {
    "tiny": {},
    "planned": {"evaluation.plan_episodes": SETTINGS["evaluation.plan_episodes"]},
    "longer": {},
    "finer": {"evaluation.every_epochs": 1},
    "impatient": {"runtime.disk_wait_seconds": 0.0},
    # Checkpoints: at the end, and at the best return.
    "rare": {"evaluation.every_epochs": 1, "runtime.checkpoint_seconds": 3600.0},
    "restless": {"runtime.hang_minutes": 0.5},
    # One after the other; Ray counts as Python does if RAY_USE_MULTIPROCESSING_CPU_COUNT is set.
    "alone": {"runtime.num_cpus": (os.cpu_count() or 1) // 2 + 1},
    "diverging": {"learner.model_lr": 1e30, "learner.model_clip": 1e30},
}
SCALES = {n: {"instead": {}, "set": {**UNPLANNED, **own}} for n, own in _OF_SCALES.items()}
SCALES["longer"]["instead"] = {"epochs": {4: 40, 6: 60}}

sweep = Sweep(
    name="tiny",
    vary={
        "variant": ["baseline", "fullflow"],
        "epochs": [4, 6],
        "task": ["pendulum-spin"],
        "seed": [42, 123],
    },
    compare="epochs",
    within=["variant", "task"],
    scales=SCALES,
)

if __name__ == "__main__":
    sweep.main()
