"""Pendulum: spin the pole as fast as possible, either way."""

import numpy as np
from dm_control.rl import control
from dm_control.suite import pendulum
from dm_control.utils import rewards

_SPEED = 9.0  # rad/s from which the reward is full
_TIME_LIMIT = 20.0  # seconds: 1000 control steps


def spin() -> control.Environment:
    """Build pendulum-spin."""
    physics = pendulum.Physics.from_xml_string(*pendulum.get_model_and_assets())
    return control.Environment(physics, Spin(), time_limit=_TIME_LIMIT)


class Spin(pendulum.SwingUp):
    """dm_control's pendulum, rewarded for its angular speed."""

    def get_reward(self, physics: pendulum.Physics) -> float:
        """Return 1 from 9 rad/s on, half at 4.5 rad/s, falling linearly."""
        speed = abs(physics.angular_velocity().item())
        bounds = (_SPEED, np.inf)
        return float(
            rewards.tolerance(
                speed, bounds, margin=_SPEED / 2, value_at_margin=0.5, sigmoid="linear"
            )
        )
