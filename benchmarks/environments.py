"""Measure how fast environments step: dm_control's suite, gymnasium through shimmy, lockstep.

    python benchmarks/environments.py > benchmarks/environments.md

Prints microseconds a control step of one environment (an environment step has two), without
resets. All three step the same episodes with the same actions, in turns; the time of each step is
its minimum over the repeats, which excludes what else the machine did meanwhile. Then whole
episodes with a policy of 5M parameters: one after the other through shimmy, and all in lockstep.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from pwmray import provenance
from pwmray.commands import CommandParser, run_command, show_progress
from pwmray.system import quieten_dm_control
from pwmray.tasks import ACTION_REPEAT, EPISODE_STEPS, MAX_OBS_DIM, TASKS, Task, find_task

LIGHT = ("reacher", "pendulum", "cartpole", "finger-turn")  # how the names of light tasks begin
NUM_STEPS = 20  # environment steps of an episode that are timed
STEP_REPEATS, EVALUATION_REPEATS = 20, 3
NUM_EPISODES = 10  # that one environment plays in turn; lockstep plays as many, and more
NUM_FINAL_EPISODES = 50  # of a trial's final evaluation
LEVELS = ("suite", "shimmy", f"lockstep {NUM_EPISODES}", f"lockstep {NUM_FINAL_EPISODES}")
AGENT_TASKS = {task.domain: task.name for task in reversed(TASKS.values())}  # one a domain
AGENT = {"size": "5", "variant": "baseline", "seed": 0, "epochs": 1}  # untrained

Run = Callable[[], Iterator[float]]  # yields the seconds of each step


def main() -> int:
    """Print both tables as Markdown; return the exit status."""
    parser = CommandParser(description="Print how fast the environments step.")
    return run_command(lambda: report(parser.parse_args()))


def report(_: argparse.Namespace) -> None:
    """Time everything and print it."""
    quieten_dm_control()
    with show_progress("timing") as progress:
        steps, evaluations = {}, {}
        for task in TASKS:
            progress("steps", len(steps), len(TASKS))
            steps[task] = time_steps(find_task(task))
        for task in AGENT_TASKS.values():
            progress("evaluations", len(evaluations), len(AGENT_TASKS))
            evaluations[task] = time_evaluations(find_task(task))
    lines = [*_heading(), *_step_table(steps), *_evaluation_table(evaluations)]
    print("\n".join(lines))


def time_steps(task: Task) -> list[float]:
    """Return microseconds a control step at each level."""
    shape = (NUM_STEPS, NUM_FINAL_EPISODES, task.action_dim)
    actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    runs = [
        _suite_run(task, actions),
        _shimmy_run(task, actions),
        _lockstep_run(task, actions[:, :NUM_EPISODES]),
        _lockstep_run(task, actions),
    ]
    seconds = [np.full(1, np.inf) for _ in runs]
    for _ in range(STEP_REPEATS):
        seconds = [np.minimum(best, list(run())) for best, run in zip(seconds, runs, strict=True)]
    return [1e6 * best.mean() / ACTION_REPEAT for best in seconds]


def time_evaluations(task: Task) -> list[float]:
    """Return seconds of ten episodes one after the other, and in lockstep."""
    import torch

    from pwmray import envs
    from pwmray.algorithm.compiling import compile_networks
    from pwmray.algorithm.evaluate import TRAINING_GROUP, evaluate, policy_actor
    from pwmray.build import build_learner
    from pwmray.config import TrialConfig
    from pwmray.envs.vector import make_vector

    torch.set_num_threads(1)
    learner = build_learner(TrialConfig.from_flat({**AGENT, "task": task.name}))
    compile_networks(learner, [])
    act = learner.act
    single, vector = envs.make(task.name), make_vector(task.name, NUM_EPISODES)
    seeds, device = range(NUM_EPISODES), torch.device("cpu")

    def one_by_one() -> None:
        padded = torch.zeros(1, MAX_OBS_DIM)
        for seed in seeds:
            observation, _ = single.reset(seed=seed)
            for _ in range(EPISODE_STEPS):
                padded[0, : task.obs_dim] = torch.from_numpy(observation)
                observation, *_ = single.step(act(padded)[0, : task.action_dim].numpy())

    def in_lockstep() -> None:
        evaluate(policy_actor(act, TRAINING_GROUP), vector, seeds, task.action_dim, device)

    times = [
        [_seconds(run) for run in (one_by_one, in_lockstep)] for _ in range(EVALUATION_REPEATS)
    ]
    return np.min(times, axis=0).tolist()


def _suite_run(task: Task, actions: np.ndarray) -> Run:
    from pwmray.envs.environment import load

    env = load(task)

    def run() -> Iterator[float]:
        for episode in range(NUM_EPISODES):
            env.task._random = np.random.RandomState(episode)
            env.reset()
            for action in actions[:, episode]:
                started = time.perf_counter()
                for _ in range(ACTION_REPEAT):
                    env.step(action)
                yield time.perf_counter() - started

    return run


def _shimmy_run(task: Task, actions: np.ndarray) -> Run:
    from pwmray import envs

    env = envs.make(task.name)

    def run() -> Iterator[float]:
        for episode in range(NUM_EPISODES):
            env.reset(seed=episode)
            for action in actions[:, episode]:
                started = time.perf_counter()
                env.step(action)
                yield time.perf_counter() - started

    return run


def _lockstep_run(task: Task, actions: np.ndarray) -> Run:
    from pwmray.envs.vector import make_vector

    num_envs = actions.shape[1]
    vector = make_vector(task.name, num_envs)

    def run() -> Iterator[float]:
        vector.reset(seed=list(range(num_envs)))
        for action in actions:
            started = time.perf_counter()
            vector.step(action)
            yield (time.perf_counter() - started) / num_envs

    return run


def _seconds(function: Callable[[], None]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _heading() -> Iterator[str]:
    import machine

    made_by, cpu = provenance.code(), machine.processor()
    yield from ("# How fast the environments step", "")
    yield f"`python benchmarks/environments.py` at commit {made_by['git_commit']}, on one of"
    yield f"{os.cpu_count()} shared cores of {cpu}; MuJoCo {made_by['mujoco_version']}, torch"
    yield f"{made_by['torch_version']}. What each column is: see the script."


def _step_table(steps: Mapping[str, Sequence[float]]) -> Iterator[str]:
    light = [row for name, row in steps.items() if name.startswith(LIGHT)]
    yield from ("", "Microseconds a control step of one environment; ratios to the suite's.", "")
    yield f"| task | {' | '.join(LEVELS)} | ratio {NUM_EPISODES} | ratio {NUM_FINAL_EPISODES} |"
    yield "| --- |" + " ---: |" * (len(LEVELS) + 2)
    yield from (_step_row(name, row) for name, row in steps.items())
    yield _step_row("**all 30**", np.sum(list(steps.values()), axis=0))
    yield _step_row("**light ones**", np.sum(light, axis=0))
    yield from ("", f"Light ones: {', '.join(LIGHT)}.")


def _step_row(name: str, row: Sequence[float]) -> str:
    suite, _, *lockstep = row
    ratios = [f"{suite / own:.1f}" for own in lockstep]
    return f"| {' | '.join([name, *(f'{value:.1f}' for value in row), *ratios])} |"


def _evaluation_table(evaluations: Mapping[str, Sequence[float]]) -> Iterator[str]:
    yield from ("", f"Seconds of {NUM_EPISODES} episodes with a policy of 5M parameters.", "")
    yield "| task | one by one | lockstep | ratio |"
    yield "| --- | ---: | ---: | ---: |"
    total = np.sum(list(evaluations.values()), axis=0)
    for name, (single, lockstep) in [*evaluations.items(), ("**together**", total)]:
        yield f"| {name} | {single:.2f} | {lockstep:.2f} | {single / lockstep:.1f} |"


if __name__ == "__main__":
    sys.exit(main())
