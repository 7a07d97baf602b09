"""Integrators: order, calls and gradients, on known equations and on a trained velocity."""

import math

import pytest
import torch
from torch.testing import assert_close
from torchdiffeq import odeint

from pwmray.flops import count_update_flops
from pwmray.models import ode
from pwmray.models.ode import INTEGRATORS
from tests.model_inputs import (
    ALL_DIMS,
    actions,
    embedded,
    fresh_policy,
    fresh_world_model,
    latents,
    measure_update_flops,
    noise,
    stream,
    tiny_trial,
    trained,
)

CALLS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
every_integrator = pytest.mark.parametrize("integrator", INTEGRATORS)


def steepening(x, tau):
    """dx/dtau = -2 tau x^2, whose solution is x(1) = 1 / (1 / x(0) + 1)."""
    return -2 * tau * x.square()


def error(integrator, num_substeps):
    end = ode.integrate(steepening, torch.tensor(2.0).double(), integrator, num_substeps)
    return abs(end.item() - 2 / 3)


@every_integrator
def test_integrator_converges_with_its_order(integrator):
    order = math.log2(error(integrator, 32) / error(integrator, 64))
    assert order == pytest.approx(ORDERS[integrator], abs=0.15)


@every_integrator
def test_integrator_is_exact_for_a_constant_velocity(integrator):
    end = ode.integrate(lambda x, _: torch.full_like(x, 2.0), torch.ones(3), integrator, 4)
    assert_close(end, torch.full((3,), 3.0))


@every_integrator
@pytest.mark.parametrize("num_substeps", [1, 3])
def test_plan_is_the_integration_written_out(integrator, num_substeps):
    times, stages, end = ode.plan(integrator, num_substeps)
    start, velocities = torch.tensor(2.0).double(), []

    def moved(factors):
        terms = (f * v for f, v in zip(factors, velocities, strict=True))
        return start + sum(terms)

    for time, factors in zip(times, stages, strict=True):
        velocities.append(steepening(moved(factors), time))
    assert_close(moved(end), ode.integrate(steepening, start, integrator, num_substeps))


def ssprk3(velocity, x, tau, dt):
    y = x + dt * velocity(x, tau)
    y = 0.75 * x + 0.25 * (y + dt * velocity(y, tau + dt))
    return x / 3 + 2 / 3 * (y + dt * velocity(y, tau + 0.5 * dt))


def test_plan_is_read_off_a_new_formula(monkeypatch):
    monkeypatch.setitem(ode.INTEGRATORS, "ssprk3", ssprk3)
    times, stages, end = ode.plan("ssprk3", 1)
    assert times == (0, 1, 0.5)
    assert [len(stage) for stage in stages] == [0, 1, 2]
    assert_close(torch.tensor(stages[2]), torch.tensor([0.25, 0.25]))
    assert_close(torch.tensor(end), torch.tensor([1 / 6, 1 / 6, 2 / 3]))


@pytest.mark.parametrize(
    "step",
    [
        lambda velocity, x, tau, dt: x + dt * torch.tanh(velocity(x, tau)),
        lambda velocity, x, tau, dt: x + dt * velocity(x, tau) * velocity(x, tau).abs().max(),
        lambda velocity, x, tau, dt: x + dt * velocity(x, tau).clamp(-10, 10),
        lambda velocity, x, tau, dt: 0.9 * x + dt * velocity(x, tau),
        lambda velocity, x, tau, dt: x + dt * velocity(x, tau) + 0.1,
    ],
)
def test_formula_that_is_no_sum_of_velocities_has_no_plan(step, monkeypatch):
    monkeypatch.setitem(ode.INTEGRATORS, "other", step)
    assert ode.plan("other", 2) is None


@every_integrator
@pytest.mark.parametrize("num_substeps", [1, 2, 3, 7])
def test_integrator_makes_the_calls_that_it_states(integrator, num_substeps):
    times = []

    def velocity(x, tau):
        times.append(tau)
        return -x

    ode.integrate(velocity, torch.ones(1), integrator, num_substeps)

    assert len(times) == ode.num_calls(integrator, num_substeps)
    assert min(times) == 0
    assert max(times) <= 1 + 1e-12


def test_new_integrator_is_one_entry_and_its_calls_are_counted(monkeypatch):
    def kutta3(velocity, x, tau, dt):
        k1 = velocity(x, tau)
        k2 = velocity(x + dt / 2 * k1, tau + dt / 2)
        k3 = velocity(x - dt * k1 + 2 * dt * k2, tau + dt)
        return x + dt / 6 * (k1 + 4 * k2 + k3)

    monkeypatch.setitem(INTEGRATORS, "kutta3", kutta3)
    keys = {"world_model.integrator": "kutta3", "world_model.num_substeps": 2}
    trial = tiny_trial(variant="flowwm", **keys)
    assert ode.num_calls("kutta3", 2) == 6
    assert count_update_flops(trial).total == measure_update_flops(trial)


def test_calls_of_an_integrator_are_known():
    assert {name: ode.num_calls(name, 1) for name in ORDERS} == CALLS


@every_integrator
def test_integrator_lets_the_gradient_through(integrator):
    x = torch.tensor(1.0).double().requires_grad_()

    ode.integrate(lambda x, _: -x, x, integrator, 64).backward()

    assert x.grad.item() == pytest.approx(math.exp(-1), abs=0.01)


# A trained velocity, against an adaptive integrator at a tolerance near rounding.


def solve_precisely(velocity, x):
    times = torch.tensor([0.0, 1.0], dtype=x.dtype)
    return odeint(
        lambda tau, x: velocity(x, tau.item()), x, times, rtol=1e-12, atol=1e-13, method="dopri5"
    )[1]


@pytest.fixture(scope="module")
def trained_velocity():
    """Train a flow world model on a map that reorders latents; return its velocity (x, tau)."""
    model = fresh_world_model("flow", {}).double()
    z, a = latents(64).double(), actions(64).double()
    e, target = embedded(model, 1).detach(), z.flip(-1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    draws, losses = stream(), []
    for _ in range(200):
        tau = torch.rand(64, 1, generator=draws).double()
        loss = model.matching_loss(z, e.expand(64, -1), a, target, tau).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.2 * sum(losses[:20])  # it is a velocity that has learned

    def velocity(x, tau):
        with torch.no_grad():
            return model.velocity(x, e.expand(64, -1), a, x.new_full((64, 1), tau))

    return velocity


def measured_order(velocity, x, integrator, num_substeps):
    """Return log2 of the factor by which twice as many substeps shrink the error."""
    exact = solve_precisely(velocity, x)
    few, many = (
        (ode.integrate(velocity, x, integrator, num) - exact).norm().item()
        for num in (num_substeps, 2 * num_substeps)
    )
    return math.log2(few / many)


@every_integrator
def test_integrator_converges_with_its_order_on_a_trained_velocity(integrator, trained_velocity):
    order = measured_order(trained_velocity, latents(64).double(), integrator, num_substeps=2)
    assert order == pytest.approx(ORDERS[integrator], abs=0.1)


@every_integrator
def test_integrator_converges_with_its_order_on_the_velocity_of_a_policy(integrator):
    policy, z = trained(fresh_policy("flow", {})).double(), latents(5).double()

    def velocity(x, tau):
        return policy.velocity(torch.cat([z, x, x.new_full((5, 1), tau)], dim=-1)).detach()

    order = measured_order(velocity, noise(5).double(), integrator, num_substeps=32)
    assert order == pytest.approx(ORDERS[integrator], abs=0.1)


@every_integrator
def test_flow_policy_acts_by_the_solution_of_its_equation(integrator):
    settings = {"integrator": integrator, "num_substeps": 64}
    policy, z = trained(fresh_policy("flow", settings)).double(), latents(5).double()

    def velocity(x, tau):
        return policy.velocity(torch.cat([z, x, x.new_full((5, 1), tau)], dim=-1)).detach()

    exact = torch.tanh(solve_precisely(velocity, policy.log_std.detach().exp() * noise(5)))

    a = policy(z, noise(5).double(), ALL_DIMS.double())
    assert_close(a, exact, rtol=0, atol=64 ** -ORDERS[integrator] * 4)
