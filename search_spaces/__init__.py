"""What may vary, as plain data: tasks, seeds, variants, epoch budgets and scales."""

from search_spaces.epochs import EPOCHS
from search_spaces.scales import SCALES
from search_spaces.seeds import TRAIN_SEEDS
from search_spaces.tasks import DEV3, MT30
from search_spaces.variants import BASELINE, FLOW_POLICY, FLOW_WM, FULL_FLOW, NAMED

__all__ = [
    "BASELINE",
    "DEV3",
    "EPOCHS",
    "FLOW_POLICY",
    "FLOW_WM",
    "FULL_FLOW",
    "MT30",
    "NAMED",
    "SCALES",
    "TRAIN_SEEDS",
]
