"""Fixed-step integrators for flow models: one signature, a known number of network calls.

A velocity is a function (x, tau) -> dx/dtau with tau a float in [0, 1]. `integrate` carries x
from tau = 0 to 1 in `num_substeps` equal steps; every integrator here is explicit, so that a
gradient flows through all of its calls.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from pwmray.kernels.flow import Plan

Velocity = Callable[[Tensor, float], Tensor]
Step = Callable[[Velocity, Tensor, float, float], Tensor]  # velocity, x, tau, dt -> x


def integrate(velocity: Velocity, x: Tensor, integrator: str, num_substeps: int) -> Tensor:
    """Return x at tau = 1 from x at tau = 0."""
    step = INTEGRATORS[integrator]
    dt = 1.0 / num_substeps
    for k in range(num_substeps):
        x = step(velocity, x, k * dt, dt)
    return x


def num_calls(integrator: str, num_substeps: int) -> int:
    """Return how often one integration calls the velocity network."""
    return CALLS_PER_SUBSTEP[integrator] * num_substeps


def check_integrator(integrator: str, num_substeps: int, part: str) -> None:
    """Raise ValueError naming the config part if either value is not valid."""
    if integrator not in INTEGRATORS:
        raise ValueError(f"{part}.integrator is {integrator!r}; valid: {', '.join(INTEGRATORS)}")
    if num_substeps < 1:
        raise ValueError(f"{part}.num_substeps is {num_substeps}; it must be at least 1")


def euler(velocity: Velocity, x: Tensor, tau: float, dt: float) -> Tensor:
    return torch.add(x, velocity(x, tau), alpha=dt)


def midpoint(velocity: Velocity, x: Tensor, tau: float, dt: float) -> Tensor:
    half = torch.add(x, velocity(x, tau), alpha=0.5 * dt)
    return torch.add(x, velocity(half, tau + 0.5 * dt), alpha=dt)


def heun(velocity: Velocity, x: Tensor, tau: float, dt: float) -> Tensor:
    v_start = velocity(x, tau)
    v_end = velocity(torch.add(x, v_start, alpha=dt), tau + dt)
    return torch.add(x, v_start + v_end, alpha=0.5 * dt)


def rk4(velocity: Velocity, x: Tensor, tau: float, dt: float) -> Tensor:
    k1 = velocity(x, tau)
    k2 = velocity(torch.add(x, k1, alpha=0.5 * dt), tau + 0.5 * dt)
    k3 = velocity(torch.add(x, k2, alpha=0.5 * dt), tau + 0.5 * dt)
    k4 = velocity(torch.add(x, k3, alpha=dt), tau + dt)
    return x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


@functools.cache
def plan(integrator: str, num_substeps: int) -> Plan:
    """Return what `integrate` computes, written out."""
    (shares, rows, weights), dt = _TABLEAUS[integrator], 1.0 / num_substeps
    times, stages, done = [], [], ()
    for k in range(num_substeps):
        times += [(k + share) * dt for share in shares]
        stages += [(*done, *(dt * c for c in row)) for row in rows]
        done = (*done, *(dt * weight for weight in weights))
    return Plan(tuple(times), tuple(stages), done)


# Butcher's tableaus: times, and weights of the velocities before, as shares of a step; the step's.
_TABLEAUS = {
    "euler": ((0.0,), ((),), (1.0,)),
    "midpoint": ((0.0, 0.5), ((), (0.5,)), (0.0, 1.0)),
    "heun": ((0.0, 1.0), ((), (1.0,)), (0.5, 0.5)),
    "rk4": (
        (0.0, 0.5, 0.5, 1.0),
        ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    ),
}
INTEGRATORS: dict[str, Step] = {"euler": euler, "midpoint": midpoint, "heun": heun, "rk4": rk4}
CALLS_PER_SUBSTEP = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
