"""Building a trial's modules from its config."""

import pytest
import torch

from pwmray.build import build_parts
from pwmray.config import TrialConfig
from search_spaces import SCALES


def build(variant, seed=1):
    small = {**SCALES["laptop"]["set"], "task": "pendulum-spin", "epochs": 1}
    return build_parts(TrialConfig.from_flat({**small, "variant": variant, "seed": seed}))


def weights(module):
    return torch.nn.utils.parameters_to_vector(module.parameters())


@pytest.mark.parametrize(
    ("part", "one", "other"),
    [
        ("policy", "baseline", "flowwm"),
        ("policy", "flowpolicy", "fullflow"),
        ("world_model", "baseline", "flowpolicy"),
        ("world_model", "flowwm", "fullflow"),
        *(("critic", "baseline", variant) for variant in ("flowpolicy", "flowwm", "fullflow")),
    ],
)
def test_trials_of_one_seed_start_alike_in_each_part_that_they_share(part, one, other):
    ours, theirs = (weights(getattr(build(variant), part)) for variant in (one, other))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert not torch.equal(ours, weights(getattr(build(one, seed=2), part)))


def test_kinds_of_world_model_start_alike_in_the_encoder_and_the_reward_head():
    mlp, flow = (build(variant).world_model.state_dict() for variant in ("baseline", "flowwm"))
    shared = [name for name in mlp if name.startswith(("encoder.", "reward_head."))]
    assert len(shared) > 10
    for name in shared:
        torch.testing.assert_close(mlp[name], flow[name], rtol=0, atol=0)
