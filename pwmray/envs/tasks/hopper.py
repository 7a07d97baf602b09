"""Hopper: hop backwards."""

import numpy as np
from dm_control.rl import control
from dm_control.suite import hopper
from dm_control.utils import rewards

_STAND_HEIGHTS = (0.6, 2)  # m, of the torso over the foot
_SPEED = 1.0  # m/s backwards from which the reward is full: half of what hopping forwards asks
_TIME_LIMIT = 20.0  # seconds: 1000 control steps
_CONTROL_TIMESTEP = 0.02  # seconds


def hop_backwards() -> control.Environment:
    """Build hopper-hop-backwards."""
    physics = hopper.Physics.from_xml_string(*hopper.get_model_and_assets())
    return control.Environment(
        physics,
        HopBackwards(hopping=True),
        time_limit=_TIME_LIMIT,
        control_timestep=_CONTROL_TIMESTEP,
    )


class HopBackwards(hopper.Hopper):
    """dm_control's hopper, rewarded for hopping backwards."""

    def get_reward(self, physics: hopper.Physics) -> float:
        """Return 1 from 1 m/s backwards on, half at 0.5 m/s, 0 unless it stands."""
        hopping = rewards.tolerance(
            physics.speed(),
            bounds=(-np.inf, -_SPEED),
            margin=_SPEED / 2,
            value_at_margin=0.5,
            sigmoid="linear",
        )
        return float(rewards.tolerance(physics.height(), _STAND_HEIGHTS) * hopping)
