"""Ball in cup: keep the ball outside, swinging it around on its string."""

import numpy as np
from dm_control.rl import control
from dm_control.suite import ball_in_cup
from dm_control.utils import rewards

_DISTANCE = 0.5  # m from ball to cup from which the reward is full
_SPEED = 6.0  # m/s of the ball
_SHARE_OF_OTHER_STARTS = 0.1  # of the episodes; in the others the ball starts in the cup
_TIME_LIMIT = 20.0  # seconds: 1000 control steps
_CONTROL_TIMESTEP = 0.02  # seconds


def spin() -> control.Environment:
    """Build cup-spin."""
    physics = ball_in_cup.Physics.from_xml_string(*ball_in_cup.get_model_and_assets())
    return control.Environment(
        physics, Spin(), time_limit=_TIME_LIMIT, control_timestep=_CONTROL_TIMESTEP
    )


class Spin(ball_in_cup.BallInCup):
    """dm_control's ball in cup, rewarded for a ball that moves fast and far from the cup."""

    def initialize_episode(self, physics: ball_in_cup.Physics) -> None:
        """Draw where the ball starts: in nine episodes of ten in the cup."""
        anywhere = self.random.uniform() < _SHARE_OF_OTHER_STARTS
        super().initialize_episode(physics)
        while not (anywhere or physics.in_target()):
            super().initialize_episode(physics)

    def get_reward(self, physics: ball_in_cup.Physics) -> float:
        """Return one part distance and two parts speed, 0 with the ball in the cup."""
        far = _linear(np.linalg.norm(physics.ball_to_target()), _DISTANCE)
        fast = _linear(np.linalg.norm(physics.named.data.qvel[["ball_x", "ball_z"]]), _SPEED)
        return float((1 - physics.in_target()) * (far + 2 * fast) / 3)


def _linear(value: np.floating, bound: float) -> float:
    """Return 1 from `bound` on, half at half of it, falling linearly."""
    return float(
        rewards.tolerance(
            value, (bound, np.inf), margin=bound / 2, value_at_margin=0.5, sigmoid="linear"
        )
    )
