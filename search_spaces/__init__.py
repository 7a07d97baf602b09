"""What sweeps may vary, as plain data: tasks, seeds, variants, epochs, flow settings, scales."""

from search_spaces.epochs import EPOCHS
from search_spaces.errors import ERRORS
from search_spaces.flow import FLOW_TUNINGS
from search_spaces.hyperparameters import FLOW_SPACE
from search_spaces.scales import SCALES
from search_spaces.seeds import SEARCH_SEED, TRAIN_SEEDS
from search_spaces.tasks import DEV3, MT30, PRETRAINING_TASKS
from search_spaces.variants import BASELINE, FACTORIAL, FLOW_POLICY, FLOW_WM, FULL_FLOW, NAMED

__all__ = [
    "BASELINE",
    "DEV3",
    "EPOCHS",
    "ERRORS",
    "FACTORIAL",
    "FLOW_POLICY",
    "FLOW_SPACE",
    "FLOW_TUNINGS",
    "FLOW_WM",
    "FULL_FLOW",
    "MT30",
    "NAMED",
    "PRETRAINING_TASKS",
    "SCALES",
    "SEARCH_SEED",
    "TRAIN_SEEDS",
]
