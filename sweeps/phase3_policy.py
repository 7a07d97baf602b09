"""Phase 3: does a flow policy get more out of a frozen world model than a Gaussian one?

Question  Given the same pretrained MLP world model, frozen, which policy earns more?
Varies    variant, task, seed
Holds     pretrained MLP world model, frozen; 15,000 epochs
Compares  the variants' final returns, that is the policies', by task
"""

from pwmray.sweep import PRETRAINED, Sweep
from search_spaces import BASELINE, DEV3, FLOW_POLICY, PRETRAINING_TASKS, SCALES, TRAIN_SEEDS

sweep = Sweep(
    name="phase3_policy",
    vary={"variant": [BASELINE, FLOW_POLICY], "task": DEV3, "seed": TRAIN_SEEDS},
    hold={"epochs": 15_000, "world_model_from": PRETRAINED, "finetune_wm": False},
    compare="variant",
    within=["task"],
    scales=SCALES,
    at_scale={"laptop": {"epochs": 250, "task": PRETRAINING_TASKS["laptop"]}},
)

if __name__ == "__main__":
    sweep.main()
