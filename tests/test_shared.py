"""What is said beside verdicts whose training seeds share pretrained models or collections."""

import numpy as np
import pytest

from analysis.arms import Arm
from analysis.load import NO_EPISODES, Trial
from analysis.pool import pool_arms
from analysis.shared import describe_shared
from pwmray.variants import SCRATCH

ONE_MODEL = "Pretrained world models: one for {} compared. n counts training seeds on it, not pre"
TWO_MODELS = "Pretrained world models: 2 for {} compared, and {} training seeds. Seeds on one model"


def arm(num_seeds, models=None, data=None, **factors):
    """Return an arm whose seeds take in turn one of the models and one of the collections."""
    trials = [
        Trial(
            record={
                "seed": seed,
                "world_model_from": models[seed % len(models)] if models else SCRATCH,
                "data_fingerprint": data[seed % len(data)] if data else "the same",
            },
            factors=factors,
            returns=np.full(3, 500.0),
            plan_returns=NO_EPISODES,
        )
        for seed in range(num_seeds)
    ]
    return Arm(factors, tuple(trials), frozenset(range(5)))


def pair(num_seeds, num_models):
    """Return arms of two kinds of world model, so many pretrained of each."""
    return [arm(num_seeds, [f"{kind}{i}" for i in range(num_models)]) for kind in ("mlp", "flow")]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([pair(5, 2)], TWO_MODELS.format("each arm", "5")),
        ([pair(5, 2), pair(2, 2)], TWO_MODELS.format("each arm", "up to 5")),
        ([[pair(5, 2)[0], pair(2, 2)[1]]], TWO_MODELS.format("each arm", "up to 5")),
        ([pair(3, 2), pair(5, 2)], TWO_MODELS.format("each arm", "up to 5")),
        ([[pair(5, 5)[0], pair(5, 2)[1]]], TWO_MODELS.format("some of the arms", "5")),
        ([[pair(3, 1)[0], pair(3, 3)[1]]], ONE_MODEL.format("some of the arms")),
        ([[pair(3, 1)[0], arm(3)]], ONE_MODEL.format("some of the arms")),
        ([pair(3, 1), pair(3, 1)], ONE_MODEL.format("each arm")),
    ],
)
def test_shared_models_are_told_whatever_other_arms_have(groups, said):
    (note,) = describe_shared(groups)
    assert note.startswith(said)


def test_a_model_and_a_collection_for_each_seed_are_not_told():
    data = [list("abcde"), list("fghij")]
    arms = [
        arm(5, [kind + name for name in own], own) for kind, own in zip("mf", data, strict=True)
    ]
    assert describe_shared([arms, pair(3, 3)]) == []


def test_arms_on_the_same_data_are_told_nothing_of_it():
    assert describe_shared([[arm(3, data=["one"]), arm(3, data=["one"])]]) == []


def test_data_that_nobody_recorded_counts_for_nothing():
    assert describe_shared([[arm(3, data=[None]), arm(3, data=list("abc"))]]) == []


def test_arms_on_a_collection_each_are_told_that_n_does_not_count_them():
    (note,) = describe_shared([[arm(5, data=["fixed"]), arm(5, data=["rounds"])]])
    assert note == (
        "Collections of data: one for each arm compared. n counts training seeds on it, not "
        "collections: another collection with the same settings may change a verdict."
    )


def test_averaging_over_collections_that_all_seeds_share_makes_no_samples_of_them():
    arms = [
        arm(2, data=[f"{collection}{seed}"], task="reacher-easy", collection=collection, seed=seed)
        for collection in ("fixed", "rounds")
        for seed in range(3)
    ]
    (note,) = describe_shared([pool_arms(arms, ["collection"], ["task"])])
    assert note == (
        "Collections of data: 3 for each arm compared, and 2 training seeds. Seeds on one "
        "collection are not independent: intervals over seeds are too narrow for conclusions about "
        "other collections."
    )
