"""Phase 7: does fine-tuning the world model help, and does a flow policy gain from it?

Question  With a pretrained MLP world model that is trained on, which policy earns more?
Varies    arm (baseline, flow policy with 2 and with 4 substeps), task, seed
Holds     pretrained MLP world model, fine-tuned; 15,000 epochs
Compares  the three final returns, by task
"""

from pwmray.sweep import PRETRAINED, Sweep
from search_spaces import BASELINE, DEV3, FLOW_POLICY, PRETRAINING_TASKS, SCALES, TRAIN_SEEDS

sweep = Sweep(
    name="phase7_finetune",
    vary={
        "arm": {
            "baseline": {"variant": BASELINE},
            "flow_std": {"variant": FLOW_POLICY, "policy[flow].num_substeps": 2},
            "flow_high": {"variant": FLOW_POLICY, "policy[flow].num_substeps": 4},
        },
        "task": DEV3,
        "seed": TRAIN_SEEDS,
    },
    hold={"epochs": 15_000, "world_model_from": PRETRAINED, "finetune_wm": True},
    compare="arm",
    within=["task"],
    scales=SCALES,
    at_scale={"laptop": {"epochs": 250, "task": PRETRAINING_TASKS["laptop"]}},
)

if __name__ == "__main__":
    sweep.main()
