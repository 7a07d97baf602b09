"""Measure the time and memory of `analysis/summarize.py`, for few trials and for very many.

    python benchmarks/summary.py [--trials 72,10000] [--formats table,json] [--repeats 3]

Writes tables of made-up numbers through `pwmray.results`, as large as a sweep's would be (1,500
curve rows and 500 episodes a trial), and runs the real command on them. Prints its seconds and core
seconds, the least of the repeats; the seconds of the first run, before which the tables leave the
file cache; and the largest resident set.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pwmray import results
from pwmray.commands import CommandParser, names, run_command
from pwmray.sweep_options import count
from pwmray.tasks import TASKS

VARIANTS = ("baseline", "flowpolicy", "flowwm", "fullflow")
ROOT = Path(__file__).resolve().parents[1]
NUM_ROWS, NUM_EPISODES = 1_500, 500  # of a trial: 15 and 5 million of 10,000
FEW = 1_000  # trials below which a sweep has the shape of phase 6
_MIB = 2**20


class Grid(NamedTuple):
    """What a sweep varies; trials are all combinations."""

    tasks: Sequence[str]
    variants: Sequence[str]
    epochs: Sequence[int]
    seeds: Sequence[int]

    @property
    def cells(self) -> list[tuple[str, str, int, int]]:
        """Return every trial's task, variant, epochs and seed."""
        return [
            (task, variant, epochs, seed)
            for variant in self.variants
            for epochs in self.epochs
            for task in self.tasks
            for seed in self.seeds
        ]


class Measured(NamedTuple):
    """What one command took."""

    seconds: float
    cpu_seconds: float  # of user and system: on a busy machine the wall tells of the others
    resident_mib: float  # the largest


def choose_grid(num_trials: int) -> Grid:
    """Return a grid of so many trials; raise ValueError where they fill none."""
    # Of the tasks as many as are needed.
    shape = (len(TASKS), 2, 4, 3) if num_trials < FEW else (len(TASKS), 4, 10, 10)
    per_task = shape[1] * shape[2] * shape[3]
    if num_trials % per_task or not 0 < num_trials // per_task <= shape[0]:
        raise ValueError(
            f"--trials: {num_trials} is no multiple of {per_task} up to {per_task * shape[0]}"
        )
    return Grid(
        tasks=list(TASKS)[: num_trials // per_task],
        variants=VARIANTS if shape[1] == 4 else ("baseline", "fullflow"),
        epochs=[15_000 * (place + 1) for place in range(shape[2])],
        seeds=range(42, 42 + shape[3]),
    )


def write_sweep(folder: Path, grid: Grid) -> None:
    """Write a sweep whose trials are all evaluated; returns rise with epochs, by chance."""
    rng = np.random.default_rng(0)
    trials = [f"{place:016x}" for place in range(len(grid.cells))]
    finals = np.array([_final_return(rng, *cell[1:3]) for cell in grid.cells])
    folder.mkdir(parents=True)
    described = {
        "name": folder.name,
        "scale": "paper",
        "compare": "epochs",
        "within": ["variant", "task"],
        "varies": ["variant", "epochs", "task", "seed"],
        "trials": trials,
    }
    (folder / "sweep.json").write_text(json.dumps(described))
    episodes = np.clip(rng.normal(finals[:, None], 30.0, (len(trials), NUM_EPISODES)), 0, 1000)
    rows = [
        _trial_row(trial, cell, float(mean))
        for trial, cell, mean in zip(trials, grid.cells, episodes.mean(axis=1), strict=True)
    ]
    results.write_rows(folder / "trials.arrow", rows, results.TRIALS)
    results.write_table(folder / "evaluations.arrow", _evaluations(trials, episodes))
    epochs = np.array([cell[2] for cell in grid.cells])
    results.write_table(folder / "curves.arrow", _curves(rng, trials, epochs, finals))


def _final_return(rng: np.random.Generator, variant: str, epochs: int) -> float:
    plateau = 600.0 + 50.0 * VARIANTS.index(variant)
    return float(np.clip(plateau * (1 - np.exp(-epochs / 40_000)) + rng.normal(0, 60), 0, 1000))


def _trial_row(trial: str, cell: tuple[str, str, int, int], mean: float) -> dict:
    from pwmray.config import TrialConfig  # torch, which must not swell who measures

    task, variant, epochs, seed = cell
    flat = {"task": task, "variant": variant, "epochs": epochs, "seed": seed}
    config = TrialConfig.from_flat({**flat, "size": 48, "evaluation.final_episodes": NUM_EPISODES})
    return {
        **flat,
        "trial": trial,
        "status": "EVALUATED",
        "world_model": config.world_model.kind,
        "policy": config.policy.kind,
        "epochs_reached": epochs,
        "methodology": config.methodology,
        "fidelity": config.fidelity.name,
        "world_model_from": config.world_model_from,
        "world_model_parameters": 18_983_909,
        "policy_parameters": 409_912,
        "critic_parameters": 1_167_603,
        "velocity_calls": 1,
        "data_fingerprint": f"data of {task}",
        "return_mean": mean,
        "imagined_start_value": 20.0,
        "real_start_value": 19.0,
        "evaluation_episodes": NUM_EPISODES,
        "evaluation_protocol": config.evaluation.protocol,
        "train_seconds": epochs / 5.0,
        "evaluation_seconds": 60.0,
        "device": "made up",
        "code_version": "0",
        "git_commit": "0",
        "torch_version": "0",
        "mujoco_version": "0",
        "config": json.dumps(config.to_dict()),
    }


def _evaluations(trials: Sequence[str], episodes: np.ndarray) -> pa.Table:
    num = len(trials)
    columns = {
        "trial": _repeat(trials, NUM_EPISODES),
        "actor": _repeat([results.POLICY], num * NUM_EPISODES),
        "episode": np.tile(np.arange(NUM_EPISODES), num),
        "seed": np.tile(1_000_000 + np.arange(NUM_EPISODES), num),
        "return": episodes.ravel(),
        "length": np.full(num * NUM_EPISODES, 500),
    }
    return pa.table(columns, schema=results.EVALUATIONS)


def _curves(
    rng: np.random.Generator, trials: Sequence[str], epochs: np.ndarray, finals: np.ndarray
) -> pa.Table:
    shape = len(trials), NUM_ROWS
    done = np.linspace(1.0 / NUM_ROWS, 1.0, NUM_ROWS)
    returns = finals[:, None] * (1.0 - np.exp(-4.0 * done)) + rng.normal(0.0, 20.0, shape)
    columns = {
        "trial": _repeat(trials, NUM_ROWS),
        "epoch": np.rint(epochs[:, None] * done).astype(np.int64).ravel(),
        "return_mean": np.clip(returns, 0.0, 1000.0).ravel(),
    }
    for name in results.CURVE.names:
        if name not in columns:
            columns[name] = rng.random(shape[0] * shape[1])
    return pa.table({n: columns[n] for n in results.CURVE.names}, schema=results.CURVE)


def _repeat(texts: Sequence[str], times: int) -> pa.Array:
    places = np.repeat(np.arange(len(texts), dtype=np.int32), times)
    return pa.array(texts).take(pa.array(places))


def measure(command: Sequence[str]) -> Measured:
    """Run a command and return what it took; raise RuntimeError with its words if it fails."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)}: {said.read().decode()}")
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / _MIB)


def forget(folder: Path) -> None:
    """Have the system drop a sweep's tables from its file cache, where it can: not in macOS."""
    if sys.platform == "darwin":
        return
    for path in folder.glob("*.arrow"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def summarize(folder: Path, format: str, repeats: int) -> tuple[Measured, list[Measured]]:
    """Return what the command takes with its tables on disk alone, and then each of the times."""
    script = str(ROOT / "analysis" / "summarize.py")
    command = [sys.executable, script, str(folder), "--format", format]
    forget(folder)
    return measure(command), [measure(command) for _ in range(repeats)]


def run(options: argparse.Namespace) -> None:
    """Print a line for each number of trials and each format."""
    for num_trials in options.trials:
        choose_grid(num_trials)
    print("| trials | curve rows | episodes | format | s | CPU s | s, tables on disk | MiB |")
    print("| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    for num_trials in options.trials:
        grid = choose_grid(num_trials)
        with tempfile.TemporaryDirectory(dir=options.folder) as made:
            folder = Path(made) / "summary_benchmark"
            _write_apart(folder, num_trials)
            for format in options.formats:
                first, times = summarize(folder, format, options.repeats)
                sizes = len(grid.cells) * NUM_ROWS, len(grid.cells) * NUM_EPISODES
                print(
                    f"| {num_trials:,} | {sizes[0]:,} | {sizes[1]:,} | {format} "
                    f"| {min(one.seconds for one in times):.2f} "
                    f"| {min(one.cpu_seconds for one in times):.2f} | {first.seconds:.2f} "
                    f"| {max(one.resident_mib for one in (first, *times)):,.0f} |",
                    flush=True,
                )


def _write_apart(folder: Path, num_trials: int) -> None:
    """Write the sweep in a process of its own: a child's resident set starts as its parent's."""
    arguments = ["--write", str(folder), "--trials", str(num_trials)]
    subprocess.run([sys.executable, str(Path(__file__).resolve()), *arguments], check=True)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in names(text)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = CommandParser(prog="summary.py", description="Time the summary of large sweeps.")
    parser.add_argument("--trials", type=_numbers, default=[72, 10_000], metavar="N,M")
    parser.add_argument("--formats", type=names, default=["table", "json"], metavar="A,B")
    parser.add_argument("--repeats", type=count, default=3, metavar="N")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for 3 GB of tables")
    parser.add_argument("--write", type=Path, metavar="DIR", help="write the tables, and stop")

    def choose() -> None:
        options = parser.parse_args(arguments)
        if options.write is None:
            run(options)
        else:
            write_sweep(options.write, choose_grid(options.trials[0]))

    return run_command(choose)


if __name__ == "__main__":
    sys.exit(main())
