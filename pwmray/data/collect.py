"""Collect a small offline dataset by rolling a task's environments.

The episodes depend on the task, the recipe and the policy that acts in some of them. Each has its
own actions or noise and its own reset seed, drawn from (recipe.seed, task, episode), however many
environments run side by side.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from pwmray.commands import Progress
from pwmray.data.behaviours import BEHAVIOURS, POLICY_NOISES
from pwmray.data.recipe import CollectionRecipe
from pwmray.tasks import EPISODE_STEPS, Task, find_task

_NUM_LOCKSTEP = 10  # environments side by side; no effect on the data
_STEPS_PER_REPORT = 10

MakeVector = Callable[[str, int], Any]  # pwmray.envs.vector.make_vector, or one like it

# Observations [n, obs_dim] in, actions [n, action_dim or more] out.
Policy = Callable[[np.ndarray], np.ndarray]
MakePolicy = Callable[[int], Policy]  # called with n


class NoPolicyError(ValueError):
    """A recipe needs a checkpoint's policy, and there is none."""


class Episodes(NamedTuple):
    """E whole episodes of T = 501 rows each, float32.

    Row t holds obs_t and the action and reward that led to it; those of row 0 are NaN.
    """

    obs: np.ndarray  # [E, T, obs_dim]
    action: np.ndarray  # [E, T, action_dim]
    reward: np.ndarray  # [E, T]
    behaviours: tuple[str, ...]  # [E], who acted


def collect(
    task: str,
    recipe: CollectionRecipe,
    make_vector: MakeVector,
    progress: Progress | None = None,
    make_policy: MakePolicy | None = None,
    round_number: int = 0,
) -> Episodes:
    """Roll the episodes of one round of `task`; about 5 to 10 seconds for 40.

    `make_vector(task, n)` makes n environments, which must keep the promises of
    pwmray.envs.vector.make_vector; `make_policy(n)` makes what acts in n of them. Raises
    NoPolicyError if the recipe needs a policy and there is none.
    """
    numbers = recipe.episodes_of(round_number)
    if make_policy is None and any(recipe.behaviour(e) in POLICY_NOISES for e in numbers):
        raise NoPolicyError(
            f"the policy of the checkpoint {recipe.policy[:12]}... collects this data of {task}"
        )
    sizes = find_task(task)
    groups = []
    for first in range(numbers.start, numbers.stop, _NUM_LOCKSTEP):
        group = range(first, min(first + _NUM_LOCKSTEP, numbers.stop))
        episodes = _plan_episodes(sizes, recipe, group)
        envs = make_vector(task, len(group))
        try:
            seeds = [_seed(sizes, recipe, episode) for episode in group]
            policy = make_policy(len(group)) if make_policy else None
            is_led = np.array([recipe.behaviour(e) in POLICY_NOISES for e in group])
            for steps in _roll(envs, seeds, policy, is_led, episodes):
                if progress and steps % _STEPS_PER_REPORT == 0:
                    done = (first - numbers.start) * EPISODE_STEPS + steps * len(group)
                    progress("collecting", done, len(numbers) * EPISODE_STEPS)
        finally:
            envs.close()
        groups.append(episodes)
    return join(groups)


def join(parts: Sequence[Episodes]) -> Episodes:
    """Return the episodes of several parts as one."""
    obs, action, reward, behaviours = zip(*parts, strict=True)
    arrays = map(np.concatenate, (obs, action, reward))
    return Episodes(*arrays, behaviours=tuple(name for part in behaviours for name in part))


def _plan_episodes(task: Task, recipe: CollectionRecipe, group: range) -> Episodes:
    """Return episodes that hold only actions, or noise for a policy's actions, to be rolled."""
    shape = (len(group), EPISODE_STEPS + 1)
    action = np.full((*shape, task.action_dim), np.nan, np.float32)
    for row, episode in zip(action, group, strict=True):
        rng = np.random.default_rng(_stream(task, recipe, episode, "actions"))
        behave = (BEHAVIOURS | POLICY_NOISES)[recipe.behaviour(episode)]
        row[1:] = behave(rng, EPISODE_STEPS, task.action_dim)
    return Episodes(
        obs=np.empty((*shape, task.obs_dim), np.float32),
        action=action,
        reward=np.full(shape, np.nan, np.float32),
        behaviours=tuple(recipe.label(episode) for episode in group),
    )


def _roll(
    envs: Any, seeds: list[int], policy: Policy | None, is_led: np.ndarray, episodes: Episodes
) -> Iterator[int]:
    """Roll the episodes and fill in their rows; yield the steps done.

    The policy acts, with noise, in the episodes that `is_led` [n] marks.
    """
    episodes.obs[:, 0], _ = envs.reset(seed=seeds)
    for step in range(1, EPISODE_STEPS + 1):
        action = episodes.action[:, step]
        if policy is not None and is_led.any():
            own = policy(episodes.obs[:, step - 1])[:, : action.shape[1]]
            action[is_led] = np.clip(own + action, -1, 1)[is_led]
        obs, reward, terminated, truncated, _ = envs.step(action)
        episodes.obs[:, step] = obs
        episodes.reward[:, step] = reward
        assert not np.any(terminated), "MT30's tasks never terminate"
        assert np.all(truncated == (step == EPISODE_STEPS)), "an episode has 500 steps"
        yield step


def _seed(task: Task, recipe: CollectionRecipe, episode: int) -> int:
    return int(_stream(task, recipe, episode, "reset").generate_state(1)[0])


def _stream(
    task: Task, recipe: CollectionRecipe, episode: int, name: str
) -> np.random.SeedSequence:
    """Return the seed sequence of one named stream of one episode."""
    return np.random.SeedSequence([recipe.seed, task.index, episode, *name.encode()])
