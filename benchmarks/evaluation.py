"""Measure what evaluating during training costs, as a share of a paper-scale trial's time.

    ./run python benchmarks/evaluation.py

Times epochs of the update on random rows, and one evaluation as a trial makes it: the episodes of
one row of the curve, in the real environment, in lockstep, with the policy acting.
"""

import argparse
import sys
import time
from collections.abc import Sequence

import machine
import torch
import workload

from pwmray.algorithm.compiling import compile_networks
from pwmray.algorithm.epoch import make_epoch
from pwmray.algorithm.evaluate import TRAINING_GROUP, evaluate, policy_actor
from pwmray.build import build_learner
from pwmray.checks import check_least
from pwmray.commands import CommandParser, run_command, show_progress
from pwmray.config import TrialConfig
from pwmray.data.sampler import WindowSampler
from pwmray.devices import choose_device, set_up_torch
from pwmray.envs.vector import make_vector
from pwmray.seeding import generator
from pwmray.system import quieten_dm_control
from pwmray.tasks import EPISODE_STEPS, MAX_OBS_DIM, find_task
from search_spaces import BASELINE, DEV3, SCALES


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a task; return the exit status."""
    return run_command(lambda: report(_parser().parse_args(arguments)))


def report(options: argparse.Namespace) -> None:
    """Time both and print the share."""
    counts = [n for n in ("threads", "epochs", "every") if getattr(options, n) is not None]
    check_least("", options, 1, *counts)
    device = choose_device(options.device)
    quieten_dm_control()
    print(f"{'task':<14}{'epoch ms':>10}{'evaluation s':>14}{'every':>7}{'share':>8}")
    for task in DEV3:
        config = _config(task, device, options)
        set_up_torch(device, options.threads, config.learner.matmul)
        epoch, evaluation = _time_epoch(config, device, options), _time_evaluation(config, device)
        every = config.evaluation.every_epochs
        share = evaluation / (evaluation + every * epoch)
        print(
            f"{task:<14}{1e3 * epoch:>10.1f}{evaluation:>14.2f}{every:>7}{share:>8.1%}", flush=True
        )


def _config(task: str, device: torch.device, options: argparse.Namespace) -> TrialConfig:
    settings = dict(SCALES["paper"]["set"])
    if device.type == "cpu":
        settings["learner.matmul"] = "float32"
    if options.every is not None:
        settings["evaluation.every_epochs"] = options.every
    trial = {"task": task, "seed": 0, "epochs": 15_000, "variant": BASELINE}
    frozen = {"world_model_from": "nowhere", "finetune_wm": False}  # no file is read
    runtime = {"runtime.num_cpus": options.threads}
    return TrialConfig.from_flat({**settings, **trial, **frozen, **runtime})


def _time_epoch(config: TrialConfig, device: torch.device, options: argparse.Namespace) -> float:
    """Return the seconds of the fastest kind of epoch: the world model is not trained."""
    learner = build_learner(config).to(device)
    draws, noise = (generator(0, name, device) for name in ("windows", "noise"))
    store = workload.random_store(config.task, workload.NUM_EPISODES)
    sampler = WindowSampler(store, learner.window_horizon, device, draws, place="memory")
    runtime = config.runtime
    epoch = make_epoch(learner, sampler, noise, runtime.compile, runtime.cuda_graph)
    epoch(0.0)
    seconds = []
    with show_progress(f"epochs of {config.task}") as progress:
        for number in range(options.epochs):
            seconds.append(machine.time_call(lambda: epoch(0.0), device))
            progress("timing", number + 1, options.epochs)
    return min(seconds)


def _time_evaluation(config: TrialConfig, device: torch.device) -> float:
    learner, task = build_learner(config).to(device), find_task(config.task)
    if config.runtime.compile:
        compile_networks(learner, [])
    seeds = config.evaluation.training_seeds
    environments = make_vector(config.task, len(seeds), config.runtime.num_cpus)
    # Once without the clock: kernels for a GPU are compiled when first called.
    learner.act(torch.zeros(TRAINING_GROUP, MAX_OBS_DIM, device=device))
    started = time.perf_counter()
    with show_progress(f"evaluating {config.task}") as progress:
        evaluate(
            policy_actor(learner.act, TRAINING_GROUP),
            environments, seeds, task.action_dim, device,
            on_step=lambda step: progress("steps", step, EPISODE_STEPS),
        )  # fmt: skip
    return time.perf_counter() - started


def _parser() -> CommandParser:
    parser = CommandParser(description="Time a paper-scale trial's evaluations during training.")
    parser.add_argument("--device", metavar="NAME", help="cpu or cuda (default: the GPU, if any)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--epochs", type=int, default=3, metavar="N", help="timed; default: 3")
    parser.add_argument("--every", type=int, metavar="N", help="epochs a row; default: the scale's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
