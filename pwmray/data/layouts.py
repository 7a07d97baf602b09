"""The published offline datasets as plain data: TD-MPC2's MT30 and MT80.

Both are files `chunk_0.pt`, `chunk_1.pt`, ... of whole episodes. MT80's episodes have 101 rows, the
length of Meta-World's; it cuts the longer episodes of MT30's tasks into five.
"""

from typing import NamedTuple

from pwmray.tasks import EPISODE_STEPS

COLLECTED = "collected"  # the source that is no published dataset, see pwmray.data.collect


class Layout(NamedTuple):
    """The layout of a published dataset; its first 30 tasks are MT30's, in pwmray.tasks' order."""

    name: str
    num_rows: int  # of an episode; row 0 is the reset
    obs_dim: int  # to which observations are padded
    action_dim: int
    num_tasks: int
    num_chunks: int  # as published
    num_episodes: int | None  # of MT30's tasks, as published; None if unknown


LAYOUTS = {
    "mt30": Layout("mt30", 501, 24, 6, num_tasks=30, num_chunks=4, num_episodes=690_000),
    "mt80": Layout("mt80", 101, 39, 6, num_tasks=80, num_chunks=20, num_episodes=None),
}
SOURCES = (COLLECTED, *LAYOUTS)  # where a trial's data can come from


def num_episode_rows(source: str) -> int:
    """Return the rows of each episode of a source of data; row 0 is the reset."""
    return LAYOUTS[source].num_rows if source in LAYOUTS else EPISODE_STEPS + 1
