"""Scales: the same experiment at another size, as plain data.

* `instead` replaces paper values of an axis by this scale's; None leaves a value out.
* `set` overrides the config's defaults; a key with a kind in brackets is for that kind alone.
* `pretrain` says how this scale's world models are pretrained, and on which tasks.
* `device` is what a plan counts minutes of: a GPU or a core.
* `earlier_runs` and `minutes_per_1000_epochs` (by variant) price trials until some are finished;
  `pretraining_minutes` (by kind of world model) price 1,000 iterations of a pretraining.
"""

from search_spaces.earlier_runs import EARLIER_RUNS
from search_spaces.tasks import PRETRAINING_TASKS

SCALES = {
    "paper": {
        "instead": {},
        "set": {
            "data.source": "mt30",  # 40 collected episodes per task are too few for size 48
            "learner.matmul": "tf32",  # a GPU's float32 products take ten times as long
            # An evaluation's 500 sequential steps take as long as tens of epochs on a GPU.
            "evaluation.every_epochs": 1000,
        },
        "pretrain": {
            "tasks": PRETRAINING_TASKS["paper"],
            "iterations": 200_000,
            "batch_size": 1024,
        },
        "device": "GPU",
        "earlier_runs": EARLIER_RUNS,
        # The earlier MLP model's 200,000 iterations took 16 hours of an H100.
        "pretraining_minutes": {"mlp": 4.8},
    },
    "laptop": {
        "instead": {
            "epochs": {15_000: 30, 50_000: 100, 100_000: 200, 150_000: 300},
            "task": {
                "reacher-easy": "pendulum-spin",
                "walker-stand": "cartpole-swingup",
                "cheetah-run": None,
            },
        },
        "set": {
            "size": "laptop",
            "world_model.standardize": True,
            "world_model.wrap_angles": True,
            "world_model[flow].num_substeps": 1,
            "policy[flow].num_substeps": 1,
            "data.num_episodes": 120,
            "learner.horizon": 5,
            "learner.wm_horizon": 2,  # many short steps teach the model more than few long ones
            "learner.policy_batch_size": 128,
            "learner.wm_batch_size": 64,
            "learner.wm_iterations": 8,
            "learner.critic_iterations": 1,
            "learner.model_lr": 2e-3,
            "learner.actor_lr": 2e-3,
            "learner.critic_lr": 1e-3,
            "learner.final_lr": 3e-4,
            "learner.discount": 0.98,
            "learner.reward_weight": 0.2,
            "learner.action_penalty": 0.03,
            "evaluation.every_epochs": 25,
            "evaluation.num_episodes": 5,
            # Three planned episodes would take 4 core seconds, as long as a small trial's
            # training; with the planner of the paper scale, two minutes.
            "evaluation.plan_episodes": 0,
            "planner.num_iterations": 2,
            "planner.num_samples": 32,
            "planner.num_elites": 8,
            "planner.num_policy_trajectories": 4,
            "runtime.checkpoint_seconds": 15.0,
        },
        "pretrain": {
            "tasks": PRETRAINING_TASKS["laptop"],
            "iterations": 6000,
            "batch_size": 64,
            "check_every": 200,
        },
        "device": "core",
        "pretraining_minutes": {"mlp": 0.07, "flow": 0.09},
        "minutes_per_1000_epochs": {
            "baseline": 1.7,
            "flowpolicy": 1.9,
            "flowwm": 2.1,
            "fullflow": 2.3,
        },
    },
}
