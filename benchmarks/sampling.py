"""Measure how fast a task of MT30's full size opens and is sampled, and the memory it takes.

    python benchmarks/sampling.py > benchmarks/sampling.md

Makes a file of random rows of cheetah-run's sizes, 23,000 episodes of 501 rows (1.1 GB, removed at
the end), and measures in fresh processes of one thread. Times are the best of their rounds.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import machine
import numpy as np
import torch

from pwmray import provenance, system
from pwmray.commands import CommandParser, run_command, show_progress
from pwmray.data.multitask import MultitaskSampler
from pwmray.data.rows import Place
from pwmray.data.sampler import WindowSampler
from pwmray.data.store import Store, open_store, write_store
from pwmray.tasks import find_task

TASK, NUM_EPISODES, NUM_ROWS = "cheetah-run", 23_000, 501
HORIZON, BATCH_SIZE = 16, 256
NUM_TASKS = 30
ROUND = 20  # batches
NUM_ROUNDS = 2000


class Opening(NamedTuple):
    """From the file's name to a sampler that is ready, or has drawn batches."""

    what: str
    seconds: float
    anonymous_mib: float  # memory of the process's own
    resident_mib: float  # that, and the files' pages that it sees, shared with all who read them


def main() -> int:
    """Print the tables; return the exit status."""
    parser = CommandParser(description="Measure opening and sampling a full-size task.")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for the 1.1 GB file")
    return run_command(lambda: report(parser.parse_args()))


def report(options: argparse.Namespace) -> None:
    """Measure everything and print it."""
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
        show_progress("sampling") as progress,
    ):
        progress("writing the file", 0, 0)
        path, few = Path(folder) / "full.arrow", Path(folder) / "few.arrow"
        in_fresh_process(write_episodes, path, NUM_EPISODES)
        in_fresh_process(write_episodes, few, 40)
        progress("opening", 0, 0)
        openings = [
            in_fresh_process(open_one, path, 0),
            in_fresh_process(open_one, path, 1),
            in_fresh_process(open_all, path, 0),
            in_fresh_process(open_all, path, 100),
        ]
        progress("sampling", 0, 0)
        rates = {
            "40 episodes, host memory": in_fresh_process(measure, few, "memory", "cpu"),
            "host memory": in_fresh_process(measure, path, "memory", "cpu"),
            "the windows' bytes alone": in_fresh_process(measure_copying, path),
            "memory map": in_fresh_process(measure, path, "map", "cpu"),
        }
        if torch.cuda.is_available():
            gpu = torch.cuda.get_device_name()
            rates[f"{gpu}, its memory"] = in_fresh_process(measure, path, "memory", "cuda")
            rates[f"{gpu}, memory map"] = in_fresh_process(measure, path, "map", "cuda")
    print(as_markdown(openings, rates))


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what the function returns in a process that has only imported this file."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(function, *arguments).result()


def write_episodes(path: Path, num_episodes: int) -> None:
    """Write a file of random rows."""
    task, rng = find_task(TASK), np.random.default_rng(0)
    num_rows = num_episodes * NUM_ROWS
    obs = rng.standard_normal((num_rows, task.obs_dim), np.float32)
    action = rng.standard_normal((num_rows, task.action_dim), np.float32)
    reward = rng.standard_normal(num_rows, np.float32)
    lengths = [NUM_ROWS] * num_episodes
    write_store(path, TASK, obs, action, reward, lengths, ["random"] * num_episodes, {})


def open_one(path: Path, num_batches: int) -> Opening:
    """Open the file as a trial does, and draw batches."""

    def draw() -> WindowSampler:
        sampler = make_sampler(open_store(path), None, "cpu")
        for _ in range(num_batches):
            sampler.sample(BATCH_SIZE)
        return sampler

    return watch(f"one task, {num_batches} batches", draw)


def open_all(path: Path, num_batches: int) -> Opening:
    """Open the file as if it were that of each of 30 tasks, and draw batches of them."""

    def draw() -> MultitaskSampler:
        stores = [open_store(path) for _ in range(NUM_TASKS)]
        episodes = [np.arange(store.num_episodes) for store in stores]
        sampler = MultitaskSampler(stores, episodes, HORIZON, "cpu", torch.Generator())
        for _ in range(num_batches):
            sampler.sample(BATCH_SIZE)
        return sampler

    return watch(f"{NUM_TASKS} tasks, {num_batches} batches", draw)


def watch(what: str, draw: Callable[[], Any]) -> Opening:
    """Return the time of a call, and the new memory while what it returns is held."""
    # Once on a small file: what Arrow and torch load on their first use is not the file's.
    with tempfile.TemporaryDirectory() as folder:
        few = Path(folder) / "few.arrow"
        write_episodes(few, 2)
        make_sampler(open_store(few), "map", "cpu").sample(BATCH_SIZE)
    before, started = memory(), time.perf_counter()
    held = draw()
    seconds = time.perf_counter() - started
    new = {name: (value - before[name]) / 1024 for name, value in memory().items()}
    del held
    return Opening(what, seconds, new["Anonymous"], new["Rss"])


def memory() -> dict[str, int]:
    """Return this process's memory in KiB by kind, as Linux tells it."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kinds = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    return {name: kinds[name] for name in ("Rss", "Anonymous")}


def make_sampler(store: Store, place: Place | None, device: str) -> WindowSampler:
    """Return a sampler of the benchmark's batches."""
    generator = torch.Generator(device).manual_seed(0)
    return WindowSampler(store, HORIZON, device, generator, place=place)


def measure(path: Path, place: Place, device: str) -> float:
    """Return batches a second."""
    store = open_store(path)
    store.verify()  # so that all its pages are in memory
    sampler = make_sampler(store, place, device)
    return rate(lambda: sampler.sample(BATCH_SIZE), device)


def measure_copying(path: Path) -> float:
    """Return batches a second where one is a copy of its windows' unpadded rows, and no more."""
    store, task = open_store(path), find_task(TASK)
    width = task.obs_dim + task.action_dim + 1
    rows = torch.from_numpy(np.ones((store.num_rows, width), np.float32))
    shape = (store.num_rows - HORIZON, (HORIZON + 1) * width)
    windows = rows.as_strided(shape, (width, 1))
    return rate(lambda: windows.index_select(0, torch.randint(len(windows), (BATCH_SIZE,))), "cpu")


def rate(sample: Callable[[], Any], device: str) -> float:
    """Return how often a second the function can be called, from the best of many rounds."""
    torch.set_num_threads(1)
    seconds = []
    for _ in range(NUM_ROUNDS):
        started = time.perf_counter()
        for _ in range(ROUND):
            sample()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return ROUND / min(seconds)


def as_markdown(openings: list[Opening], rates: dict[str, float]) -> str:
    """Return the tables with the command, the machine and the commit."""
    commit = provenance.code()["git_commit"]
    opened = [
        f"| {o.what} | {o.seconds:.3f} | {o.anonymous_mib:.1f} | {o.resident_mib:.1f} |"
        for o in openings
    ]
    sampled = [f"| {name} | {number:,.0f} |" for name, number in rates.items()]
    return "\n".join(
        [
            "# Opening and sampling a task of full size",
            "",
            f"`python benchmarks/sampling.py`, commit {commit}, {system.num_cores()} cores of "
            f"{machine.processor()}, torch {torch.__version__}. {TASK}'s sizes, "
            f"{NUM_EPISODES:,} episodes of {NUM_ROWS} rows; one thread.",
            "",
            "| opened, and sampled | s | new MiB of its own | with the page cache it maps |",
            "|--|--|--|--|",
            *opened,
            "",
            f"| {BATCH_SIZE} windows of {HORIZON + 1} rows from | batches/s |",
            "|--|--|",
            *sampled,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
