"""A network as one operation: its layers' own results, to the last bit."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from pwmray import precision
from pwmray.kernels import network
from pwmray.models.layers import (
    Linear,
    NormedLinear,
    NormedNetwork,
    SimNorm,
    layers_by_kernels,
    mish_mlp,
    normed_mlp,
)

NETWORKS = {
    "simplex": lambda: normed_mlp(6, (16, 24), NormedLinear(24, 8, SimNorm())),
    "linear": lambda: normed_mlp(6, (16,), Linear(16, 5)),
    "trunk": lambda: normed_mlp(6, (16, 24), nn.Identity()),
    "policy": lambda: mish_mlp(6, (16, 24), 3),
}
LINEAR = {"one linear layer": lambda: normed_mlp(6, (), Linear(6, 5))}


@pytest.fixture
def counted(monkeypatch):
    """Count the networks that run as one operation."""
    runs = []
    run = network.run
    monkeypatch.setattr(network, "run", lambda x, *rest: runs.append(x.shape) or run(x, *rest))
    return runs


def make(name):
    """Return a network by kernels, one operation or a layer's at a time, of random parameters."""
    draws = torch.Generator().manual_seed(0)
    whole = (NETWORKS | LINEAR)[name]()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.normal_(generator=draws)
    for part in whole.modules():
        part.uses_kernels = True
    return whole, copy.deepcopy(whole)


def one_by_one(module, x):
    """Run a network as if no operation were for all of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "can_run", lambda x: False)
        return module(x)


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def assert_same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)


@pytest.mark.parametrize("shape", [(7, 6), (3, 5, 6)])
@pytest.mark.parametrize("name", NETWORKS)
def test_network_is_its_layers(name, shape, counted):
    found = []
    for module, run in zip(make(name), (nn.Module.__call__, one_by_one), strict=True):
        x = draw(*shape).requires_grad_()
        y = run(module, x)
        y.backward(draw(*y.shape))
        found.append([y, x.grad, *(p.grad for p in module.parameters())])
    assert_same(*found)
    assert counted == [shape]


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_may_lie_in_memory_in_another_way(name):
    found = []
    for module, run in zip(make(name), (nn.Module.__call__, one_by_one), strict=True):
        y = run(module, draw(3, 5, 6)).transpose(0, 1)
        y.backward(draw(*y.shape))
        found.append([p.grad for p in module.parameters()])
    assert_close(*found, rtol=1e-6, atol=1e-5)  # sums over rows in another order


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("is_trained", [True, False])
def test_gradients_flow_where_they_are_wanted(name, is_trained, counted):
    found = []
    for module, run in zip(make(name), (nn.Module.__call__, one_by_one), strict=True):
        x = draw(7, 6).requires_grad_(not is_trained)
        y = run(module.requires_grad_(is_trained), x)
        module.requires_grad_(True)  # what counts is how it was in the forward pass
        y.square().sum().backward()
        found.append([x.grad, *(p.grad for p in module.parameters())])
    assert_same(*found)
    assert (found[0][0] is None, found[0][1] is None) == (is_trained, not is_trained)
    assert counted


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_that_is_given_is_left_as_it_is(name):
    module, _ = make(name)
    y = module(draw(7, 6))
    given = draw(*y.shape)
    before = given.clone()
    y.backward(given)
    assert torch.equal(given, before)


@pytest.mark.parametrize("name", NETWORKS)
def test_network_without_gradients_is_the_same(name, counted):
    module, _ = make(name)
    with torch.no_grad():
        y = module(draw(7, 6))
    assert torch.equal(y, module(draw(7, 6)))
    assert not y.requires_grad
    assert len(counted) == 2


def test_gradients_of_several_calls_add_up():
    found = []
    for module, run in zip(make("simplex"), (nn.Module.__call__, one_by_one), strict=True):
        y = run(module, run(module, draw(7, 6))[:, :6])
        y.square().sum().backward()
        found.append([y, *(p.grad for p in module.parameters())])
    assert_same(*found)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_other_products_are_made_layer_by_layer(name, has_bfloat16, counted, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: has_bfloat16)
    module, _ = make(name)
    with precision.autocast(precision.BFLOAT16, torch.device("cpu")):
        y = module(draw(7, 6))
    assert not counted
    assert not torch.equal(y, module(draw(7, 6)))


def call_along(module, given, x, is_first):
    return network.conditioned(module.layers(), given, is_first)(x, 0.25)


def call_with_all_inputs(module, given, x, is_first):
    parts = [given, x] if is_first else [x, given]
    return module(torch.cat([*parts, torch.full((*x.shape[:-1], 1), 0.25)], dim=-1))


@pytest.mark.parametrize("is_trained", [True, False])
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("shape", [(7,), (3, 5)])
@pytest.mark.parametrize("name", NETWORKS | LINEAR)
def test_network_may_be_given_a_part_of_its_input_beforehand(name, shape, is_first, is_trained):
    found = []
    for module, run in zip(make(name), (call_along, call_with_all_inputs), strict=True):
        module.requires_grad_(is_trained)
        given, x = draw(*shape, 2).requires_grad_(), draw(*shape, 3).requires_grad_()
        y = run(module, given, x, is_first)
        y.backward(draw(*y.shape))
        found.append([y, given.grad, x.grad, *(p.grad for p in module.parameters())])
        with torch.no_grad():
            assert torch.equal(run(module, given, x, is_first), y)
    assert [a is None for a in found[0]] == [b is None for b in found[1]]
    for a, b in zip(*found, strict=True):
        assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_what_is_given_is_multiplied_once_for_all_calls():
    module, _ = make("policy")
    given, xs = draw(7, 2).requires_grad_(), draw(4, 7, 3).requires_grad_()
    with FlopCounterMode(display=False) as once:
        call = network.conditioned(module.layers(), given, is_first=True)
        torch.stack([call(x, 0.25) for x in xs]).sum().backward()
    with FlopCounterMode(display=False) as each:
        torch.stack([call_with_all_inputs(module, given, x, True) for x in xs]).sum().backward()
    first_layer = 3 * 2 * 7 * 16  # forward and both gradients, for an entry of a row of 6
    assert each.get_total_flops() - once.get_total_flops() == first_layer * (4 * 6 - (2 + 4 * 3))


def test_network_with_a_layer_of_another_kind_runs_as_it_is_written(counted):
    for last in (nn.Tanh(), NormedLinear(16, 8, nn.Tanh())):
        module = normed_mlp(6, (16,), last)
        expected = module(draw(7, 6))
        module.uses_kernels = True
        assert torch.equal(module(draw(7, 6)), expected)
    assert not counted


class DoubledLayer(NormedLinear):
    def forward(self, input):
        return 2 * super().forward(input)


class DoubledLinear(Linear):
    def forward(self, input):
        return 2 * super().forward(input)


class DoubledNetwork(NormedNetwork):
    def forward(self, input):
        return 2 * super().forward(input)


def replace_norm(layer, norm):
    layer.ln = norm


# What a model of one's own may do to a network: no kernel may pass it by.
CHANGES = {
    "a layer's subclass": ("linear", lambda net: net.__setitem__(0, DoubledLayer(6, 16))),
    "a linear subclass": ("linear", lambda net: net.__setitem__(1, DoubledLinear(16, 5))),
    "no bias": ("linear", lambda net: net.__setitem__(1, nn.Linear(16, 5, bias=False))),
    "a hook": ("linear", lambda net: net[0].register_forward_hook(lambda *call: 2 * call[2])),
    "a hook of the input": (
        "linear",
        lambda net: net[1].register_forward_pre_hook(lambda _, given: (2 * given[0],)),
    ),
    "a hook of the gradient": (
        "linear",
        lambda net: net[1].register_full_backward_pre_hook(lambda _, given: (2 * given[0],)),
    ),
    "a hook of both gradients": (
        "linear",
        lambda net: net[1].register_full_backward_hook(lambda _, given, above: (2 * given[0],)),
    ),
    "a hook of the activation": (
        "linear",
        lambda net: net[0].activation.register_forward_hook(lambda *call: 2 * call[2]),
    ),
    "another epsilon": ("linear", lambda net: replace_norm(net[0], nn.LayerNorm(16, eps=1.0))),
    "another norm": ("linear", lambda net: replace_norm(net[0], nn.RMSNorm(16))),
    "no norm": ("linear", lambda net: replace_norm(net[0], nn.Identity())),
    "a spectral norm": ("linear", lambda net: spectral_norm(net[0]).eval()),
    "another activation": ("policy", lambda net: net.__setitem__(1, nn.ReLU())),
    "a layer more in a policy": ("policy", lambda net: net.insert(1, nn.Tanh())),
    "another epsilon of a policy": (
        "policy",
        lambda net: net.__setitem__(2, nn.LayerNorm(16, eps=1.0)),
    ),
    "a layer's subclass in a policy": (
        "policy",
        lambda net: net.__setitem__(0, DoubledLinear(6, 16)),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_network_that_was_changed_computes_the_same_by_kernels(change):
    name, apply = CHANGES[change]
    module = NETWORKS[name]()
    apply(module)
    found = []
    for _ in range(2):
        leaf = draw(7, 6).requires_grad_()
        y = module(leaf)
        y.square().sum().backward()
        found.append((y, leaf.grad))
        for layer in module.modules():
            layer.uses_kernels = True
    assert_close(found[1], found[0])


def test_layers_of_a_changed_network_are_not_taken_in_place_of_calling_it():
    plain, doubled = normed_mlp(6, (16,), Linear(16, 5)), DoubledNetwork(Linear(6, 5))
    hooked = normed_mlp(6, (16,), Linear(16, 5))
    hooked.register_forward_hook(lambda *call: 2 * call[2])
    for module in (plain, doubled, hooked):
        module.uses_kernels = True
    assert layers_by_kernels(plain) is not None
    assert [layers_by_kernels(m) for m in (doubled, hooked, nn.Linear(6, 5))] == [None] * 3
