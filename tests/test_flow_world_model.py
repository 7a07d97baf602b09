"""What the flow world model has beside the contract: its velocity and its matching loss."""

import copy

import pytest
import torch
from torch.testing import assert_close

from pwmray.algorithm.compiling import compile_networks
from pwmray.models import WORLD_MODELS
from pwmray.models.layers import Linear, groups
from pwmray.models.world_model_flow import FlowWorldModel
from pwmray.precision import BFLOAT16, FLOAT32, autocast
from tests.model_inputs import (
    LATENT_DIM,
    actions,
    cases,
    embedded,
    fresh_world_model,
    has_finite_gradients,
    latents,
    observations,
    trained,
)


@pytest.mark.parametrize(("kind", "settings"), cases({"flow": FlowWorldModel}))
def test_velocity_is_tangent_to_the_simplex(kind, settings):
    model = trained(fresh_world_model(kind, settings))
    v = model.velocity(latents(5), embedded(model), actions(5), torch.rand(5, 1))
    assert v.abs().min() > 0
    assert_close(groups(v).sum(-1), torch.zeros(5, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "settings"), cases({"flow": FlowWorldModel}))
def test_untrained_velocity_leaves_the_latent_where_it_is(kind, settings):
    model = fresh_world_model(kind, settings)
    z = model.encode(observations(5), embedded(model))
    assert_close(model.next(z, embedded(model), actions(5)), z)


def test_matching_loss_is_zero_when_the_velocity_is_the_way_to_the_target():
    model = fresh_world_model("flow", {})
    z, target = latents(6)[:5], latents(6)[1:]
    model.velocity = lambda *_: target - z

    loss = model.matching_loss(z, embedded(model), actions(5), target, torch.rand(5, 1))

    assert torch.equal(loss, torch.zeros(5))


def test_matching_loss_starts_from_the_straight_line_between_the_latents():
    model = fresh_world_model("flow", {})
    z, target, tau = latents(6)[:5], latents(6)[1:], torch.full((5, 1), 0.25)
    seen = []
    model.velocity = lambda *arguments: seen.append(arguments) or torch.zeros(5, LATENT_DIM)

    loss = model.matching_loss(z, embedded(model), actions(5), target, tau)

    assert_close(seen[0][0], 0.75 * z + 0.25 * target)
    assert torch.equal(seen[0][3], tau)
    assert_close(loss, (target - z).square().mean(-1))


def test_matching_loss_trains_the_velocity_between_latents_that_it_takes_as_given():
    model = trained(fresh_world_model("flow", {}))
    z = latents(5).requires_grad_()
    target = latents(6)[1:]

    loss = model.matching_loss(z, embedded(model), actions(5), target, torch.rand(5, 1))
    loss.sum().backward()

    assert has_finite_gradients(model)
    assert z.grad is None
    assert model.velocity_head.weight.grad.abs().max() > 0
    assert model.velocity_trunk[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize(("kind", "settings"), cases({"flow": FlowWorldModel}))
@pytest.mark.parametrize("is_trained", [True, False])
def test_network_as_one_operation_moves_latents_as_the_plain_one_does(kind, settings, is_trained):
    plain = trained(fresh_world_model(kind, settings)).requires_grad_(is_trained)
    found = []
    for model in (plain, with_kernels(plain)):
        z, a = latents(3, 5).requires_grad_(), actions(3, 5).requires_grad_()
        e = embedded(model).expand(3, 5, -1)
        with autocast(FLOAT32, z.device):
            y = model.next(z, e, a)
            v = model.velocity(z, e, a, torch.full((3, 5, 1), 0.3))
        (y.square().sum() + v.square().sum()).backward()
        found.append([y, v, z.grad, a.grad, *(p.grad for p in model.parameters())])
    assert [a is None for a in found[0]] == [b is None for b in found[1]]
    for a, b in zip(*found, strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_network_as_one_operation_keeps_the_velocity_tangent():
    model = with_kernels(trained(fresh_world_model("flow", {})))
    v = model.velocity(latents(5), embedded(model), actions(5), torch.rand(5, 1))
    assert v.abs().min() > 0
    assert_close(groups(v).sum(-1), torch.zeros(5, 2), rtol=0, atol=1e-5)


class SlowWorldModel(FlowWorldModel):
    """A tenth of the velocity."""

    def velocity(self, z_BL, e_BT, a_BA, tau_B1):
        return 0.1 * super().velocity(z_BL, e_BT, a_BA, tau_B1)


class BoundedWorldModel(FlowWorldModel):
    """Its trunk is no network that kernels know."""

    def _build_dynamics(self):
        super()._build_dynamics()
        self.velocity_trunk = torch.nn.Sequential(self.velocity_trunk, torch.nn.Tanh())


class HalvingLinear(Linear):
    def forward(self, input):
        return super().forward(input) / 2


class HalvingWorldModel(FlowWorldModel):
    """Its head is no layer that kernels know."""

    def _build_dynamics(self):
        super()._build_dynamics()
        self.velocity_head = HalvingLinear(self.config.units[-1], self.latent_dim)


@pytest.mark.parametrize("kind", [SlowWorldModel, BoundedWorldModel, HalvingWorldModel])
def test_velocity_of_a_subclass_moves_latents_by_kernels_too(kind, monkeypatch):
    monkeypatch.setitem(WORLD_MODELS, "mine", kind)
    plain = trained(fresh_world_model("mine", {}))
    given = latents(5), embedded(plain), actions(5)
    assert_close(with_kernels(plain).next(*given), plain.next(*given))


def test_products_in_bfloat16_take_means_of_the_velocity_itself():
    """Weights without means, rounded, would have some again."""
    model = with_kernels(trained(fresh_world_model("flow", {})))
    with autocast(BFLOAT16, torch.device("cpu")):
        v = model.velocity(latents(5), embedded(model), actions(5), torch.rand(5, 1))
    assert_close(groups(v).sum(-1), torch.zeros(5, 2), rtol=0, atol=1e-5)


def with_kernels(model):
    model = copy.deepcopy(model)
    assert compile_networks(model, []) == "on"
    return model
