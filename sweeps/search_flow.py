"""Search: which hyperparameters does the full flow want?

Question  How well can the full flow do from scratch, with settings chosen for it?
Varies    world_model.integrator, world_model.num_substeps, policy.integrator,
          policy.num_substeps, learner.matching_weight, learner.consistency_weight,
          learner.model_lr, learner.actor_lr
Holds     full flow, world model learned jointly with the policy, from scratch; one training seed
Compares  the trials' final returns, one study per task; confirm the best by a sweep on other seeds
"""

from pwmray.search import Search
from search_spaces import DEV3, FLOW_SPACE, FULL_FLOW, SCALES, SEARCH_SEED

search = Search(
    name="search_flow",
    space=FLOW_SPACE,
    tasks=DEV3,
    num_trials=60,
    hold={"variant": FULL_FLOW, "epochs": 15_000, "seed": SEARCH_SEED},
    scales=SCALES,
    at_scale={
        "laptop": {
            "epochs": 225,
            "tasks": ["pendulum-spin", "cartpole-swingup"],
            "num_trials": 12,
        }
    },
)

if __name__ == "__main__":
    search.main()
