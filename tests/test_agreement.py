"""Kernels are compared with torch before they are used, and left out where they differ."""

import pytest
import torch
from torch.testing import assert_close

from pwmray.algorithm import agreement, compiling
from pwmray.kernels import ensemble, network
from pwmray.models import WorldModel
from pwmray.variants import VARIANTS
from tests.learners import make_learner


@pytest.mark.parametrize("fidelity", ["corrected", "published"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_kernels_of_this_machine_agree_with_torch(variant, fidelity):
    learner = make_learner(variant, fidelity=fidelity)
    before = [t.clone() for t in learner.state_dict().values()]
    state = torch.get_rng_state()
    agreement.check(learner)
    assert_close(list(learner.state_dict().values()), before, rtol=0, atol=0)
    assert not learner.world_model.encoder.uses_kernels
    assert all(p.requires_grad and p.grad is None for p in learner.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("factor", [1.1, float("nan")])
@pytest.mark.parametrize(
    ("variant", "operation", "said"),
    [
        ("baseline", (network, "run"), "MLPWorldModel: next by kernels is off by"),
        ("fullflow", (network, "run"), "FlowWorldModel: "),
        ("baseline", (ensemble, "values"), "CriticEnsemble: values by kernels is off by"),
    ],
)
def test_operation_that_computes_something_else_is_named(
    variant, operation, said, factor, monkeypatch
):
    module, name = operation
    right = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *given: factor * right(*given))
    with pytest.raises(RuntimeError, match=said):
        agreement.check(make_learner(variant))


def test_wrong_gradient_is_found(monkeypatch):
    right = network.run

    def run(x, layers):
        y = right(x, layers)
        return y.detach() + 1.1 * (y - y.detach())

    monkeypatch.setattr(network, "run", run)
    with pytest.raises(RuntimeError, match=r"gradient of .* by kernels is off by"):
        agreement.check(make_learner("baseline"))


@pytest.mark.parametrize("factor", [0.0, 0.9, -1.0])
def test_wrong_loss_is_found_however_small_it_is_beside_the_others(factor, monkeypatch):
    right = WorldModel.consistency_loss

    def consistency_loss(self, z, target):
        return right(self, z, target) * (factor if self.encoder.uses_kernels else 1.0)

    monkeypatch.setattr(WorldModel, "consistency_loss", consistency_loss)
    with pytest.raises(RuntimeError, match="consistency loss by kernels is off by"):
        agreement.check(make_learner("baseline"))


def test_lost_gradient_is_found(monkeypatch):
    right = network.run

    def run(x, layers):
        return right(x, [network.Layer(k, w.detach(), a) for k, w, a in layers])

    monkeypatch.setattr(network, "run", run)
    with pytest.raises(
        RuntimeError, match=r"gradient of .* exists only by kernels, or only by torch"
    ):
        agreement.check(make_learner("baseline"))


def test_device_whose_kernels_differ_goes_without(monkeypatch, caplog):
    def check(_):
        raise RuntimeError("MLPWorldModel: next by kernels is off by 3.0e-01")

    monkeypatch.setattr(agreement, "check", check)
    monkeypatch.setattr(compiling, "reason_against", lambda device: "")
    learner = make_learner("baseline").to("meta")  # any device but a CPU
    said = compiling.compile_networks(learner, learner.optimizers.values())
    assert said == "off: MLPWorldModel: next by kernels is off by 3.0e-01"
    assert caplog.messages == [f"compile={said}"]
    assert not learner.world_model.encoder.uses_kernels
