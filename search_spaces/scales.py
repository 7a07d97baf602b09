"""Scales: the same experiment at another size, as plain data.

`instead` maps a paper value of an axis to this scale's; `set` overrides the config's defaults (a
key in brackets holds for that kind of model only); `minutes_per_1000_epochs` seeds the plan's
estimate until finished trials give a measured one.
"""

SCALES = {
    "paper": {
        "instead": {},
        "set": {},
        # From the logs of earlier runs on H100 and H200.
        "minutes_per_1000_epochs": {"baseline": 3.2, "fullflow": 12.5},
    },
    "laptop": {
        "instead": {
            "epochs": {15_000: 30, 50_000: 100, 100_000: 200, 150_000: 300},
            "task": {
                "reacher-easy": "pendulum-spin",
                "walker-stand": "cartpole-swingup",
                "cheetah-run": "cheetah-run-backwards",
            },
        },
        "set": {
            "world_model.latent_dim": 64,
            "world_model.encoder_units": (128,),
            "world_model.units": (128, 128),
            "world_model.task_dim": 16,
            "world_model[flow].num_substeps": 2,
            "policy.units": (128, 64),
            "critic.units": (128, 64),
            "learner.horizon": 8,
            "learner.policy_batch_size": 64,
            "learner.wm_batch_size": 64,
            "learner.wm_iterations": 4,
            "learner.critic_iterations": 1,
            "learner.model_lr": 1e-3,
            "evaluation.every_epochs": 25,
            "evaluation.num_episodes": 5,
            "runtime.checkpoint_seconds": 15.0,
        },
        "minutes_per_1000_epochs": {"baseline": 2.0, "fullflow": 4.0},
    },
}
