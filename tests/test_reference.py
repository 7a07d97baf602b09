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


def check_updates(learner, num_epochs):
    """Compare a learner with the plain one after so many updates; return that one's learner."""
    plain = copy.deepcopy(learner)
    reference = Reference(plain)
    ours, theirs = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    sample, same = windows(5), windows(5)
    for epoch in range(num_epochs):
        learner.update(sample, ours, epoch / num_epochs)
        reference.update(same, theirs, epoch / num_epochs)

    assert max(errors(learner, plain).values()) < 1e-5, errors(learner, plain)
    assert learner.return_scale.var.item() == pytest.approx(float(reference.var), rel=1e-5)
    assert torch.equal(ours.get_state(), theirs.get_state())
    return plain


@pytest.mark.parametrize("variant", VARIANTS)
def test_update_equals_the_plain_one(variant):
    check_updates(make_learner(variant), EPOCHS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_update_with_a_frozen_world_model_equals_the_plain_one(variant):
    learner = make_learner(variant, world_model_from="nowhere", finetune_wm=False)
    before = copy.deepcopy(learner.world_model.state_dict())
    plain = check_updates(learner, 10)
    torch.testing.assert_close(plain.world_model.state_dict(), before, rtol=0, atol=0)


def test_reference_names_an_integrator_that_it_lacks():
    learner = make_learner("flowwm", **{"world_model[flow].integrator": "euler"})
    with pytest.raises(ValueError, match=r"world_model\.integrator is 'euler'; .* heun alone"):
        Reference(learner)
