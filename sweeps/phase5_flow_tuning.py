"""Phase 5: do finer or coarser flow steps change what the full flow learns?

Question  Are more substeps in the world model or the policy worth their time, or is Euler enough?
Varies    tuning (substeps and integrator of both flows), task, seed
Holds     full flow, world model learned jointly with the policy, from scratch; 15,000 epochs
Compares  the tunings' final returns, by task
"""

from pwmray.sweep import Sweep
from search_spaces import FLOW_TUNINGS, FULL_FLOW, SCALES, TRAIN_SEEDS

sweep = Sweep(
    name="phase5_flow_tuning",
    vary={
        "tuning": FLOW_TUNINGS,
        "task": ["walker-stand", "cheetah-run"],
        "seed": TRAIN_SEEDS,
    },
    hold={
        "variant": FULL_FLOW,
        "epochs": 15_000,
        "world_model_from": "scratch",
        "finetune_wm": True,
    },
    compare="tuning",
    within=["task"],
    scales=SCALES,
    at_scale={"laptop": {"epochs": 250}},
)

if __name__ == "__main__":
    sweep.main()
