"""The learner's update against the plain one."""

import copy

import pytest
import torch

from pwmray.variants import VARIANTS
from tests.learners import EPOCHS, make_learner, relative_error, windows
from tests.reference import Reference


def errors(learner, plain):
    """Relative errors of the parameters, by name."""
    found, wanted = dict(learner.named_parameters()), dict(plain.named_parameters())
    return {name: relative_error(found[name], wanted[name]) for name in wanted}


@pytest.mark.parametrize("variant", VARIANTS)
def test_update_equals_the_plain_one(variant):
    learner = make_learner(variant)
    plain = copy.deepcopy(learner)
    reference = Reference(plain)
    ours, theirs = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    sample, same = windows(5), windows(5)
    for epoch in range(EPOCHS):
        learner.update(sample, ours, epoch / EPOCHS)
        reference.update(same, theirs, epoch / EPOCHS)

    assert max(errors(learner, plain).values()) < 1e-5, errors(learner, plain)
    assert learner.return_scale.var.item() == pytest.approx(float(reference.var), rel=1e-5)
    assert torch.equal(ours.get_state(), theirs.get_state())


@pytest.mark.parametrize("variant", VARIANTS)
def test_update_with_a_frozen_world_model_equals_the_plain_one(variant):
    learner = make_learner(variant, world_model_from="nowhere", finetune_wm=False)
    plain = copy.deepcopy(learner)
    before = copy.deepcopy(plain.world_model.state_dict())
    reference = Reference(plain)
    ours, theirs = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    sample, same = windows(5), windows(5)
    for epoch in range(10):
        learner.update(sample, ours, epoch / 10)
        reference.update(same, theirs, epoch / 10)

    assert max(errors(learner, plain).values()) < 1e-5, errors(learner, plain)
    torch.testing.assert_close(plain.world_model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_reference_names_an_integrator_that_it_lacks():
    learner = make_learner("flowwm", **{"world_model[flow].integrator": "euler"})
    with pytest.raises(ValueError, match=r"world_model\.integrator is 'euler'; .* heun alone"):
        Reference(learner)
