"""Phase 6: how many epochs does training from scratch need?

Question  Does the return still rise when the epoch budget grows, and for which variant?
Varies    variant, epochs, task, seed
Holds     world model learned jointly with the policy, from scratch; long budgets on H200
Compares  each variant's final return across epoch budgets, by task
"""

from pwmray.sweep import Sweep
from search_spaces import BASELINE, DEV3, EPOCHS, FULL_FLOW, SCALES, TRAIN_SEEDS

sweep = Sweep(
    name="phase6_epochs",
    vary={
        "variant": [BASELINE, FULL_FLOW],
        "epochs": EPOCHS,
        "task": DEV3,
        "seed": TRAIN_SEEDS,
    },
    hold={"world_model_from": "scratch", "finetune_wm": True},
    compare="epochs",
    within=["variant", "task"],
    scales=SCALES,
    gpus={"epochs": {15_000: "H100", 50_000: "H100", 100_000: "H200", 150_000: "H200"}},
)

if __name__ == "__main__":
    sweep.main()
