"""Collection in rounds: does data that an agent collects itself teach more than as much other data?

Question  Is it the rounds of training and collecting that help, or the number of episodes?
Varies    collection (fixed behaviours; as many episodes of them as with rounds; rounds), data.seed,
          task, seed
Holds     variant, epochs; the data is collected at every scale
Compares  the three collections, by task
"""

from pwmray.sweep import Sweep
from search_spaces import BASELINE, DEV3, SCALES, TRAIN_SEEDS

sweep = Sweep(
    name="collection_rounds",
    vary={
        "collection": [
            {"data.num_episodes": 120, "data.num_rounds": 0},
            {"data.num_episodes": 260, "data.num_rounds": 0},
            {"data.num_episodes": 120, "data.num_rounds": 14},
        ],
        "data.seed": [0, 1, 2],
        "task": DEV3,
        "seed": TRAIN_SEEDS,
    },
    hold={"variant": BASELINE, "epochs": 15_000, "data.source": "collected"},
    compare="collection",
    within=["task"],
    scales=SCALES,
    at_scale={
        "laptop": {
            "epochs": 300,
            "task": ["cartpole-swingup", "reacher-easy", "walker-stand", "cheetah-run"],
            "seed": TRAIN_SEEDS[:2],
        }
    },
)

if __name__ == "__main__":
    sweep.main()
