"""Collect a small offline dataset by rolling a task's environments with fixed behaviours.

The episodes follow from the task and the recipe alone: each has its own actions and its own
reset seed, drawn from (recipe.seed, task, episode), however many environments run side by side.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from pwmray.commands import unknown
from pwmray.data.behaviours import BEHAVIOURS
from pwmray.data.layouts import COLLECTED, SOURCES
from pwmray.tasks import EPISODE_STEPS, Task, find_task

# Change it with the behaviours or the streams: data of another version is then not reused.
COLLECTION_FORMAT = "pwmray-collection-1"
_NUM_LOCKSTEP = 10  # environments side by side; no effect on the data
_STEPS_PER_REPORT = 10

MakeVector = Callable[[str, int], Any]  # pwmray.envs.vector.make_vector, or one like it
Progress = Callable[[str, int, int], None]  # what is going on, steps done, steps in all


@dataclass(frozen=True)
class CollectionRecipe:
    """Where a task's data comes from: collected as the other fields say, or a published dataset.

    Of a published one nothing but its name counts.
    """

    source: str = COLLECTED  # or mt30, mt80: imported with `pwmray data import`
    num_episodes: int = 40  # 500 steps each
    seed: int = 0
    # Episode i has behaviour i modulo their number, so that none is over-represented by luck.
    behaviours: tuple[str, ...] = tuple(BEHAVIOURS)

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(unknown("data.source", self.source, SOURCES))
        if self.num_episodes < 1:
            raise ValueError(f"data.num_episodes must be 1 or more, got {self.num_episodes}")
        if self.seed < 0:
            raise ValueError(f"data.seed must be 0 or more, got {self.seed}")
        wrong = [name for name in self.behaviours if name not in BEHAVIOURS]
        if wrong or not self.behaviours:
            valid = ", ".join(BEHAVIOURS)
            raise ValueError(f"unknown data.behaviours {wrong or 'none'}; valid: {valid}")

    def behaviour(self, episode: int) -> str:
        """Return the name of the episode's behaviour."""
        return self.behaviours[episode % len(self.behaviours)]

    @property
    def collection(self) -> dict[str, Any]:
        """Return what decides about collected episodes, as plain data."""
        fields = asdict(self)
        del fields["source"]
        return {"format": COLLECTION_FORMAT, **fields}

    def fingerprint(self, task: str) -> str:
        """Return 12 hex digits that stand for what is collected of this task."""
        content = {**self.collection, "task": task}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


class Episodes(NamedTuple):
    """Whole episodes, E of them with T = 501 rows, in float32.

    Row t holds obs_t and the action and reward that led to it; row 0's are NaN.
    """

    obs: np.ndarray  # [E, T, obs_dim]
    action: np.ndarray  # [E, T, action_dim]
    reward: np.ndarray  # [E, T]
    behaviours: tuple[str, ...]  # [E]


def collect(
    task: str,
    recipe: CollectionRecipe,
    make_vector: MakeVector,
    progress: Progress | None = None,
) -> Episodes:
    """Roll `recipe.num_episodes` episodes of `task`; about 5 to 10 seconds for 40.

    `make_vector(task, n)` must give environments that keep the promises of
    pwmray.envs.vector.make_vector.
    """
    sizes = find_task(task)
    episodes = _empty_episodes(sizes, recipe)
    total = recipe.num_episodes * EPISODE_STEPS
    for first in range(0, recipe.num_episodes, _NUM_LOCKSTEP):
        group = range(first, min(first + _NUM_LOCKSTEP, recipe.num_episodes))
        envs = make_vector(task, len(group))
        try:
            for steps in _roll(envs, sizes, recipe, group, episodes):
                if progress and steps % _STEPS_PER_REPORT == 0:
                    progress("collecting", first * EPISODE_STEPS + steps * len(group), total)
        finally:
            envs.close()
    return episodes


def _empty_episodes(task: Task, recipe: CollectionRecipe) -> Episodes:
    shape = (recipe.num_episodes, EPISODE_STEPS + 1)
    names = tuple(recipe.behaviour(episode) for episode in range(recipe.num_episodes))
    return Episodes(
        obs=np.empty((*shape, task.obs_dim), np.float32),
        action=np.full((*shape, task.action_dim), np.nan, np.float32),
        reward=np.full(shape, np.nan, np.float32),
        behaviours=names,
    )


def _roll(envs: Any, task: Task, recipe: CollectionRecipe, group: range, episodes: Episodes):
    """Fill the rows of the episodes in `group`; yield the number of steps done."""
    here = slice(group.start, group.stop)
    for episode in group:
        episodes.action[episode, 1:] = _actions(task, recipe, episode)
    episodes.obs[here, 0], _ = envs.reset(seed=[_seed(task, recipe, e) for e in group])
    for step in range(1, EPISODE_STEPS + 1):
        obs, reward, terminated, truncated, _ = envs.step(episodes.action[here, step])
        episodes.obs[here, step] = obs
        episodes.reward[here, step] = reward
        assert not np.any(terminated), "MT30's tasks never terminate"
        assert np.all(truncated == (step == EPISODE_STEPS)), "an episode has 500 steps"
        yield step


def _actions(task: Task, recipe: CollectionRecipe, episode: int) -> np.ndarray:
    rng = np.random.default_rng(_stream(task, recipe, episode, "actions"))
    behave = BEHAVIOURS[recipe.behaviour(episode)]
    return behave(rng, EPISODE_STEPS, task.action_dim)


def _seed(task: Task, recipe: CollectionRecipe, episode: int) -> int:
    return int(_stream(task, recipe, episode, "reset").generate_state(1)[0])


def _stream(
    task: Task, recipe: CollectionRecipe, episode: int, name: str
) -> np.random.SeedSequence:
    """Return the seed sequence of one named stream of one episode."""
    return np.random.SeedSequence([recipe.seed, task.index, episode, *name.encode()])
