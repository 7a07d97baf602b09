"""A real search, small enough for tests: seconds a trial on one core."""

from pwmray.search import Search
from tests.tiny import SCALES

search = Search(
    name="tiny_search",
    space={
        "policy.num_substeps": [1, 2, 3],
        "learner.actor_lr": {"low": 1e-4, "high": 1e-2, "log": True},
    },
    tasks=["pendulum-spin"],
    num_trials=5,
    hold={"variant": "flowpolicy", "epochs": 6, "seed": 1},
    scales={"tiny": SCALES["tiny"]},
)

if __name__ == "__main__":
    search.main()
