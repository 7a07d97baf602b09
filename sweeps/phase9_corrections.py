"""Phase 9: what do the published learner's errors decide?

Question  Does the corrected learner do what the published one could not: fine-tune a world model
          without losing the return, and learn from scratch?
Varies    fidelity, methodology (where the world model comes from and whether it is trained),
          variant, task, seed
Holds     epochs, everything else
Compares  the corrected learner with the published one, by task, methodology and variant
"""

from pwmray.sweep import PRETRAINED, Sweep
from search_spaces import BASELINE, DEV3, FLOW_POLICY, FLOW_WM, FULL_FLOW, SCALES, TRAIN_SEEDS

sweep = Sweep(
    name="phase9_corrections",
    vary={
        "variant": [BASELINE, FLOW_POLICY, FLOW_WM, FULL_FLOW],
        "methodology": [
            {"world_model_from": PRETRAINED, "finetune_wm": False},
            {"world_model_from": PRETRAINED, "finetune_wm": True},
            {"world_model_from": "scratch", "finetune_wm": True},
        ],
        "fidelity": ["published", "corrected"],
        "task": DEV3,
        "seed": TRAIN_SEEDS,
    },
    hold={"epochs": 15_000},
    compare="fidelity",
    within=["variant", "methodology", "task"],
    scales=SCALES,
    at_scale={
        "laptop": {
            "epochs": 250,
            "task": ["pendulum-spin", "cartpole-swingup", "reacher-easy"],
            "seed": TRAIN_SEEDS[:2],
        }
    },
    pretraining="phase9_pretrain",
)

if __name__ == "__main__":
    sweep.main()
