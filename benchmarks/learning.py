"""Does the precision of products change what a GPU learns? Trained there, evaluated elsewhere.

    python benchmarks/learning.py data FOLDER
    python benchmarks/learning.py train FOLDER --dtype bfloat16
    python benchmarks/learning.py evaluate FOLDER

`data` collects what the laptop scale trains on, `train` leaves the policies of five training seeds
in FOLDER, and `evaluate` runs each on the final evaluation's episodes and prints a table: mean +-
sample sd over the seeds, and the difference to float32 with Welch's 95 % interval. `train` needs
only torch, numpy and pyarrow, for a GPU machine without environments; the others no GPU. Settings
are the laptop scale's, but for the widths, which are --size's.
"""

import argparse
import itertools
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from pwmray.algorithm.epoch import make_epoch
from pwmray.build import build_learner
from pwmray.commands import CommandParser, names, run_command
from pwmray.config import TrialConfig
from pwmray.data.sampler import WindowSampler
from pwmray.data.store import observation_statistics, open_store
from pwmray.devices import choose_device, set_up_torch
from pwmray.precision import FLOAT32, MATMULS
from pwmray.seeding import generator
from pwmray.tasks import find_task
from search_spaces import SCALES, TRAIN_SEEDS

TASKS = ["pendulum-spin", "cartpole-swingup"]
SEEDS = [*TRAIN_SEEDS, 789, 1011]
CONFIDENCE = 0.95
_ACTING = ("policy.", "world_model.encoder.", "world_model.task_embedding.", "world_model.obs_")

log = logging.getLogger("learning")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the three steps; return the exit status."""
    return run_command(lambda: _STEPS_OF[(options := _options(arguments)).step](options))


def collect(options: argparse.Namespace) -> int:
    """Make the data of every task, and say where it is."""
    from pwmray.driver.data_making import make_data

    recipes = [(task, _config(options, task, SEEDS[0]).data) for task in options.tasks]
    found = make_data(recipes, options.folder, lambda *_: None)
    for (task, _), path in found.items():
        path.rename(_store(options, task))
        print(_store(options, task))
    return 0


def train(options: argparse.Namespace) -> int:
    """Train every seed on every task with one kind of products; leave what acts in a file."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    device = choose_device(options.device)
    set_up_torch(device, 1, options.dtype)
    for task in options.tasks:
        states = {}
        for seed in SEEDS:
            started = time.perf_counter()
            states[seed] = _train(options, task, seed, device)
            seconds = time.perf_counter() - started
            print(f"{options.dtype} {task} seed {seed}: {seconds:.1f} s", flush=True)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
        about = {"device": name, "epochs": options.epochs, "states": states}
        torch.save(about, _trained(options, task, options.dtype))
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Print the table of all files there are."""
    from analysis.stats import mean, sample_sd, welch

    returns: dict[str, dict[str, list[float]]] = {}
    for task, dtype in itertools.product(options.tasks, MATMULS):
        path = _trained(options, task, dtype)
        if not path.exists():
            continue
        about = torch.load(path, weights_only=True)
        print(f"{path.name}: {about['epochs']} epochs on {about['device']}")
        found = [_evaluate(options, task, *run) for run in about["states"].items()]
        returns.setdefault(task, {})[dtype] = found
    if not returns:
        raise ValueError(f"{options.folder} has no policies of size {options.size}: `train` first")
    print("| task | products | return | difference, 95 % Welch |\n| --- | --- | ---: | ---: |")
    for task, by_dtype in returns.items():
        for dtype, values in by_dtype.items():
            difference = ""
            if dtype != FLOAT32 and FLOAT32 in by_dtype:
                test = welch(values, by_dtype[FLOAT32], CONFIDENCE)
                difference = f"{test.difference:.0f} [{test.low:.0f}, {test.high:.0f}]"
            spread = f"{mean(values):.1f} +- {sample_sd(values):.1f}"
            print(f"| {task} | {dtype} | {spread} | {difference} |")
    return 0


def _train(
    options: argparse.Namespace, task: str, seed: int, device: torch.device
) -> dict[str, torch.Tensor]:
    config, store = _config(options, task, seed), open_store(_store(options, task))
    learner = build_learner(config)
    wraps = config.world_model.wrap_angles
    mean, std = map(torch.from_numpy, observation_statistics(store, wraps))
    learner.world_model.set_observation_scale(mean, std)
    learner.to(device)
    windows, noise = (generator(seed, name, device) for name in ("windows", "noise"))
    sampler = WindowSampler(store, learner.window_horizon, device, windows, wrap_angles=wraps)
    epoch = make_epoch(learner, sampler, noise, compiled=True)
    for done in range(options.epochs):
        epoch(done / options.epochs)
    state = learner.state_dict()
    return {name: value.cpu() for name, value in state.items() if name.startswith(_ACTING)}


def _evaluate(
    options: argparse.Namespace, task: str, seed: int, state: dict[str, torch.Tensor]
) -> float:
    from pwmray.algorithm.evaluate import evaluate as run_episodes
    from pwmray.algorithm.evaluate import policy_actor
    from pwmray.envs.vector import make_vector

    config = _config(options, task, seed)
    learner = build_learner(config)
    missing = learner.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    seeds = config.evaluation.final_seeds
    environments = make_vector(task, len(seeds))
    action_dim = find_task(task).action_dim
    episodes = run_episodes(
        policy_actor(learner.act), environments, seeds, action_dim, torch.device("cpu")
    )
    return float(episodes.returns.mean())


def _config(options: argparse.Namespace, task: str, seed: int) -> TrialConfig:
    flat = SCALES["laptop"]["set"] | {
        "size": options.size,
        "task": task,
        "seed": seed,
        "epochs": options.epochs,
        "learner.matmul": options.dtype,
    }
    return TrialConfig.from_flat(flat)


def _store(options: argparse.Namespace, task: str) -> Path:
    return options.folder / f"{task}.store"


def _trained(options: argparse.Namespace, task: str, dtype: str) -> Path:
    return options.folder / f"{task}-{options.size}-{dtype}.pt"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(description="Compare what is learned under each kind of products.")
    parser.add_argument("step", choices=list(_STEPS_OF))
    parser.add_argument("folder", type=Path)
    add = parser.add_argument
    add("--tasks", type=names, default=TASKS, metavar="A,B", help=f"default: {','.join(TASKS)}")
    add("--size", default="5", metavar="NAME", help="default: 5")
    add("--epochs", type=int, default=250, metavar="N", help="default: 250")
    add("--dtype", default=FLOAT32, choices=MATMULS, help="of products, in training")
    add("--device", metavar="NAME", help="cpu or cuda (default: the GPU where there is one)")
    return parser.parse_args(arguments)


_STEPS_OF = {"data": collect, "train": train, "evaluate": evaluate}

if __name__ == "__main__":
    sys.exit(main())
