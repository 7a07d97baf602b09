"""Phase 8: the 2x2 of world model and policy on a matched pair of pretrained world models.

Question  Does the flow pay in the world model, in the policy, in both together, or nowhere?
Varies    variant (the 2x2), methodology (frozen, and fine-tuned as the ablation), task, seed
Holds     world models pretrained alike (phase8_pretrain); 15,000 epochs
Compares  the four variants' final returns, by methodology and task
"""

from pwmray.sweep import PRETRAINED, Sweep
from search_spaces import DEV3, FACTORIAL, PRETRAINING_TASKS, SCALES, TRAIN_SEEDS

sweep = Sweep(
    name="phase8_factorial",
    vary={
        "variant": FACTORIAL,
        "methodology": [
            {"world_model_from": PRETRAINED, "finetune_wm": False},
            {"world_model_from": PRETRAINED, "finetune_wm": True},
        ],
        "task": DEV3,
        "seed": TRAIN_SEEDS,
    },
    hold={"epochs": 15_000},
    compare="variant",
    within=["methodology", "task"],
    scales=SCALES,
    at_scale={"laptop": {"epochs": 250, "task": PRETRAINING_TASKS["laptop"]}},
)

if __name__ == "__main__":
    sweep.main()
