"""Behaviours that collect data: open-loop action sequences of one episode, and a policy's noise.

An open-loop behaviour takes a numpy generator and the shape (steps, action_dim) and returns float32
actions in [-1, 1]; a behaviour of a policy returns what is added to the policy's actions. Held
actions and slow noise move a body further than white noise, which a mechanism averages out;
bang-bang and constant reach the ends of its range.

Mean return of each in the default 40 episodes (`pwmray data collect TASK`, `pwmray data info TASK`,
mujoco 3.17.0):

                         pendulum-spin  cartpole-swingup  cheetah-run-backwards
    uniform                       97.3              39.4                   33.9
    held-4                       169.9             126.2                   29.8
    held-16                      177.5             179.1                   16.1
    ornstein-uhlenbeck           136.5             163.6                   18.3
    bang-bang                    250.3             151.2                   28.6
    constant                      74.8              57.0                    0.5
"""

from collections.abc import Callable

import numpy as np

# Ornstein-Uhlenbeck noise: pull to 0 and kick per step; the stationary sd is 0.57.
_PULL = 0.1
_KICK = 0.25
_SWITCH_PROBABILITY = 0.1  # of a bang-bang action changing sign, per step and dimension
_MAX_POLICY_NOISE = 0.4  # upper end of the noise's sd, which is drawn for each episode
_MEMORY = 0.9  # share of that noise that is left after a step

Behaviour = Callable[[np.random.Generator, int, int], np.ndarray]


def uniform(rng: np.random.Generator, num_steps: int, action_dim: int) -> np.ndarray:
    """Draw every action anew."""
    return rng.uniform(-1, 1, (num_steps, action_dim)).astype(np.float32)


def held_4(rng: np.random.Generator, num_steps: int, action_dim: int) -> np.ndarray:
    """Hold each uniform action for 4 steps."""
    return _held(rng, num_steps, action_dim, num_held=4)


def held_16(rng: np.random.Generator, num_steps: int, action_dim: int) -> np.ndarray:
    """Hold each uniform action for 16 steps."""
    return _held(rng, num_steps, action_dim, num_held=16)


def ornstein_uhlenbeck(rng: np.random.Generator, num_steps: int, action_dim: int) -> np.ndarray:
    """Drift slowly around 0."""
    kicks = rng.standard_normal((num_steps, action_dim)) * _KICK
    return np.clip(_drift(kicks, 1 - _PULL), -1, 1).astype(np.float32)


def bang_bang(rng: np.random.Generator, num_steps: int, action_dim: int) -> np.ndarray:
    """Push fully one way and switch sign now and then."""
    start = rng.choice([-1.0, 1.0], action_dim)
    switches = rng.random((num_steps, action_dim)) < _SWITCH_PROBABILITY
    return (start * (-1.0) ** switches.cumsum(axis=0)).astype(np.float32)


def constant(rng: np.random.Generator, num_steps: int, action_dim: int) -> np.ndarray:
    """Repeat one uniform action all episode."""
    return _held(rng, num_steps, action_dim, num_held=num_steps)


BEHAVIOURS: dict[str, Behaviour] = {
    "uniform": uniform,
    "held-4": held_4,
    "held-16": held_16,
    "ornstein-uhlenbeck": ornstein_uhlenbeck,
    "bang-bang": bang_bang,
    "constant": constant,
}


def no_noise(rng: np.random.Generator, num_steps: int, action_dim: int) -> np.ndarray:
    """Leave the policy's actions as they are."""
    return np.zeros((num_steps, action_dim), np.float32)


def slow_noise(rng: np.random.Generator, num_steps: int, action_dim: int) -> np.ndarray:
    """Push the policy one way for some steps; how hard differs from episode to episode."""
    std = rng.uniform(0, _MAX_POLICY_NOISE)
    kicks = rng.standard_normal((num_steps, action_dim)) * std * (1 - _MEMORY**2) ** 0.5
    return _drift(kicks, _MEMORY).astype(np.float32)


POLICY = "policy"
NOISY_POLICY = "noisy-policy"
POLICY_NOISES: dict[str, Behaviour] = {POLICY: no_noise, NOISY_POLICY: slow_noise}


def _held(rng: np.random.Generator, num_steps: int, action_dim: int, num_held: int) -> np.ndarray:
    num_draws = -(-num_steps // num_held)
    draws = rng.uniform(-1, 1, (num_draws, action_dim)).astype(np.float32)
    return draws.repeat(num_held, axis=0)[:num_steps]


def _drift(kicks: np.ndarray, memory: float) -> np.ndarray:
    """Return the places [steps, ...] of a walk: each is `memory` times the last plus a kick."""
    places, place = np.zeros_like(kicks), np.zeros_like(kicks[0])
    for step, kick in enumerate(kicks):
        place = memory * place + kick
        places[step] = place
    return places
