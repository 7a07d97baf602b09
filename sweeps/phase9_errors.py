"""Phase 9, error by error: which of the published learner's errors costs what?

Question  What does each error cost alone, in a learner that is otherwise corrected?
Varies    error (none, all, and each switch of pwmray/fidelity.py turned back alone), task, seed
Holds     full flow, to which every switch applies; joint from scratch; 15,000 epochs
Compares  each error with none, by task
"""

from pwmray.sweep import Sweep
from search_spaces import DEV3, ERRORS, FULL_FLOW, SCALES, TRAIN_SEEDS

sweep = Sweep(
    name="phase9_errors",
    vary={"error": ERRORS, "task": DEV3, "seed": TRAIN_SEEDS},
    hold={
        "variant": FULL_FLOW,
        "epochs": 15_000,
        "world_model_from": "scratch",
        "finetune_wm": True,
    },
    compare="error",
    within=["task"],
    scales=SCALES,
    at_scale={"laptop": {"epochs": 250, "task": ["pendulum-spin", "cartpole-swingup"]}},
)

if __name__ == "__main__":
    sweep.main()
