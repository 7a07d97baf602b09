"""Products laid out for a GPU: their values and gradients, and that nothing keeps them alive."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from pwmray import precision
from pwmray.kernels import products
from pwmray.kernels.gradient import Gradient

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def copied_by_torch(monkeypatch):
    """Stand in for the one kernel in it, which Triton compiles for a GPU."""

    def copy(x, shape, dtype):
        ends = [end - size for size, end in zip(reversed(x.shape), reversed(shape), strict=True)]
        return F.pad(x, [n for end in ends for n in (0, end)]).to(dtype)

    monkeypatch.setattr(products, "_copy", copy)


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_what_a_gradient_is_computed_from_lives_until_that_is_finished():
    gradient, x, gy = Gradient(), draw(5, 3), draw(5, 2)
    expected, read = gy.t() @ x, [weakref.ref(t.untyped_storage()) for t in (x, gy)]
    products.add_gradient(gradient, gy, x)
    del x, gy
    assert all(storage() for storage in read)
    assert_close(gradient.finish(), expected)
    assert not any(storage() for storage in read)


def test_products_of_one_weight_and_their_gradients_are_those_of_torch():
    weight, bias = draw(11, 13).requires_grad_(), draw(11).requires_grad_()
    xs = [draw(5, 3, 13).requires_grad_(), draw(7, 13).requires_grad_()]

    def total(linear):
        ys = [linear(x)[..., :11] + bias for x in xs]
        return sum((y * draw(*y.shape)).sum() for y in ys)

    expected = torch.autograd.grad(total(lambda x: F.linear(x, weight)), [weight, bias, *xs])
    with precision.autocast(precision.FLOAT32, CPU):
        operand = precision.make_once(weight, products._Operand)
        found = torch.autograd.grad(total(operand.multiply), [weight, bias, *xs])
        assert precision.make_once(weight, products._Operand) is operand
    assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found[0].is_contiguous()  # or torch's fused Adam would misread it


def test_frozen_weight_leads_gradients_through():
    weight, x = draw(11, 13), draw(7, 13).requires_grad_()
    (expected,) = torch.autograd.grad(F.linear(x, weight).square().sum(), x)
    y = products._Operand(weight).multiply(x)
    assert y.shape == (7, 16)
    assert not y[:, 11:].any()
    assert_close(torch.autograd.grad(y.square().sum(), x)[0], expected, rtol=1e-5, atol=1e-5)


def test_weight_is_laid_out_anew_in_the_next_pass_and_without_gradients():
    weight = draw(8, 8).requires_grad_()
    made = []
    for _ in range(2):
        with precision.autocast(precision.FLOAT32, CPU):
            made.append(precision.make_once(weight, products._Operand))
            with torch.no_grad():
                made.append(precision.make_once(weight, products._Operand))
    assert len({id(operand) for operand in made}) == 4


def test_nodes_of_autograd_die_with_their_pass():
    """A node that lived on would hold the stream of its pass: no later one could be recorded."""
    weight = draw(11, 13).requires_grad_()
    gc.disable()
    try:
        with precision.autocast(precision.FLOAT32, CPU):
            operand = precision.make_once(weight, products._Operand)
            y = operand.multiply(draw(5, 13))
            node = weight.view_as(weight).grad_fn.next_functions[0][0]
            node.metadata["alive"] = True
            y.sum().backward()
        seen = weakref.ref(operand)
        del operand, y, node
        assert seen() is None
        assert "alive" not in weight.view_as(weight).grad_fn.next_functions[0][0].metadata
    finally:
        gc.enable()
