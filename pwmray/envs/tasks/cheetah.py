"""Cheetah: run backwards, run on the front or on the back feet, jump."""

import numpy as np
from dm_control.rl import control
from dm_control.suite import cheetah
from dm_control.utils import rewards

_BACKWARDS_SPEED = 8.0  # m/s from which the reward is full
_TWO_FEET_SPEED = 6.0  # m/s
_RAISED_HEIGHT = 1.2  # m, of the torso and of a raised foot
_HEIGHT_MARGIN = 0.6  # m
_JUMP_DRIFT = 0.5  # m/s that a jump may move sideways
_TIME_LIMIT = 10.0  # seconds: 1000 control steps


def run_backwards() -> control.Environment:
    """Build cheetah-run-backwards."""
    return _build(RunBackwards())


def run_front() -> control.Environment:
    """Build cheetah-run-front: on the front feet, with the back foot raised."""
    return _build(RunOnFeet("bfoot"))


def run_back() -> control.Environment:
    """Build cheetah-run-back: on the back feet, with the front foot raised."""
    return _build(RunOnFeet("ffoot"))


def jump() -> control.Environment:
    """Build cheetah-jump."""
    return _build(Jump())


class RunBackwards(cheetah.Cheetah):
    """dm_control's cheetah, rewarded for running backwards."""

    def get_reward(self, physics: cheetah.Physics) -> float:
        """Return the share of 8 m/s backwards, at most 1."""
        return _speed_reward(physics, (-np.inf, -_BACKWARDS_SPEED), margin=_BACKWARDS_SPEED)


class RunOnFeet(cheetah.Cheetah):
    """Run forwards with the torso and one foot in the air."""

    def __init__(self, raised_foot: str):
        super().__init__()
        self._raised_foot = raised_foot

    def get_reward(self, physics: cheetah.Physics) -> float:
        """Return how raised the body is, times one part standing and five parts speed."""
        torso = _raised(_height(physics, "torso"))
        foot = _raised(_height(physics, self._raised_foot))
        speed = _speed_reward(physics, (_TWO_FEET_SPEED, np.inf), margin=_TWO_FEET_SPEED)
        return (3 * foot + 2 * torso) / 5 * (5 * speed + 1) / 6


class Jump(cheetah.Cheetah):
    """Jump high on the spot."""

    def get_reward(self, physics: cheetah.Physics) -> float:
        """Return the mean over both feet of five parts height and one part staying in place."""
        still = _speed_reward(physics, (-_JUMP_DRIFT, _JUMP_DRIFT), margin=_JUMP_DRIFT)
        torso = _height(physics, "torso")
        back = _raised((torso + _height(physics, "bfoot")) / 2)
        front = _raised((torso + _height(physics, "ffoot")) / 2)
        return ((5 * back + still) / 6 + (5 * front + still) / 6) / 2


def _build(task: cheetah.Cheetah) -> control.Environment:
    physics = cheetah.Physics.from_xml_string(*cheetah.get_model_and_assets())
    return control.Environment(physics, task, time_limit=_TIME_LIMIT)


def _speed_reward(physics: cheetah.Physics, bounds: tuple[float, float], margin: float) -> float:
    """Return 1 for a forward speed within `bounds`, falling linearly to 0 over `margin`."""
    return float(
        rewards.tolerance(physics.speed(), bounds, margin, value_at_margin=0, sigmoid="linear")
    )


def _height(physics: cheetah.Physics, body: str) -> float:
    return physics.named.data.xpos[body, "z"]


def _raised(height: float) -> float:
    bounds = (_RAISED_HEIGHT, np.inf)
    return float(rewards.tolerance(height, bounds, margin=_HEIGHT_MARGIN))
