"""How many pretrained world models stand behind a verdict: one that all seeds share is no sample.

The seeds of an arm that start from one checkpoint tell how training on it varies, and nothing of
how another pretraining of the same settings would have come out.
"""

from collections.abc import Iterable, Sequence

from analysis.arms import Arm
from pwmray.variants import SCRATCH

ONE = (
    "Pretrained world models: one for each arm compared. n counts training seeds on it, not "
    "pretrainings: another pretraining of the same settings may turn a verdict."
)


def describe_pretrainings(groups: Iterable[Sequence[Arm]]) -> list[str]:
    """Say what n counts, where the arms of a group are judged on unlike pretrained world models.

    Nothing is said where they share theirs, and where every training seed has one of its own.
    """
    found = [counts for group in groups for counts in [_count(group)] if counts is not None]
    if not found:
        return []
    num_models, num_seeds = min(found)
    if num_models == 1:
        return [ONE]
    if num_models >= num_seeds:
        return []
    return [
        f"Pretrained world models: {num_models} for each arm compared, and {num_seeds} training "
        "seeds. Seeds on one model share it: intervals over seeds are too narrow to speak of other "
        "pretrainings."
    ]


def _count(arms: Sequence[Arm]) -> tuple[int, int] | None:
    """Return the fewest pretrained models of an arm and its seeds; None where none are compared."""
    found = [_find_models(arm) for arm in arms]
    if all(models == found[0] for models in found):
        return None
    counts = [
        (len(models), len(part.counted))
        for arm in arms
        for part in arm.parts or (arm,)
        for models in [_find_models(part)]
        if models
    ]
    return min(counts, default=None)


def _find_models(arm: Arm) -> set[str]:
    """Return the checkpoints that an arm's trials start from."""
    trials = [trial for part in arm.parts or (arm,) for trial in part.counted]
    return {trial.record["world_model_from"] for trial in trials} - {SCRATCH, None}
