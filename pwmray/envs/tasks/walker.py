"""Walker: walk and run backwards."""

import numpy as np
from dm_control.rl import control
from dm_control.suite import walker
from dm_control.utils import rewards

_WALK_SPEED = 1.0  # m/s from which the reward for moving is full
_RUN_SPEED = 8.0  # m/s
_TIME_LIMIT = 25.0  # seconds: 1000 control steps
_CONTROL_TIMESTEP = 0.025  # seconds


def walk_backwards() -> control.Environment:
    """Build walker-walk-backwards."""
    return _build(MoveBackwards(_WALK_SPEED))


def run_backwards() -> control.Environment:
    """Build walker-run-backwards."""
    return _build(MoveBackwards(_RUN_SPEED))


class MoveBackwards(walker.PlanarWalker):
    """dm_control's walker, rewarded for standing and for moving backwards."""

    def __init__(self, backwards_speed: float):
        super().__init__(move_speed=0)  # rewards standing alone
        self._backwards_speed = backwards_speed

    def get_reward(self, physics: walker.Physics) -> float:
        """Return how well it stands, times one part standing and five parts speed."""
        moving = rewards.tolerance(
            physics.horizontal_velocity(),
            bounds=(-np.inf, -self._backwards_speed),
            margin=self._backwards_speed / 2,
            value_at_margin=0.5,
            sigmoid="linear",
        )
        return super().get_reward(physics) * (5 * moving + 1) / 6


def _build(task: walker.PlanarWalker) -> control.Environment:
    physics = walker.Physics.from_xml_string(*walker.get_model_and_assets())
    return control.Environment(
        physics, task, time_limit=_TIME_LIMIT, control_timestep=_CONTROL_TIMESTEP
    )
