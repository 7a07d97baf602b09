"""Fixed-step integrators for flow models: one signature, a known number of network calls.

A velocity is a function (x, tau) -> dx/dtau with tau a float in [0, 1]. `integrate` carries x
from tau = 0 to 1 in `num_substeps` equal steps; every integrator here is explicit, so that a
gradient flows through all of its calls. A new one is a function here and a name in INTEGRATORS;
it goes entry by entry, with the same calls whatever the numbers, which operations and CUDA graphs
rest on.
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
    return _take_steps(INTEGRATORS[integrator], velocity, x, num_substeps)


def _take_steps(step: Step, velocity: Velocity, x: Tensor, num_substeps: int) -> Tensor:
    dt = 1.0 / num_substeps
    for k in range(num_substeps):
        x = step(velocity, x, k * dt, dt)
    return x


def num_calls(integrator: str, num_substeps: int) -> int:
    """Return how often one integration calls the velocity network."""
    return _calls_per_substep(INTEGRATORS[integrator]) * num_substeps


@functools.cache
def _calls_per_substep(step: Step) -> int:
    """Count them: a number beside the formula could be another one."""
    times = []

    def velocity(x: Tensor, tau: float) -> Tensor:
        times.append(tau)
        return x

    step(velocity, torch.zeros((), device="cpu"), 0.0, 1.0)
    return len(times)


def plan(integrator: str, num_substeps: int) -> Plan | None:
    """Return what `integrate` computes, read off its formula; None if that is no sum of velocities.

    With axes for x and the velocities a sum tells its factors; numbers tell if that was all.
    """
    return _read_off(INTEGRATORS[integrator], num_substeps)


@functools.cache
def _read_off(step: Step, num_substeps: int) -> Plan | None:
    num_axes = _calls_per_substep(step) * num_substeps + 1
    axes = torch.eye(num_axes, dtype=torch.float64, device="cpu")
    numbers = torch.arange(1, num_axes + 1, dtype=torch.float64, device="cpu").sqrt() * 1e3
    numbers[1::2] *= -1  # of both signs and large, which a clamp would show
    times, factors = _trace(step, num_substeps, axes)
    is_sum = torch.allclose(factors @ numbers, _trace(step, num_substeps, numbers)[1])
    if not is_sum or not torch.allclose(factors[:, 0], axes.new_ones(())):
        return None
    *stages, end = factors[:, 1:].tolist()
    stages = tuple(tuple(stage[:i]) for i, stage in enumerate(stages))
    return Plan(tuple(times), stages, tuple(end))


def _trace(step: Step, num_substeps: int, given: Tensor) -> tuple[list[float], Tensor]:
    """Return the times of all calls, and their x with the end's behind, from x = given[0].

    The velocities are given[1], given[2], ...
    """
    times, xs = [], []

    def velocity(x: Tensor, tau: float) -> Tensor:
        times.append(tau)
        xs.append(x)
        return given[len(times)]

    end = _take_steps(step, velocity, given[0], num_substeps)
    return times, torch.stack([*xs, end])


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


INTEGRATORS: dict[str, Step] = {"euler": euler, "midpoint": midpoint, "heun": heun, "rk4": rk4}
