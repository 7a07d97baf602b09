"""Phase 4: does the full flow learn at all, jointly and from scratch?

Question  Does a flow world model with a flow policy rise above each task's floor in 10,000 epochs?
Varies    variant (the full flow alone), task, seed
Holds     world model learned jointly with the policy, from scratch; 10,000 epochs
Compares  the full flow's final return with the floor, by task; against the baseline in phase 6
"""

from pwmray.sweep import Sweep
from search_spaces import DEV3, FULL_FLOW, SCALES, TRAIN_SEEDS

sweep = Sweep(
    name="phase4_full_flow",
    vary={"variant": [FULL_FLOW], "task": DEV3, "seed": TRAIN_SEEDS},
    hold={"epochs": 10_000, "world_model_from": "scratch", "finetune_wm": True},
    compare="variant",
    within=["task"],
    scales=SCALES,
    at_scale={"laptop": {"epochs": 160}},
)

if __name__ == "__main__":
    sweep.main()
