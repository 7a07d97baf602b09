import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from pwmray.models import CriticConfig, CriticEnsemble
from tests.model_inputs import (
    DEVICES,
    LATENT_DIM,
    has_finite_gradients,
    latents,
    parameters_without_gradient,
    stream,
    trained,
)


def make_critics():
    return trained(CriticEnsemble(CriticConfig(units=(24, 20)), LATENT_DIM, stream()))


def one_critic(critics, index, z):
    """Compute one member of the ensemble from its own weights, layer by layer."""
    x = z
    for layer in range(2):
        weight, bias = critics.weights[layer][index].T, critics.biases[layer][index, 0]
        scale, shift = critics.norm_weights[layer][index, 0], critics.norm_biases[layer][index, 0]
        x = F.layer_norm(F.mish(F.linear(x, weight, bias)), x.new_zeros(len(bias)).shape)
        x = x * scale + shift
    return F.linear(x, critics.weights[2][index].T, critics.biases[2][index, 0]).squeeze(-1)


def test_ensemble_equals_three_separate_critics():
    critics = make_critics()
    values = critics(latents(5))
    assert values.shape == (3, 5)
    assert_close(values, torch.stack([one_critic(critics, i, latents(5)) for i in range(3)]))


def test_minimum_is_the_smallest_of_the_critics():
    critics = make_critics()
    minimum = critics.minimum(latents(3, 5))
    assert minimum.shape == (3, 5, 1)
    assert torch.equal(minimum, critics(latents(3, 5).view(15, -1)).amin(0).view(3, 5, 1))


def test_critics_follow_from_their_generator_and_differ_from_each_other():
    first, same = (CriticEnsemble(CriticConfig(), LATENT_DIM, stream()) for _ in range(2))
    assert torch.equal(first(latents(5)), same(latents(5)))
    assert not torch.equal(first(latents(5))[0], first(latents(5))[1])


def test_critics_start_orthogonal_with_gain_sqrt_2():
    critics = CriticEnsemble(CriticConfig(units=(8, 8)), LATENT_DIM, stream())
    square = critics.weights[1][0]
    assert_close(square.T @ square, 2 * torch.eye(8), rtol=0, atol=1e-5)


def test_every_critic_gets_a_finite_gradient():
    critics = make_critics()
    critics(latents(5)).square().sum().backward()
    assert parameters_without_gradient(critics) == set()
    assert has_finite_gradients(critics)


def test_critics_compute_in_the_precision_of_their_latents():
    critics = make_critics()
    values = critics(latents(5))

    precise = critics.double()(latents(5).double())

    assert precise.dtype == torch.float64
    assert_close(precise.float(), values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_critics_compute_on_the_device_of_their_latents(device):
    assert make_critics().to(device).minimum(latents(5).to(device)).device.type == device
