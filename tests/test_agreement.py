"""Kernels are compared with torch before they are used, and left out where they differ."""

import functools

import pytest
import torch
from torch.testing import assert_close

from pwmray.algorithm import agreement, compiling
from pwmray.kernels import adam, ensemble, network
from pwmray.models import WorldModel
from pwmray.variants import VARIANTS
from tests.learners import make_learner


def check(learner):
    for check_part in agreement.checks(learner, learner.optimizers.values()).values():
        check_part()


@pytest.mark.parametrize("fidelity", ["corrected", "published"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_kernels_of_this_machine_agree_with_torch(variant, fidelity):
    learner = make_learner(variant, fidelity=fidelity)
    before = [t.clone() for t in learner.state_dict().values()]
    state = torch.get_rng_state()
    check(learner)
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
        check(make_learner(variant))


def test_wrong_gradient_is_found(monkeypatch):
    right = network.run

    def run(x, layers):
        y = right(x, layers)
        return y.detach() + 1.1 * (y - y.detach())

    monkeypatch.setattr(network, "run", run)
    with pytest.raises(RuntimeError, match=r"gradient of .* by kernels is off by"):
        check(make_learner("baseline"))


@pytest.mark.parametrize("factor", [0.0, 0.9, -1.0])
def test_wrong_loss_is_found_however_small_it_is_beside_the_others(factor, monkeypatch):
    right = WorldModel.consistency_loss

    def consistency_loss(self, z, target):
        return right(self, z, target) * (factor if self.encoder.uses_kernels else 1.0)

    monkeypatch.setattr(WorldModel, "consistency_loss", consistency_loss)
    with pytest.raises(RuntimeError, match="consistency loss by kernels is off by"):
        check(make_learner("baseline"))


def test_lost_gradient_is_found(monkeypatch):
    right = network.run

    def run(x, layers):
        return right(x, [network.Layer(k, w.detach(), a) for k, w, a in layers])

    monkeypatch.setattr(network, "run", run)
    with pytest.raises(
        RuntimeError, match=r"gradient of .* exists only by kernels, or only by torch"
    ):
        check(make_learner("baseline"))


@pytest.mark.parametrize("name", ["exp_avg", "parameters"])
def test_wrong_step_is_found(name, monkeypatch):
    right = adam.step

    def step(optimizer, *given):
        norm = right(optimizer, *given)
        parameters = optimizer.param_groups[0]["params"]
        wrong = parameters[1] if name == "parameters" else optimizer.state[parameters[1]][name]
        wrong.data.mul_(1.1)
        return norm

    monkeypatch.setattr(adam, "step", step)
    with pytest.raises(RuntimeError, match=r"Adam of 23 parameters: .* 1 by kernels is off by"):
        check(make_learner("baseline"))


def test_wrong_copy_of_a_weight_is_found(monkeypatch):
    right = adam.step

    def step(optimizer, clip, copies):
        norm = right(optimizer, clip, copies)
        for copy in copies.values():
            copy.mul_(1.1)
        return norm

    monkeypatch.setattr(adam, "step", step)
    with pytest.raises(RuntimeError, match=r"Adam of .*: copy of a parameter 0 by kernels is off"):
        check(make_learner("baseline"))


@pytest.fixture
def compile_with(monkeypatch):
    """Compile a learner as on a device where the kernels of some parts fail."""

    def compile_with(learner, failing):
        def check_as_said(part):
            if part in failing:
                raise RuntimeError(f"{type(part).__name__}: it\n differs")

        parts = [learner.world_model, learner.policy, learner.critics, *learner.optimizers.values()]
        checks = {part: functools.partial(check_as_said, part) for part in parts}
        monkeypatch.setattr(agreement, "checks", lambda *_: checks)
        monkeypatch.setattr(compiling, "reason_against", lambda device: "")
        return compiling.compile_networks(learner, learner.optimizers.values()), parts

    return compile_with


def use_kernels(part):
    inner = part.modules() if isinstance(part, torch.nn.Module) else [part]
    return {one.uses_kernels for one in inner if hasattr(one, "uses_kernels")}


def test_device_whose_kernels_differ_goes_without(compile_with, caplog):
    learner = make_learner("baseline").to("meta")  # any device but a CPU
    everything = [*learner.children(), *learner.optimizers.values()]
    said, parts = compile_with(learner, everything)
    names = ["MLPWorldModel", "GaussianPolicy", "CriticEnsemble", "Adam", "Adam", "Adam"]
    assert said == "off: " + "; ".join(f"{name}: it differs" for name in names)
    assert caplog.messages == [f"compile={said}"]
    assert [use_kernels(part) for part in parts] == [{False}] * 6


@pytest.mark.parametrize("index", range(6))
def test_part_whose_kernels_differ_leaves_the_others_theirs(index, compile_with, caplog):
    learner = make_learner("fullflow").to("meta")
    failing = [*list(learner.children())[:3], *learner.optimizers.values()][index]
    said, parts = compile_with(learner, [failing])
    assert said == f"partly off: {type(failing).__name__}: it differs"
    assert caplog.messages == [f"compile={said}"]
    assert [use_kernels(part) for part in parts] == [{part is not failing} for part in parts]
